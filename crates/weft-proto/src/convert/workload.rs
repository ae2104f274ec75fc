//! `istio.workload.Workload`.
//!
//! Istio leaves out what is customary: an empty trust domain is `cluster.local`, an empty service account `default`.
//! Not carried: application protocols of ports and extensions, which only describe.

use std::collections::BTreeMap;

use weft_types::{
    ApplicationTunnel, Health, Locality, NetworkMode, PortMapping, ServiceName, TunnelProtocol,
    Workload, WorkloadKind,
};

use crate::convert::field::{self, Resource};
use crate::error::{ConvertError, Problem};
use crate::wire::workload as wire;

const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_SERVICE_ACCOUNT: &str = "default";
const DEFAULT_CAPACITY: u32 = 1;

/// Reads a workload.
pub fn from_wire(message: &wire::Workload) -> Result<Workload, ConvertError> {
    let resource = Resource(&message.uid);
    resource.not_empty("uid", &message.uid)?;
    let gateway = |field, gateway: &Option<wire::GatewayAddress>| {
        let gateway = gateway.as_ref();
        gateway
            .map(|gateway| resource.gateway(field, gateway))
            .transpose()
    };
    let locality = message.locality.clone().unwrap_or_default();
    Ok(Workload {
        uid: message.uid.as_str().into(),
        name: message.name.as_str().into(),
        namespace: message.namespace.as_str().into(),
        addresses: collect(&message.addresses, |bytes| {
            resource.address("addresses", bytes)
        })?,
        hostname: message.hostname.as_str().into(),
        network: message.network.as_str().into(),
        tunnel: tunnel(resource, message.tunnel_protocol)?,
        trust_domain: resource.trust_domain(
            "trust_domain",
            or_default(&message.trust_domain, DEFAULT_TRUST_DOMAIN),
        )?,
        service_account: or_default(&message.service_account, DEFAULT_SERVICE_ACCOUNT).into(),
        waypoint: gateway("waypoint", &message.waypoint)?,
        node: message.node.as_str().into(),
        canonical_name: message.canonical_name.as_str().into(),
        canonical_revision: message.canonical_revision.as_str().into(),
        kind: kind(resource, message.workload_type)?,
        workload_name: message.workload_name.as_str().into(),
        native_tunnel: message.native_tunnel,
        application_tunnel: message
            .application_tunnel
            .as_ref()
            .map(|tunnel| application_tunnel(resource, *tunnel))
            .transpose()?,
        authorization_policies: collect(&message.authorization_policies, |name| {
            let problem = |_| resource.error("authorization_policies", Problem::Name(name.clone()));
            name.parse().map_err(problem)
        })?,
        health: match resource.enumeration("status", message.status)? {
            wire::WorkloadStatus::Healthy => Health::Healthy,
            wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
        },
        cluster: message.cluster_id.as_str().into(),
        network_gateway: gateway("network_gateway", &message.network_gateway)?,
        services: services(resource, &message.services)?.into(),
        locality: Locality {
            region: locality.region.into(),
            zone: locality.zone.into(),
            subzone: locality.subzone.into(),
        },
        network_mode: match resource.enumeration("network_mode", message.network_mode)? {
            wire::NetworkMode::Standard => NetworkMode::Standard,
            wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
        },
        capacity: message.capacity.unwrap_or(DEFAULT_CAPACITY),
    })
}

