//! Services: names, virtual addresses, ports, how an endpoint is chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service as KubeService, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_k8s_api::{Kind, ObjectKey};
use weft_types::{
    LoadBalancing, NetworkAddress, ResourceName, RoutingScope, Service, ServiceName, ServicePort,
};

use super::finding::{Findings, Note, Reason};
use super::member::{Member, namespace_must_exist};
use super::vip::Family;
use super::{Context, Memory, waypoint};

const CLUSTER_DOMAIN: &str = "svc.cluster.local";
/// Kubernetes' default, three hours.
const AFFINITY_DEFAULT_SECONDS: u32 = 10_800;

/// The full name of a service.
pub(super) fn hostname(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.{CLUSTER_DOMAIN}")
}

/// Its name in the mesh.
pub(super) fn service_name(name: &ResourceName) -> ServiceName {
    let hostname = hostname(&name.namespace, &name.name);
    ServiceName::new(name.namespace.as_ref(), hostname)
}

/// All services but those that only alias a name.
pub(super) fn services(
    context: &Context<'_>,
    members: &[Member],
    memory: &mut Memory,
    findings: &mut Findings,
) -> Vec<Service> {
    let index = context.index;
    let vips = &mut memory.virtual_addresses;
    vips.retain(|name| index.services.contains_key(name));
    let workload_addresses: BTreeSet<IpAddr> = members
        .iter()
        .flat_map(|member| member.workload.addresses.iter().copied())
        .collect();
    let (taken, mut explicit) = claimed(context, &workload_addresses, findings);
    let is_taken = |address| taken.contains(&address) || workload_addresses.contains(&address);
    let mut services = Vec::with_capacity(index.services.len());
    for (name, service) in &index.services {
        let Some(spec) = &service.spec else { continue };
        let key = ObjectKey::new(Kind::Service, name.namespace.as_ref(), name.name.as_ref());
        if refused(&key, spec, findings) {
            continue;
        }
        let mut addresses = explicit.remove(name).unwrap_or_default();
        for block in missing(spec, service, &context.mesh.service_cidrs) {
            match vips.give(name, block, is_taken) {
                Some(address) => addresses.push(address),
                None => findings.add(
                    &key,
                    Note {
                        field: "spec.clusterIP",
                        reason: Reason::Exhausted,
                        message: format!("serviceCidr {block} has no address left"),
                        effect: "published without an address of this family",
                    },
                ),
            }
        }
        services.push(self::service(
            context, name, &key, service, spec, addresses, findings,
        ));
    }
    // Hostnames sort in another order than names ("a-b." before "a."), and later steps look services up.
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}

/// The addresses that objects name, each for the first that does.
fn claimed(
    context: &Context<'_>,
    workload_addresses: &BTreeSet<IpAddr>,
    findings: &mut Findings,
) -> (BTreeSet<IpAddr>, BTreeMap<ResourceName, Vec<IpAddr>>) {
    let mut taken: BTreeMap<IpAddr, ObjectKey> = BTreeMap::new();
    let mut explicit: BTreeMap<ResourceName, Vec<IpAddr>> = BTreeMap::new();
    for (name, service) in &context.index.services {
        let key = ObjectKey::new(Kind::Service, name.namespace.as_ref(), name.name.as_ref());
        namespace_must_exist(context, &key, findings);
        let own = explicit.entry(name.clone()).or_default();
        for address in cluster_ips(service) {
            let user = match taken.get(&address) {
                Some(other) => other.to_string(),
                None if workload_addresses.contains(&address) => "a workload".to_owned(),
                None => {
                    taken.insert(address, key.clone());
                    own.push(address);
                    continue;
                }
            };
            findings.add(
                &key,
                Note {
                    field: "spec.clusterIPs",
                    reason: Reason::Conflicted,
                    message: format!("address {address} is used by {user}"),
                    effect: "published without this address",
                },
            );
        }
    }
    (taken.into_keys().collect(), explicit)
}

fn service(
    context: &Context<'_>,
    name: &ResourceName,
    key: &ObjectKey,
    service: &KubeService,
    spec: &ServiceSpec,
    addresses: Vec<IpAddr>,
    findings: &mut Findings,
) -> Service {
    let address = |address| NetworkAddress {
        network: "".into(),
        address,
    };
    Service {
        name: service_name(name),
        short_name: std::sync::Arc::clone(&name.name),
        addresses: addresses.into_iter().map(address).collect(),
        address_ranges: Vec::new(),
        ports: tcp_ports(spec)
            .map(|(port, target)| ServicePort {
                service_port: port,
                target_port: match target {
                    Target::Number(number) => number,
                    Target::Name(_) => 0,
                },
            })
            .collect(),
        subject_alt_names: Vec::new(),
        waypoint: waypoint::of_service(context, key, &service.metadata, findings),
        weighted_waypoints: Vec::new(),
        load_balancing: load_balancing(spec),
        requires_waypoint: false,
    }
}

