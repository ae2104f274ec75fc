//! Any domain word survives the way over the wire, and what is malformed on the wire is refused by name.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use weft_proto::convert::{MeshAddress, enrollment, policy, service, settings, workload};
use weft_proto::{Message, Problem, wire};
use weft_types::{
    Action, AddressRange, ApplicationTunnel, AuthorizationPolicy, Clause, DataplaneMode,
    Enrollment, GatewayAddress, GatewayDestination, Health, LoadBalancing, Locality, Match,
    MeshSettings, NetworkAddress, NetworkMode, OutboundMode, PolicyName, PortMapping, RoutingScope,
    Rule, Scope, Service, ServiceAccountMatch, ServiceName, ServicePort, SpiffeId, StringMatch,
    TrustDomain, TunnelProtocol, WeightedWaypoint, Workload, WorkloadKind,
};

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9.-]{1,12}".prop_map(Arc::from)
}

fn any_text() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9.-]{0,12}".prop_map(Arc::from)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    // On the wire an address is canonical: a mapped one is IPv4.
    any::<IpAddr>().prop_map(|ip| ip.to_canonical())
}

fn port() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

fn block() -> impl Strategy<Value = IpNet> {
    (ip(), any::<u8>())
        .prop_map(|(ip, length)| {
            let longest = if ip.is_ipv4() { 32 } else { 128 };
            IpNet::new(ip, length % (longest + 1)).unwrap().trunc()
        })
        .prop_filter(
            "a block around the mapped addresses reads as IPv4",
            |block| !matches!(block.addr(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()),
        )
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (text(), text()).prop_map(|(namespace, hostname)| ServiceName::new(namespace, hostname))
}

fn network_address() -> impl Strategy<Value = NetworkAddress> {
    (any_text(), ip()).prop_map(|(network, address)| NetworkAddress { network, address })
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let destination = prop_oneof![
        network_address().prop_map(GatewayDestination::Address),
        service_name().prop_map(GatewayDestination::Hostname),
    ];
    (destination, port()).prop_map(|(destination, hbone_port)| GatewayAddress {
        destination,
        hbone_port,
    })
}

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    "[a-z][a-z0-9.]{0,10}".prop_map(|text| TrustDomain::new(&text).unwrap())
}

fn spiffe() -> impl Strategy<Value = SpiffeId> {
    (trust_domain(), "[a-z]{1,8}", "[a-z]{1,8}")
        .prop_map(|(domain, ns, sa)| SpiffeId::new(domain, &ns, &sa).unwrap())
}

prop_compose! {
    fn names()(
        uid in text(), name in any_text(), namespace in any_text(), hostname in any_text(),
        network in any_text(), service_account in text(), node in any_text(),
        canonical_name in any_text(), canonical_revision in any_text(), workload_name in any_text(),
        cluster in any_text(), trust_domain in trust_domain(),
    ) -> Workload {
        Workload {
            uid: uid.to_string().into(), name, namespace, addresses: Vec::new(), hostname, network,
            tunnel: TunnelProtocol::None, trust_domain, service_account, waypoint: None,
            node: node.to_string().into(), canonical_name, canonical_revision,
            kind: WorkloadKind::Pod, workload_name, native_tunnel: false, application_tunnel: None,
            authorization_policies: Vec::new(), health: Health::Healthy, cluster,
            network_gateway: None, services: Arc::default(), locality: Locality::default(),
            network_mode: NetworkMode::Standard, capacity: 1,
        }
    }
}

fn port_mapping() -> impl Strategy<Value = PortMapping> {
    (port(), any::<u16>()).prop_map(|(service_port, target_port)| PortMapping {
        service_port,
        target_port,
    })
}

fn services() -> impl Strategy<Value = BTreeMap<ServiceName, Vec<PortMapping>>> {
    btree_map(service_name(), vec(port_mapping(), 0..3), 0..3)
}

