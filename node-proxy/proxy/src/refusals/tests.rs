//! What is refused early, service by service.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_config::{Snapshot, SnapshotBuilder};
use weft_node_api::{REFUSALS_MAX, Refused};
use weft_types::{
    GatewayAddress, GatewayDestination, Health, RoutingScope, Service, ServicePort, Workload,
};

use super::Judge;
use crate::testing::{at, behind, ip, service, service_name, workload};

const VIP: &str = "10.96.0.10";

/// A mesh with the client, this service, and these workloads.
fn mesh(service: Service, workloads: impl IntoIterator<Item = Workload>) -> Snapshot {
    let mut config = SnapshotBuilder::new();
    config.put_service(service);
    config.put_workload(workload("client", "10.0.0.1"));
    for workload in workloads {
        config.put_workload(workload);
    }
    config.build()
}

fn clients(snapshot: &Snapshot) -> Vec<Arc<Workload>> {
    let client = snapshot.workload_by_address("", ip("10.0.0.1"));
    client.into_iter().cloned().collect()
}

fn refused(snapshot: &Snapshot) -> Vec<String> {
    let set = Judge::default().refused(snapshot, &clients(snapshot));
    text(&set)
}

fn text(set: &BTreeSet<Refused>) -> Vec<String> {
    let text = |one: &Refused| format!("{}:{}", one.address, one.port);
    set.iter().map(text).collect()
}

fn backend() -> Workload {
    behind(workload("server", "10.0.1.1"), "web", 80, 8080)
}

fn all(address: &str) -> Vec<String> {
    vec![format!("{address}:0")]
}

#[test]
fn a_service_is_refused_while_nobody_can_take_its_connections() {
    let none: Vec<String> = Vec::new();
    let web = || service("web", VIP);
    assert_eq!(refused(&mesh(web(), [])), all(VIP));
    assert_eq!(refused(&mesh(web(), [backend()])), none);
    let mut sick = backend();
    sick.health = Health::Unhealthy;
    assert_eq!(refused(&mesh(web(), [sick.clone()])), all(VIP));
    let mut tolerant = web();
    tolerant.load_balancing.allow_unhealthy = true;
    assert_eq!(refused(&mesh(tolerant, [sick])), none);
    let mut drained = backend();
    drained.capacity = 0;
    assert_eq!(refused(&mesh(web(), [drained])), all(VIP));
}

#[test]
fn every_address_of_both_families_is_listed_and_single_ports_by_number() {
    let mut web = service("web", VIP);
    web.addresses.push(at("fd00:10:96::10"));
    let mesh_without = mesh(web.clone(), []);
    assert_eq!(
        refused(&mesh_without),
        [all(VIP), all("fd00:10:96::10")].concat()
    );
    web.ports.push(ServicePort {
        service_port: 443,
        target_port: 8443,
    });
    assert_eq!(
        refused(&mesh(web, [backend()])),
        [format!("{VIP}:443"), "fd00:10:96::10:443".to_owned()]
    );
}

#[test]
fn what_a_waypoint_the_client_or_another_claimant_decides_is_not_listed() {
    let none: Vec<String> = Vec::new();
    let mut waypoint = service("web", VIP);
    waypoint.waypoint = Some(GatewayAddress {
        destination: GatewayDestination::Address(at("10.0.9.9")),
        hbone_port: 15008,
    });
    assert_eq!(refused(&mesh(waypoint, [])), none);
    let mut passthrough = service("web", VIP);
    passthrough.load_balancing.passthrough = true;
    assert_eq!(refused(&mesh(passthrough, [])), none);
    // A workload that owns the address comes before the service.
    assert_eq!(
        refused(&mesh(service("web", VIP), [workload("odd", VIP)])),
        none
    );
    // Another service claims the address, and the alphabetically first one gets it.
    let mut config = SnapshotBuilder::from_snapshot(&mesh(service("web", VIP), [backend()]));
    config.put_service(service("zzz", VIP));
    assert_eq!(refused(&config.build()), none);
    config.remove_service(&service_name("web"));
    assert_eq!(refused(&config.build()), all(VIP));
}

#[test]
fn a_strictly_local_service_is_refused_when_it_is_dead_for_every_pod_of_the_node() {
    let mut local = service("web", VIP);
    local.load_balancing.preference = vec![RoutingScope::Node];
    local.load_balancing.strict = true;
    let mut elsewhere = backend();
    elsewhere.node = weft_types::NodeName::new("n2");
    let mesh = mesh(local, [elsewhere]);
    assert_eq!(refused(&mesh), all(VIP));
    let mut clients = clients(&mesh);
    let mut there = Workload::clone(&clients[0]);
    there.node = weft_types::NodeName::new("n2");
    clients.push(Arc::new(there));
    assert!(Judge::default().refused(&mesh, &clients).is_empty());
    assert!(
        Judge::default().refused(&mesh, &[]).is_empty(),
        "nobody is here to be refused"
    );
}

#[test]
fn a_judge_with_memory_says_the_same_as_one_without() {
    let mut config = SnapshotBuilder::from_snapshot(&mesh(service("web", VIP), []));
    let mut judge = Judge::default();
    let mut check = |config: &SnapshotBuilder, want: &[String]| {
        let snapshot = config.build();
        assert_eq!(text(&judge.refused(&snapshot, &clients(&snapshot))), want);
        assert_eq!(refused(&snapshot), want);
    };
    check(&config, &all(VIP));
    config.put_workload(backend());
    check(&config, &[]);
    config.put_service(service("other", "10.96.0.11"));
    check(&config, &all("10.96.0.11"));
    config.remove_workload(&backend().uid);
    check(&config, &[all(VIP), all("10.96.0.11")].concat());
    config.remove_service(&service_name("web"));
    check(&config, &all("10.96.0.11"));
    config.put_service(service("web", VIP));
    config.remove_workload(&workload("client", "10.0.0.1").uid);
    check(&config, &[]);
    config.put_workload(workload("client", "10.0.0.1"));
    check(&config, &[all(VIP), all("10.96.0.11")].concat());
}

#[test]
fn what_the_map_cannot_hold_is_left_out_the_same_ones_every_time() {
    let mut config = SnapshotBuilder::new();
    config.put_workload(workload("client", "10.0.0.1"));
    for number in 0..REFUSALS_MAX + 10 {
        let address = std::net::Ipv4Addr::from(0x0a60_0000 + u32::try_from(number).unwrap());
        config.put_service(service(&format!("s{number:05}"), &address.to_string()));
    }
    let snapshot = config.build();
    let mut judge = Judge::default();
    let first = judge.refused(&snapshot, &clients(&snapshot));
    assert_eq!((first.len(), judge.omitted), (REFUSALS_MAX, 10));
    assert_eq!(judge.refused(&snapshot, &clients(&snapshot)), first);
}