/// Where a port of a service leads.
pub(super) enum Target<'a> {
    Number(u16),
    /// A port of the pod by name.
    Name(&'a str),
}

/// The TCP ports of a service and their targets; the mesh carries nothing else.
pub(super) fn tcp_ports(spec: &ServiceSpec) -> impl Iterator<Item = (u16, Target<'_>)> {
    let tcp = spec.ports.iter().flatten().filter(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        protocol == "TCP"
    });
    tcp.map(|port| {
        let number = |number: i32| u16::try_from(number).expect("parsing checks ports");
        let target = match &port.target_port {
            Some(IntOrString::Int(target)) => Target::Number(number(*target)),
            Some(IntOrString::String(name)) => Target::Name(name),
            None => Target::Number(number(port.port)),
        };
        (number(port.port), target)
    })
}

fn refused(key: &ObjectKey, spec: &ServiceSpec, findings: &mut Findings) -> bool {
    let mut unsupported = |field, message: &str, effect| {
        let note = Note {
            field,
            reason: Reason::UnsupportedField,
            message: message.to_owned(),
            effect,
        };
        findings.add(key, note);
    };
    if spec
        .external_ips
        .as_ref()
        .is_some_and(|ips| !ips.is_empty())
    {
        let message = "the mesh does not serve addresses from outside the cluster";
        unsupported(
            "spec.externalIPs",
            message,
            "these addresses are not published",
        );
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        let message = "a service that is only another name has no address to capture";
        unsupported("spec.type", message, "this service is not published");
        return true;
    }
    false
}

pub(super) fn is_headless(service: &KubeService) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
        || spec
            .and_then(|spec| spec.cluster_ips.as_ref())
            .is_some_and(|ips| ips.iter().any(|ip| ip == "None"))
}

/// Addresses that the object names.
fn cluster_ips(service: &KubeService) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let listed = spec.cluster_ips.iter().flatten().map(String::as_str);
    let texts = listed.chain(spec.cluster_ip.as_deref());
    let mut addresses = Vec::new();
    for text in texts.filter(|text| !["", "None"].contains(text)) {
        let address: IpAddr = text.parse().expect("parsing checks addresses");
        let address = address.to_canonical();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Blocks of the families that the service wants and has no address of.
///
/// Where it says nothing, it gets one of every family there is: in standalone no default of a cluster stands against it.
fn missing(spec: &ServiceSpec, service: &KubeService, blocks: &[IpNet]) -> Vec<IpNet> {
    if is_headless(service) {
        return Vec::new();
    }
    let present: Vec<Family> = cluster_ips(service).into_iter().map(Family::of).collect();
    let family = |block: &IpNet| Family::of(block.addr());
    let single = spec.ip_family_policy.as_deref() == Some("SingleStack");
    let wanted: Vec<Family> = match spec.ip_families.as_deref() {
        Some(families) if !families.is_empty() => families
            .iter()
            .map(|word| {
                if word == "IPv4" {
                    Family::V4
                } else {
                    Family::V6
                }
            })
            .collect(),
        // The author has chosen: nothing is added to explicit addresses.
        _ if !present.is_empty() => return Vec::new(),
        _ if single => blocks.first().map(family).into_iter().collect(),
        _ => blocks.iter().map(family).collect(),
    };
    let lacks =
        |block: &&IpNet| wanted.contains(&family(block)) && !present.contains(&family(block));
    blocks.iter().filter(lacks).copied().collect()
}

fn load_balancing(spec: &ServiceSpec) -> LoadBalancing {
    let local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let zone = [
        RoutingScope::Network,
        RoutingScope::Region,
        RoutingScope::Zone,
    ];
    let preference = match spec.traffic_distribution.as_deref() {
        _ if local => vec![RoutingScope::Node],
        Some("PreferSameZone" | "PreferClose") => zone.to_vec(),
        Some("PreferSameNode") => [&zone[..], &[RoutingScope::Node]].concat(),
        _ => Vec::new(),
    };
    let timeout = || {
        let config = spec.session_affinity_config.as_ref()?.client_ip.as_ref()?;
        u32::try_from(config.timeout_seconds?).ok()
    };
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    LoadBalancing {
        preference,
        strict: local,
        passthrough: false,
        allow_unhealthy: spec.publish_not_ready_addresses == Some(true),
        client_ip_affinity_secs: if affinity {
            timeout().unwrap_or(AFFINITY_DEFAULT_SECONDS)
        } else {
            0
        },
    }
}
