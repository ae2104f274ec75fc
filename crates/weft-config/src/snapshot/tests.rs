//! Every index agrees with a plain list of what was put in, after any series of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use weft_proto::convert::{service, workload};
use weft_proto::wire::workload as wire;
use weft_types::{
    Action, AddressRange, AuthorizationPolicy, Health, NetworkAddress, NetworkMode, PolicyName,
    PortMapping, Scope, Service, ServiceName, ServicePort, Workload, WorkloadUid,
};

use super::{BrokenPolicy, Destination, PolicyEntry, SnapshotBuilder};

fn workload_of(name: &str) -> Workload {
    let message = wire::Workload {
        uid: format!("Kubernetes//Pod/ns/{name}"),
        name: name.to_owned(),
        namespace: "ns".to_owned(),
        ..wire::Workload::default()
    };
    workload::from_wire(&message).unwrap()
}

fn service_of(name: &str) -> Service {
    let message = wire::Service {
        name: name.to_owned(),
        namespace: "ns".to_owned(),
        hostname: host(name),
        ..wire::Service::default()
    };
    service::from_wire(&message).unwrap()
}

fn host(name: &str) -> String {
    format!("{name}.ns.svc.cluster.local")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vip(address: &str) -> NetworkAddress {
    NetworkAddress {
        network: "".into(),
        address: ip(address),
    }
}

fn range(range: &str) -> AddressRange {
    AddressRange {
        network: "".into(),
        range: range.parse().unwrap(),
    }
}

#[test]
fn an_address_that_two_claim_is_the_healthy_ones() {
    let mut builder = SnapshotBuilder::new();
    let claim = |name: &str, health| {
        let mut workload = workload_of(name);
        workload.addresses = vec![ip("10.0.0.1"), ip("10.0.0.1")];
        workload.health = health;
        workload
    };
    let owner = |builder: &SnapshotBuilder| {
        let snapshot = builder.build();
        let found = snapshot.workload_by_address("", ip("::ffff:10.0.0.1"));
        found.map(|workload| workload.name.to_string())
    };
    builder.put_workload(claim("ended", Health::Unhealthy));
    assert_eq!(owner(&builder).unwrap(), "ended");
    builder.put_workload(claim("live", Health::Healthy));
    builder.put_workload(claim("late", Health::Unhealthy));
    assert_eq!(owner(&builder).unwrap(), "live");
    builder.put_workload(claim("live", Health::Unhealthy));
    assert_eq!(
        owner(&builder).unwrap(),
        "live",
        "the greatest uid among equals"
    );
    builder.remove_workload(&claim("live", Health::Healthy).uid);
    builder.remove_workload(&claim("late", Health::Healthy).uid);
    assert_eq!(owner(&builder).unwrap(), "ended");
    builder.remove_workload(&claim("ended", Health::Healthy).uid);
    assert_eq!(owner(&builder), None);
}

#[test]
fn a_nodes_address_names_no_workload() {
    let mut workload = workload_of("host");
    workload.addresses = vec![ip("192.168.0.1")];
    workload.network_mode = NetworkMode::HostNetwork;
    let mut builder = SnapshotBuilder::new();
    builder.put_workload(workload);
    let snapshot = builder.build();
    assert!(
        snapshot
            .workload_by_address("", ip("192.168.0.1"))
            .is_none()
    );
    assert!(snapshot.workload_by_pod("ns", "host").is_some());
}

#[test]
fn networks_are_apart() {
    let mut workload = workload_of("far");
    workload.addresses = vec![ip("10.0.0.1")];
    workload.network = "west".into();
    let mut builder = SnapshotBuilder::new();
    builder.put_workload(workload);
    let snapshot = builder.build();
    assert!(snapshot.workload_by_address("", ip("10.0.0.1")).is_none());
    assert!(
        snapshot
            .workload_by_address("west", ip("10.0.0.1"))
            .is_some()
    );
}

#[test]
fn an_exact_address_wins_over_ranges_and_the_longest_range_over_others() {
    let mut builder = SnapshotBuilder::new();
    let mut put = |name: &str, exact: &[&str], ranges: &[&str]| {
        let mut service = service_of(name);
        service.addresses = exact.iter().map(|text| vip(text)).collect();
        service.address_ranges = ranges.iter().map(|text| range(text)).collect();
        builder.put_service(service);
    };
    put("exact", &["10.96.0.1"], &[]);
    put("wide", &[], &["10.0.0.0/8", "::/0"]);
    put("narrow", &[], &["10.96.0.0/16"]);
    put("z-same", &["10.96.0.1"], &[]);
    let snapshot = builder.build();
    let name = |address: &str| match snapshot.destination("", ip(address)) {
        Some(Destination::Service(service)) => service.short_name.to_string(),
        other => panic!("no service: {other:?}"),
    };
    assert_eq!(name("10.96.0.1"), "exact");
    assert_eq!(name("10.96.7.7"), "narrow");
    assert_eq!(name("10.1.1.1"), "wide");
    assert_eq!(name("fd00::1"), "wide");
    assert!(snapshot.service_by_address("", ip("11.0.0.1")).is_none());
    assert!(snapshot.service_by_hostname(&host("narrow")).is_some());
}

#[test]
fn an_endpoints_port_is_the_workloads_word_then_the_services() {
    let mut service = service_of("web");
    service.ports = vec![
        ServicePort {
            service_port: 80,
            target_port: 8080,
        },
        ServicePort {
            service_port: 90,
            target_port: 0,
        },
    ];
    let backing = |name: &str, ports: &[(u16, u16)]| {
        let mut workload = workload_of(name);
        let ports = ports.iter().map(|(service_port, target_port)| PortMapping {
            service_port: *service_port,
            target_port: *target_port,
        });
        let services = BTreeMap::from([(service.name.clone(), ports.collect())]);
        workload.services = Arc::new(services);
        workload
    };
    let mut builder = SnapshotBuilder::new();
    builder
        .put_workload(backing("own", &[(80, 9999), (90, 9090)]))
        .put_workload(backing("plain", &[(80, 0), (90, 0)]))
        .put_workload(backing("partial", &[(90, 9091)]));
    let snapshot = builder.build();
    let endpoints = snapshot.endpoints(&service.name).unwrap();
    let on = |port: u16| -> Vec<(String, u16)> {
        let found = endpoints.on_port(&service, port);
        found
            .map(|(workload, port)| (workload.name.to_string(), port))
            .collect()
    };
    let named = |name: &str, port: u16| (name.to_owned(), port);
    assert_eq!(on(80), [named("own", 9999), named("plain", 8080)]);
    assert_eq!(
        on(90),
        [
            named("own", 9090),
            named("partial", 9091),
            named("plain", 90)
        ]
    );
    assert!(on(443).is_empty());
}

#[test]
fn the_endpoints_of_a_service_keep_their_pointer_until_one_of_them_changes() {
    let backing = |name: &str, service: &str| {
        let mut workload = workload_of(name);
        let services = BTreeMap::from([(ServiceName::new("ns", host(service)), Vec::new())]);
        workload.services = Arc::new(services);
        workload
    };
    let web = ServiceName::new("ns", host("web"));
    let mut builder = SnapshotBuilder::new();
    builder.put_workload(backing("a", "web"));
    let before = builder.build();
    builder.put_workload(backing("b", "other"));
    let other = builder.build();
    builder.put_workload(backing("a", "web"));
    let changed = builder.build();
    let of = |snapshot: &super::Snapshot| snapshot.endpoints(&web).unwrap().clone();
    assert!(Arc::ptr_eq(&of(&before), &of(&other)));
    assert!(!Arc::ptr_eq(&of(&before), &of(&changed)));
    builder.put_workload(backing("a", "other"));
    assert!(builder.build().endpoints(&web).is_none());
}

#[test]
fn policies_apply_by_scope_and_by_name_and_missing_ones_are_seen() {
    let policy = |namespace: &str, name: &str, scope| {
        PolicyEntry::Good(Arc::new(AuthorizationPolicy {
            name: PolicyName::new(namespace, name),
            scope,
            action: Action::Allow,
            rules: Vec::new(),
            dry_run: false,
        }))
    };
    let mut builder = SnapshotBuilder::new();
    builder
        .put_policy(policy("root", "all", Scope::Global))
        .put_policy(policy("ns", "own", Scope::Namespace))
        .put_policy(policy("else", "other", Scope::Namespace))
        .put_policy(policy("ns", "picked", Scope::WorkloadSelector))
        .put_policy(policy("ns", "not-picked", Scope::WorkloadSelector))
        .put_policy(PolicyEntry::Broken(Arc::new(BrokenPolicy {
            name: PolicyName::new("ns", "odd"),
            scope: Scope::Namespace,
            reason: "drawn".into(),
        })));
    let mut workload = workload_of("a");
    let named = ["ns/picked", "ns/own", "ns/late"];
    workload.authorization_policies = named.iter().map(|name| name.parse().unwrap()).collect();
    let revision = builder.build().policies_revision();
    let applied = builder.build().policies_for(&workload);
    let names: BTreeSet<String> = applied
        .policies
        .iter()
        .map(|policy| policy.name.to_string())
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(["root/all", "ns/own", "ns/picked"].map(str::to_owned))
    );
    assert_eq!(applied.policies.len(), 3, "each once");
    assert_eq!(applied.missing, [PolicyName::new("ns", "late")]);
    assert_eq!(applied.broken, [PolicyName::new("ns", "odd")]);

    // A policy that changes its scope leaves its former one.
    builder.put_policy(policy("root", "all", Scope::WorkloadSelector));
    let after = builder.build();
    assert_eq!(after.policies_for(&workload).policies.len(), 2);
    assert!(after.policies_revision() > revision);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>, Vec<u8>, bool, bool),
    Remove(u8),
    PutService(u8, Vec<u8>),
    RemoveService(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let few = || vec(0u8..5, 0..3);
    prop_oneof![
        4 => (0u8..6, few(), few(), any::<bool>(), any::<bool>())
            .prop_map(|(n, ips, services, healthy, host)| Step::Put(n, ips, services, healthy, host)),
        2 => (0u8..6).prop_map(Step::Remove),
        2 => (0u8..5, few()).prop_map(|(n, ips)| Step::PutService(n, ips)),
        1 => select(&[0u8, 1, 2, 3, 4]).prop_map(Step::RemoveService),
    ]
}