prop_compose! {
    fn a_workload()(
        base in names(),
        addresses in vec(ip(), 0..3),
        tunnel in prop_oneof![Just(TunnelProtocol::None), Just(TunnelProtocol::Hbone), Just(TunnelProtocol::LegacyIstioMtls)],
        kind in prop_oneof![Just(WorkloadKind::Deployment), Just(WorkloadKind::CronJob), Just(WorkloadKind::Pod), Just(WorkloadKind::Job)],
        gateways in (option::of(gateway()), option::of(gateway())),
        tunnel_port in option::of((any::<bool>(), option::of(port()))),
        policies in vec((text(), text()), 0..3),
        flags in any::<[bool; 3]>(),
        services in services(),
        locality in (any_text(), any_text(), any_text()),
        capacity in any::<u32>(),
    ) -> Workload {
        Workload {
            addresses, tunnel, kind, waypoint: gateways.0, network_gateway: gateways.1,
            application_tunnel: tunnel_port.map(|(proxy_protocol, port)| ApplicationTunnel { proxy_protocol, port }),
            authorization_policies: policies.into_iter().map(|(ns, name)| PolicyName::new(ns, name)).collect(),
            native_tunnel: flags[0],
            health: if flags[1] { Health::Healthy } else { Health::Unhealthy },
            network_mode: if flags[2] { NetworkMode::Standard } else { NetworkMode::HostNetwork },
            services: services.into(),
            locality: Locality { region: locality.0, zone: locality.1, subzone: locality.2 },
            capacity,
            ..base
        }
    }
}

fn routing_scope() -> impl Strategy<Value = RoutingScope> {
    prop_oneof![
        Just(RoutingScope::Region),
        Just(RoutingScope::Zone),
        Just(RoutingScope::Subzone),
        Just(RoutingScope::Node),
        Just(RoutingScope::Cluster),
        Just(RoutingScope::Network),
    ]
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    // Preference of a service without strict or failover has no form on the wire; passthrough chooses nothing.
    prop_oneof![
        (any::<bool>(), any::<u32>()).prop_map(|(allow_unhealthy, client_ip_affinity_secs)| {
            LoadBalancing {
                allow_unhealthy,
                client_ip_affinity_secs,
                ..LoadBalancing::default()
            }
        }),
        (vec(routing_scope(), 1..4), any::<[bool; 2]>()).prop_map(|(preference, flags)| {
            LoadBalancing {
                preference,
                strict: flags[0],
                allow_unhealthy: flags[1],
                ..LoadBalancing::default()
            }
        }),
        Just(LoadBalancing {
            passthrough: true,
            ..LoadBalancing::default()
        }),
    ]
}

prop_compose! {
    fn a_service()(
        name in service_name(),
        short_name in any_text(),
        addresses in vec(network_address(), 0..3),
        ranges in vec((any_text(), any::<[u8; 4]>(), 0u8..32), 0..2),
        ports in vec((port(), any::<u16>()), 0..3),
        subject_alt_names in vec(spiffe(), 0..2),
        waypoint in option::of(gateway()),
        weighted in vec((gateway(), any::<u32>()), 0..2),
        load_balancing in load_balancing(),
        requires_waypoint in any::<bool>(),
    ) -> Service {
        Service {
            name, short_name, addresses,
            address_ranges: ranges.into_iter().map(|(network, ip, length)| AddressRange {
                network, range: IpNet::new(IpAddr::from(ip), length).unwrap().trunc(),
            }).collect(),
            ports: ports.into_iter().map(|(service_port, target_port)| ServicePort { service_port, target_port }).collect(),
            subject_alt_names, waypoint,
            weighted_waypoints: weighted.into_iter().map(|(destination, weight)| WeightedWaypoint { destination, weight }).collect(),
            load_balancing, requires_waypoint,
        }
    }
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        any::<String>().prop_map(StringMatch::Exact),
        any::<String>().prop_map(StringMatch::Prefix),
        any::<String>().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    ("[a-z]{1,5}", "[a-z]{1,5}").prop_map(|(namespace, service_account)| ServiceAccountMatch {
        namespace,
        service_account,
    })
}

prop_compose! {
    fn a_match()(
        texts in proptest::array::uniform4(vec(string_match(), 0..3)),
        blocks in proptest::array::uniform4(vec(block(), 0..3)),
        ports in proptest::array::uniform2(vec(port(), 0..3)),
        accounts in proptest::array::uniform2(vec(account(), 0..3)),
    ) -> Match {
        let [namespaces, not_namespaces, principals, not_principals] = texts;
        let [source_ips, not_source_ips, destination_ips, not_destination_ips] = blocks;
        let [destination_ports, not_destination_ports] = ports;
        let [service_accounts, not_service_accounts] = accounts;
        Match {
            namespaces, not_namespaces, principals, not_principals, source_ips, not_source_ips,
            destination_ips, not_destination_ips, destination_ports, not_destination_ports,
            service_accounts, not_service_accounts,
        }
    }
}

