//! Services: names, virtual addresses, ports, how an endpoint is chosen.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service as KubeService, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_k8s_api::{Kind, ObjectKey};
use weft_types::{
    LoadBalancing, NetworkAddress, ResourceName, RoutingScope, Service, ServiceName, ServicePort,
};

use super::finding::{Findings, Note, Reason};
use super::member::namespace_must_exist;
use super::vip::{Family, VirtualAddresses};
use super::{Context, waypoint};

const CLUSTER_DOMAIN: &str = "svc.cluster.local";
/// Kubernetes' default, three hours.
const AFFINITY_DEFAULT_SECONDS: u32 = 10_800;

/// The full name of a service.
pub(super) fn hostname(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.{CLUSTER_DOMAIN}")
}

/// The name of its object.
pub(super) fn object_name(name: &ServiceName) -> ResourceName {
    let end = name.hostname.len() - name.namespace.len() - CLUSTER_DOMAIN.len() - 2;
    ResourceName::new(Arc::clone(&name.namespace), &name.hostname[..end])
}

/// Its name in the mesh.
pub(super) fn service_name(name: &ResourceName) -> ServiceName {
    let hostname = hostname(&name.namespace, &name.name);
    ServiceName::new(name.namespace.as_ref(), hostname)
}

/// What came of a service by itself.
pub(super) struct Outcome {
    /// `None` for one that only aliases another name, or is gone.
    pub(super) service: Option<Service>,
    /// A block has no address left for it.
    pub(super) exhausted: bool,
}

/// Translates one service; `user` says who else has an address that it names ([`first_has`], [`host_has`]), `is_taken` which addresses cannot be given.
pub(super) fn one(
    context: &Context<'_>,
    name: &ResourceName,
    user: &dyn Fn(IpAddr) -> Option<String>,
    is_taken: &dyn Fn(IpAddr) -> bool,
    given: &mut VirtualAddresses,
    findings: &mut Findings,
) -> Outcome {
    let mut outcome = Outcome {
        service: None,
        exhausted: false,
    };
    let Some(service) = context.index.services.get(name) else {
        return outcome;
    };
    let key = ObjectKey::new(Kind::Service, name.namespace.as_ref(), name.name.as_ref());
    namespace_must_exist(context, &key, findings);
    let Some(spec) = &service.spec else {
        return outcome;
    };
    if refused(&key, spec, findings) {
        return outcome;
    }
    let mut addresses = cluster_ips(service);
    addresses.retain(|address| {
        if let Some(user) = user(*address) {
            used(&key, *address, &user, findings);
            return false;
        }
        let forbidden = forbidden(context, *address);
        if let Some(forbidden) = &forbidden {
            not_an_address(&key, *address, forbidden, findings);
        }
        forbidden.is_none()
    });
    for block in wanted(context, service) {
        if let Some(address) = given.give(name, block, is_taken) {
            addresses.push(address);
        } else {
            outcome.exhausted = true;
            exhausted(context, &key, block, findings);
        }
    }
    let service = self::service(context, name, &key, service, spec, addresses, findings);
    outcome.service = Some(service);
    outcome
}

/// An address that no service may have: capturing it would take traffic away from something that is no service.
pub(super) struct Forbidden {
    /// What it is.
    what: &'static str,
    /// What to write in its place.
    instead: &'static str,
}

/// Whether no service may have an address, whoever has it now.
pub(super) fn forbidden(context: &Context<'_>, address: IpAddr) -> Option<Forbidden> {
    let (link_local, broadcast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    let kinds = [
        (address.is_unspecified(), "the unspecified address"),
        (address.is_loopback(), "a loopback address"),
        (address.is_multicast(), "a multicast address"),
        (link_local, "a link-local address"),
        (broadcast, "the broadcast address"),
        (
            context.own.contains(&address),
            "the controller's own address",
        ),
    ];
    if let Some((_, what)) = kinds.iter().find(|(is_kind, _)| *is_kind) {
        let instead = "another one";
        return Some(Forbidden { what, instead });
    }
    let pods = &context.mesh.node.pod_cidrs;
    let of_pods = Forbidden {
        what: "within podCidrs, where a pod to come may get it",
        instead: "one outside of the pods' ranges",
    };
    let is_within = pods.iter().any(|block| block.contains(&address));
    is_within.then_some(of_pods)
}

fn not_an_address(
    key: &ObjectKey,
    address: IpAddr,
    forbidden: &Forbidden,
    findings: &mut Findings,
) {
    let Forbidden { what, instead } = forbidden;
    findings.add(
        key,
        Note {
            field: "spec.clusterIPs",
            reason: Reason::InvalidAddress,
            message: format!("{address} is {what}; write {instead}, or none to be given one"),
            effect: "published without this address",
        },
    );
}

/// Who has an address because it came first, and what to do.
pub(super) fn first_has(user: &dyn Display) -> String {
    format!("{user}, which has it first; give one of the two another address")
}

/// Which host has an address, and what to do.
pub(super) fn host_has(host: &ObjectKey) -> String {
    format!(
        "{host}, and a host's address can be no Service's; write another one, or none to be given one"
    )
}

fn used(key: &ObjectKey, address: IpAddr, user: &str, findings: &mut Findings) {
    findings.add(
        key,
        Note {
            field: "spec.clusterIPs",
            reason: Reason::Conflicted,
            message: format!("address {address} is used by {user}"),
            effect: "published without this address until the other lets go of it",
        },
    );
}

fn exhausted(context: &Context<'_>, key: &ObjectKey, block: IpNet, findings: &mut Findings) {
    let mut pods = context.mesh.node.pod_cidrs.iter();
    let overlaps = pods.any(|pods| pods.contains(&block) || block.contains(pods));
    let outside = if overlaps { " outside of podCidrs" } else { "" };
    findings.add(
        key,
        Note {
            field: "spec.clusterIP",
            reason: Reason::Exhausted,
            message: format!("serviceCidr {block} has no address left{outside}"),
            effect: "published without an address of this family",
        },
    );
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
        short_name: Arc::clone(&name.name),
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

/// Addresses that the object names, if it is published.
pub(super) fn named(service: &KubeService) -> Vec<IpAddr> {
    if is_published(service) {
        cluster_ips(service)
    } else {
        Vec::new()
    }
}

/// Addresses that the object names and may have.
pub(super) fn claims(context: &Context<'_>, service: &KubeService) -> Vec<IpAddr> {
    let mut addresses = named(service);
    addresses.retain(|address| forbidden(context, *address).is_none());
    addresses
}

/// One that is only another name, or has no specification, is not.
fn is_published(service: &KubeService) -> bool {
    let kind = |spec: &ServiceSpec| spec.type_.as_deref() != Some("ExternalName");
    service.spec.as_ref().is_some_and(kind)
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
pub(super) fn wanted(context: &Context<'_>, service: &KubeService) -> Vec<IpNet> {
    let blocks = &context.mesh.service_cidrs;
    let published = is_published(service) && !is_headless(service);
    let Some(spec) = service.spec.as_ref().filter(|_| published) else {
        return Vec::new();
    };
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
