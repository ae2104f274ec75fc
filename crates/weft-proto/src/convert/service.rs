//! `istio.workload.Service`.
//!
//! Not carried: address families, `canonical`, `ingress_use_waypoint`, visibility, application protocols: they steer names and ingress, not access.

use weft_types::{
    AddressRange, LoadBalancing, RoutingScope, Service, ServiceName, ServicePort, SpiffeId,
    WeightedWaypoint,
};

use crate::convert::extension;
use crate::convert::field::{self, Resource};
use crate::error::{ConvertError, Problem};
use crate::wire::workload as wire;

/// Reads a service.
pub fn from_wire(message: &wire::Service) -> Result<Service, ConvertError> {
    let name = ServiceName::new(message.namespace.as_str(), message.hostname.as_str());
    let name_text = name.to_string();
    let resource = Resource(&name_text);
    resource.not_empty("hostname", &message.hostname)?;
    let mut service = Service {
        name,
        short_name: message.name.as_str().into(),
        addresses: Vec::with_capacity(message.addresses.len()),
        address_ranges: Vec::new(),
        ports: Vec::with_capacity(message.ports.len()),
        subject_alt_names: Vec::with_capacity(message.subject_alt_names.len()),
        waypoint: None,
        weighted_waypoints: Vec::with_capacity(message.weighted_waypoints.len()),
        load_balancing: LoadBalancing::default(),
        requires_waypoint: false,
    };
    for address in &message.addresses {
        match address.length {
            Some(length) if !field::is_single(address) => {
                let range = resource.block("addresses", &address.address, length)?;
                service.address_ranges.push(AddressRange {
                    network: address.network.as_str().into(),
                    range,
                });
            }
            _ => {
                let address = resource.network_address("addresses", address)?;
                service.addresses.push(address);
            }
        }
    }
    for port in &message.ports {
        service.ports.push(ServicePort {
            service_port: resource.port_not_zero("ports.service_port", port.service_port)?,
            target_port: resource.port("ports.target_port", port.target_port)?,
        });
    }
    for san in &message.subject_alt_names {
        let san: SpiffeId = san
            .parse()
            .map_err(|error| resource.error("subject_alt_names", Problem::Identity(error)))?;
        service.subject_alt_names.push(san);
    }
    if let Some(waypoint) = &message.waypoint {
        service.waypoint = Some(resource.gateway("waypoint", waypoint)?);
    }
    for waypoint in &message.weighted_waypoints {
        let missing = || resource.error("weighted_waypoints.destination", Problem::Missing);
        let destination = waypoint.destination.as_ref().ok_or_else(missing)?;
        service.weighted_waypoints.push(WeightedWaypoint {
            destination: resource.gateway("weighted_waypoints.destination", destination)?,
            weight: waypoint.weight,
        });
    }
    if let Some(balancing) = &message.load_balancing {
        service.load_balancing = load_balancing(resource, balancing)?;
    }
    extensions(resource, &message.extensions, &mut service)?;
    Ok(service)
}