prop_compose! {
    fn a_policy()(
        namespace in any_text(),
        name in text(),
        scope in prop_oneof![Just(Scope::Global), Just(Scope::Namespace), Just(Scope::WorkloadSelector)],
        deny in any::<bool>(),
        rules in vec(vec(vec(a_match(), 0..2), 0..3), 0..3),
        dry_run in any::<bool>(),
    ) -> AuthorizationPolicy {
        let rules = rules.into_iter().map(|clauses| Rule {
            clauses: clauses.into_iter().map(|matches| Clause { matches }).collect(),
        });
        AuthorizationPolicy {
            name: PolicyName::new(namespace, name), scope,
            action: if deny { Action::Deny } else { Action::Allow },
            rules: rules.collect(), dry_run,
        }
    }
}

prop_compose! {
    fn an_enrollment()(
        uid in text(), name in text(), namespace in text(), service_account in text(),
        flags in any::<[bool; 2]>(), addresses in vec(ip(), 0..3), netns in option::of("/[a-z/]{1,20}"),
    ) -> Enrollment {
        Enrollment {
            uid: uid.to_string().into(), name, namespace, service_account,
            mode: if flags[0] { DataplaneMode::Ambient } else { DataplaneMode::None },
            terminating: flags[1], addresses, netns: netns.map(Into::into),
        }
    }
}

prop_compose! {
    fn a_settings()(
        trust_domain in trust_domain(), flags in any::<[bool; 4]>(), cluster in "[a-z]{1,9}",
        seconds in any::<[u32; 2]>(), pod_cidrs in vec(block(), 0..3),
    ) -> MeshSettings {
        MeshSettings {
            trust_domain, cluster, pod_cidrs,
            outbound: if flags[0] { OutboundMode::AllowAny } else { OutboundMode::RegistryOnly },
            drain_limit: Duration::from_secs(seconds[0].into()),
            certificate_ttl: Duration::from_secs(seconds[1].into()),
            require_wire_mtls: flags[1], access_log: flags[2], access_log_json: flags[3],
        }
    }
}

/// Through bytes, as on the wire.
fn over_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #[test]
    fn a_workload_survives_the_wire(value in a_workload()) {
        let value = MeshAddress::Workload(value);
        let back = MeshAddress::from_wire("x", &over_the_wire(&value.to_wire())).unwrap();
        prop_assert_eq!(back, value);
    }

    #[test]
    fn a_service_survives_the_wire(value in a_service()) {
        let value = MeshAddress::Service(value);
        let back = MeshAddress::from_wire("x", &over_the_wire(&value.to_wire())).unwrap();
        prop_assert_eq!(back, value);
    }

    #[test]
    fn a_policy_survives_the_wire(value in a_policy()) {
        let message = over_the_wire(&policy::to_wire(&value, policy::FEATURE_LEVEL));
        prop_assert_eq!(policy::from_wire(&message).unwrap(), value);
    }

    #[test]
    fn an_enrollment_survives_the_wire(value in an_enrollment()) {
        let message = over_the_wire(&enrollment::to_wire(&value));
        prop_assert_eq!(enrollment::from_wire(&message).unwrap(), value);
    }

    #[test]
    fn settings_survive_the_wire(value in a_settings()) {
        let message = over_the_wire(&settings::to_wire(&value));
        prop_assert_eq!(settings::from_wire(&message).unwrap(), value);
    }

    #[test]
    fn equal_workloads_have_equal_bytes(value in a_workload()) {
        let bytes = |value| workload::to_wire(value).encode_to_vec();
        prop_assert_eq!(bytes(&value), bytes(&value.clone()));
    }

    #[test]
    fn hostile_bytes_are_an_answer_and_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = wire::workload::Address::decode(bytes.as_slice()) {
            let _ = MeshAddress::from_wire("x", &message);
        }
        if let Ok(message) = wire::security::Authorization::decode(bytes.as_slice()) {
            let _ = policy::from_wire(&message);
            let _ = policy::refused(&message);
        }
    }
}

fn minimal_workload() -> wire::workload::Workload {
    wire::workload::Workload {
        uid: "u".into(),
        ..Default::default()
    }
}