proptest! {
    #[test]
    fn every_index_agrees_with_a_plain_list(steps in vec(step(), 1..60)) {
        let address = |n: u8| ip(&format!("10.0.0.{n}"));
        let mut builder = SnapshotBuilder::new();
        let mut workloads: BTreeMap<WorkloadUid, Workload> = BTreeMap::new();
        let mut services: BTreeMap<ServiceName, Service> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(n, ips, of, healthy, host_network) => {
                    let mut workload = workload_of(&format!("w{n}"));
                    workload.addresses = ips.into_iter().map(address).collect();
                    workload.health = if healthy { Health::Healthy } else { Health::Unhealthy };
                    if host_network {
                        workload.network_mode = NetworkMode::HostNetwork;
                    }
                    let of = of.iter().map(|s| (ServiceName::new("ns", host(&format!("s{s}"))), Vec::new()));
                    workload.services = Arc::new(of.collect());
                    workloads.insert(workload.uid.clone(), workload.clone());
                    builder.put_workload(workload);
                }
                Step::Remove(n) => {
                    let uid = workload_of(&format!("w{n}")).uid;
                    workloads.remove(&uid);
                    builder.remove_workload(&uid);
                }
                Step::PutService(n, ips) => {
                    let mut service = service_of(&format!("s{n}"));
                    service.addresses = ips.iter().map(|n| vip(&address(*n).to_string())).collect();
                    services.insert(service.name.clone(), service.clone());
                    builder.put_service(service);
                }
                Step::RemoveService(n) => {
                    let name = service_of(&format!("s{n}")).name;
                    services.remove(&name);
                    builder.remove_service(&name);
                }
            }
        }
        let snapshot = builder.build();
        prop_assert_eq!(snapshot.workloads().len(), workloads.len());
        prop_assert_eq!(snapshot.services().len(), services.len());
        for n in 0..5 {
            let claimants = workloads.values().filter(|workload| {
                workload.network_mode == NetworkMode::Standard && workload.addresses.contains(&address(n))
            });
            let best = claimants.max_by_key(|workload| (workload.health == Health::Healthy, workload.uid.clone()));
            let found = snapshot.workload_by_address("", address(n));
            prop_assert_eq!(found.map(|workload| &**workload), best);

            let owner = services.values().find(|service| service.addresses.iter().any(|vip| vip.address == address(n)));
            let found = snapshot.service_by_address("", address(n));
            prop_assert_eq!(found.map(|service| &**service), owner);

            let name = ServiceName::new("ns", host(&format!("s{n}")));
            let behind: Vec<&Workload> = workloads.values().filter(|workload| workload.services.contains_key(&name)).collect();
            let found = snapshot.endpoints(&name).map_or(Vec::new(), |endpoints| {
                endpoints.workloads().map(|workload| &**workload).collect()
            });
            prop_assert_eq!(found, behind);
        }
    }
}