fn extensions(
    resource: Resource<'_>,
    extensions: &[wire::Extension],
    service: &mut Service,
) -> Result<(), ConvertError> {
    for item in extensions {
        match item.name.as_str() {
            extension::CLIENT_IP_AFFINITY => {
                service.load_balancing.client_ip_affinity_secs = extension::to_u32(resource, item)?;
            }
            extension::REQUIRES_WAYPOINT => {
                service.requires_waypoint = extension::to_bool(resource, item)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes a service.
pub fn to_wire(service: &Service) -> wire::Service {
    wire::Service {
        name: service.short_name.to_string(),
        namespace: service.name.namespace.to_string(),
        hostname: service.name.hostname.to_string(),
        addresses: service
            .addresses
            .iter()
            .map(field::network_address)
            .chain(service.address_ranges.iter().map(range_to_wire))
            .collect(),
        ports: service.ports.iter().map(port_to_wire).collect(),
        subject_alt_names: service
            .subject_alt_names
            .iter()
            .map(ToString::to_string)
            .collect(),
        waypoint: service.waypoint.as_ref().map(field::gateway),
        load_balancing: load_balancing_to_wire(&service.load_balancing),
        ip_families: wire::IpFamilies::Automatic.into(),
        extensions: extensions_to_wire(service),
        canonical: false,
        ingress_use_waypoint: false,
        weighted_waypoints: service
            .weighted_waypoints
            .iter()
            .map(|waypoint| wire::WeightedWaypoint {
                destination: Some(field::gateway(&waypoint.destination)),
                weight: waypoint.weight,
            })
            .collect(),
        visibility: wire::service::Visibility::Public.into(),
    }
}

fn load_balancing(
    resource: Resource<'_>,
    message: &wire::LoadBalancing,
) -> Result<LoadBalancing, ConvertError> {
    use wire::load_balancing::{HealthPolicy, Mode, Scope};
    let scope = |value: &i32| {
        let field = "load_balancing.routing_preference";
        Ok(match resource.enumeration(field, *value)? {
            Scope::UnspecifiedScope => {
                return Err(resource.error(field, Problem::UnknownValue(*value)));
            }
            Scope::Region => RoutingScope::Region,
            Scope::Zone => RoutingScope::Zone,
            Scope::Subzone => RoutingScope::Subzone,
            Scope::Node => RoutingScope::Node,
            Scope::Cluster => RoutingScope::Cluster,
            Scope::Network => RoutingScope::Network,
        })
    };
    let mode: Mode = resource.enumeration("load_balancing.mode", message.mode)?;
    let health = resource.enumeration("load_balancing.health_policy", message.health_policy)?;
    let preference: Result<_, _> = message.routing_preference.iter().map(scope).collect();
    Ok(LoadBalancing {
        preference: preference?,
        strict: mode == Mode::Strict,
        passthrough: mode == Mode::Passthrough,
        allow_unhealthy: match health {
            HealthPolicy::OnlyHealthy => false,
            HealthPolicy::AllowAll => true,
        },
        client_ip_affinity_secs: 0,
    })
}

/// One mode on the wire: passthrough chooses no endpoint, so it wins over `strict`.
fn load_balancing_to_wire(balancing: &LoadBalancing) -> Option<wire::LoadBalancing> {
    use wire::load_balancing::{HealthPolicy, Mode, Scope};
    let mode = if balancing.passthrough {
        Mode::Passthrough
    } else if balancing.strict {
        Mode::Strict
    } else if balancing.preference.is_empty() {
        Mode::UnspecifiedMode
    } else {
        Mode::Failover
    };
    let scope = |scope: &RoutingScope| {
        i32::from(match scope {
            RoutingScope::Region => Scope::Region,
            RoutingScope::Zone => Scope::Zone,
            RoutingScope::Subzone => Scope::Subzone,
            RoutingScope::Node => Scope::Node,
            RoutingScope::Cluster => Scope::Cluster,
            RoutingScope::Network => Scope::Network,
        })
    };
    if mode == Mode::UnspecifiedMode && !balancing.allow_unhealthy {
        return None;
    }
    let health_policy = if balancing.allow_unhealthy {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    Some(wire::LoadBalancing {
        routing_preference: balancing.preference.iter().map(scope).collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    })
}

fn extensions_to_wire(service: &Service) -> Vec<wire::Extension> {
    let mut extensions = Vec::new();
    let affinity = service.load_balancing.client_ip_affinity_secs;
    if affinity != 0 {
        let extension = extension::of_u32(extension::CLIENT_IP_AFFINITY, affinity);
        extensions.push(extension);
    }
    if service.requires_waypoint {
        extensions.push(extension::of_bool(extension::REQUIRES_WAYPOINT, true));
    }
    extensions
}

fn range_to_wire(range: &AddressRange) -> wire::NetworkAddress {
    wire::NetworkAddress {
        network: range.network.to_string(),
        address: field::address_bytes(range.range.addr()),
        length: Some(range.range.prefix_len().into()),
    }
}

fn port_to_wire(port: &ServicePort) -> wire::Port {
    wire::Port {
        service_port: port.service_port.into(),
        target_port: port.target_port.into(),
        app_protocol: wire::AppProtocol::Unknown.into(),
    }
}