#[test]
fn what_istio_leaves_out_gets_its_customary_value() {
    let read = workload::from_wire(&minimal_workload()).unwrap();
    assert_eq!(read.trust_domain.as_str(), "cluster.local");
    assert_eq!(&*read.service_account, "default");
    assert_eq!(read.capacity, 1);
}

#[test]
fn a_malformed_workload_is_refused_with_its_field() {
    type Break = fn(&mut wire::workload::Workload);
    let cases: [(&str, Problem, Break); 6] = [
        ("uid", Problem::Missing, |w| w.uid.clear()),
        ("addresses", Problem::AddressLength(3), |w| {
            w.addresses = vec![vec![1, 2, 3]];
        }),
        ("tunnel_protocol", Problem::UnknownValue(9), |w| {
            w.tunnel_protocol = 9;
        }),
        ("status", Problem::UnknownValue(7), |w| w.status = 7),
        ("network_mode", Problem::UnknownValue(-1), |w| {
            w.network_mode = -1;
        }),
        ("waypoint", Problem::Missing, |w| {
            w.waypoint = Some(wire::workload::GatewayAddress::default());
        }),
    ];
    for (field, problem, break_it) in cases {
        let mut message = minimal_workload();
        break_it(&mut message);
        let error = workload::from_wire(&message).unwrap_err();
        assert_eq!((error.field.as_str(), error.problem), (field, problem));
    }
}

fn policy_with(item: wire::security::Match) -> wire::security::Authorization {
    wire::security::Authorization {
        name: "p".into(),
        namespace: "ns".into(),
        scope: wire::security::Scope::Namespace.into(),
        rules: vec![wire::security::Rule {
            clauses: vec![wire::security::Clause {
                matches: vec![item],
            }],
        }],
        ..Default::default()
    }
}

#[test]
fn a_condition_that_cannot_be_judged_is_refused_and_its_stand_in_denies_all() {
    let extension = wire::workload::Extension {
        name: "x".into(),
        config: None,
    };
    let of = |change: fn(&mut wire::security::Match)| {
        let mut item = wire::security::Match::default();
        change(&mut item);
        policy_with(item)
    };
    let mut newer = policy_with(wire::security::Match::default());
    newer.extensions = policy::to_wire(
        &policy::from_wire(&newer).unwrap(),
        policy::FEATURE_LEVEL + 1,
    )
    .extensions;
    let mut foreign = policy_with(wire::security::Match::default());
    foreign.extensions = vec![extension.clone()];
    let mut unknown_action = policy_with(wire::security::Match::default());
    unknown_action.action = 2;
    let mut in_match = policy_with(wire::security::Match::default());
    in_match.rules[0].clauses[0].matches[0].extensions = vec![extension];
    let cases = [
        newer,
        foreign,
        unknown_action,
        in_match,
        of(|m| m.namespaces = vec![wire::security::StringMatch::default()]),
        of(|m| m.destination_ports = vec![70_000]),
        of(|m| m.not_destination_ports = vec![0]),
        of(|m| {
            m.source_ips = vec![wire::security::Address {
                address: vec![10, 0, 0, 0],
                length: 33,
            }];
        }),
        of(|m| m.service_accounts = vec![wire::security::ServiceAccountMatch::default()]),
    ];
    for message in cases {
        let error = policy::from_wire(&message).unwrap_err();
        assert_eq!(error.resource, "ns/p");
        let stand_in = policy::refused(&message);
        assert_eq!(
            (stand_in.scope, stand_in.action),
            (Scope::Namespace, Action::Deny)
        );
        assert_eq!(stand_in.rules, vec![Rule::default()], "{error}");
    }
}

#[test]
fn an_unknown_scope_is_refused_and_its_stand_in_is_about_everybody() {
    let mut message = policy_with(wire::security::Match::default());
    message.scope = 3;
    assert_eq!(
        policy::from_wire(&message).unwrap_err().problem,
        Problem::UnknownValue(3)
    );
    assert_eq!(policy::refused(&message).scope, Scope::Global);
}

#[test]
fn a_preference_scope_of_nothing_is_refused() {
    let message = wire::workload::Service {
        hostname: "h".into(),
        load_balancing: Some(wire::workload::LoadBalancing {
            routing_preference: vec![0],
            ..Default::default()
        }),
        ..Default::default()
    };
    let error = service::from_wire(&message).unwrap_err();
    assert_eq!(error.field, "load_balancing.routing_preference");
}