/// Writes a workload.
pub fn to_wire(workload: &Workload) -> wire::Workload {
    wire::Workload {
        uid: workload.uid.to_string(),
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        addresses: workload
            .addresses
            .iter()
            .map(|address| field::address_bytes(*address))
            .collect(),
        hostname: workload.hostname.to_string(),
        network: workload.network.to_string(),
        tunnel_protocol: match workload.tunnel {
            TunnelProtocol::None => wire::TunnelProtocol::None,
            TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
            TunnelProtocol::LegacyIstioMtls => wire::TunnelProtocol::LegacyIstioMtls,
        }
        .into(),
        trust_domain: workload.trust_domain.to_string(),
        service_account: workload.service_account.to_string(),
        waypoint: workload.waypoint.as_ref().map(field::gateway),
        network_gateway: workload.network_gateway.as_ref().map(field::gateway),
        node: workload.node.to_string(),
        canonical_name: workload.canonical_name.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        workload_type: match workload.kind {
            WorkloadKind::Deployment => wire::WorkloadType::Deployment,
            WorkloadKind::CronJob => wire::WorkloadType::Cronjob,
            WorkloadKind::Pod => wire::WorkloadType::Pod,
            WorkloadKind::Job => wire::WorkloadType::Job,
        }
        .into(),
        workload_name: workload.workload_name.to_string(),
        native_tunnel: workload.native_tunnel,
        application_tunnel: workload.application_tunnel.map(application_tunnel_to_wire),
        services: services_to_wire(&workload.services),
        authorization_policies: workload
            .authorization_policies
            .iter()
            .map(ToString::to_string)
            .collect(),
        status: match workload.health {
            Health::Healthy => wire::WorkloadStatus::Healthy,
            Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: workload.cluster.to_string(),
        locality: locality_to_wire(&workload.locality),
        network_mode: match workload.network_mode {
            NetworkMode::Standard => wire::NetworkMode::Standard,
            NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
        }
        .into(),
        extensions: Vec::new(),
        capacity: (workload.capacity != DEFAULT_CAPACITY).then_some(workload.capacity),
    }
}

fn tunnel(resource: Resource<'_>, value: i32) -> Result<TunnelProtocol, ConvertError> {
    Ok(match resource.enumeration("tunnel_protocol", value)? {
        wire::TunnelProtocol::None => TunnelProtocol::None,
        wire::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
        wire::TunnelProtocol::LegacyIstioMtls => TunnelProtocol::LegacyIstioMtls,
    })
}

fn kind(resource: Resource<'_>, value: i32) -> Result<WorkloadKind, ConvertError> {
    Ok(match resource.enumeration("workload_type", value)? {
        wire::WorkloadType::Deployment => WorkloadKind::Deployment,
        wire::WorkloadType::Cronjob => WorkloadKind::CronJob,
        wire::WorkloadType::Pod => WorkloadKind::Pod,
        wire::WorkloadType::Job => WorkloadKind::Job,
    })
}

fn application_tunnel(
    resource: Resource<'_>,
    tunnel: wire::ApplicationTunnel,
) -> Result<ApplicationTunnel, ConvertError> {
    use wire::application_tunnel::Protocol;
    let protocol = resource.enumeration("application_tunnel.protocol", tunnel.protocol)?;
    let port = resource.port("application_tunnel.port", tunnel.port)?;
    Ok(ApplicationTunnel {
        proxy_protocol: match protocol {
            Protocol::None => false,
            Protocol::Proxy => true,
        },
        port: (port != 0).then_some(port),
    })
}

fn application_tunnel_to_wire(tunnel: ApplicationTunnel) -> wire::ApplicationTunnel {
    use wire::application_tunnel::Protocol;
    let protocol = if tunnel.proxy_protocol {
        Protocol::Proxy
    } else {
        Protocol::None
    };
    wire::ApplicationTunnel {
        protocol: protocol.into(),
        port: tunnel.port.unwrap_or(0).into(),
    }
}

fn services(
    resource: Resource<'_>,
    services: &BTreeMap<String, wire::PortList>,
) -> Result<BTreeMap<ServiceName, Vec<PortMapping>>, ConvertError> {
    let mut converted = BTreeMap::new();
    for (key, list) in services {
        let name: ServiceName = key
            .parse()
            .map_err(|_| resource.error("services", Problem::Name(key.clone())))?;
        let ports = collect(&list.ports, |port| {
            Ok(PortMapping {
                service_port: resource.port_not_zero("services.service_port", port.service_port)?,
                target_port: resource.port("services.target_port", port.target_port)?,
            })
        })?;
        converted.insert(name, ports);
    }
    Ok(converted)
}

fn services_to_wire(
    services: &BTreeMap<ServiceName, Vec<PortMapping>>,
) -> BTreeMap<String, wire::PortList> {
    let port = |mapping: &PortMapping| wire::Port {
        service_port: mapping.service_port.into(),
        target_port: mapping.target_port.into(),
        app_protocol: wire::AppProtocol::Unknown.into(),
    };
    services
        .iter()
        .map(|(name, ports)| {
            let ports = ports.iter().map(port).collect();
            (name.to_string(), wire::PortList { ports })
        })
        .collect()
}

fn locality_to_wire(locality: &Locality) -> Option<wire::Locality> {
    (*locality != Locality::default()).then(|| wire::Locality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        subzone: locality.subzone.to_string(),
    })
}

fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn collect<T, U>(
    items: &[T],
    convert: impl FnMut(&T) -> Result<U, ConvertError>,
) -> Result<Vec<U>, ConvertError> {
    items.iter().map(convert).collect()
}
