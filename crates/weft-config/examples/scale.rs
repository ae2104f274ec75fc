//! What configuration costs a proxy at scale: memory, first sync, one change. Prints, asserts nothing.
//!
//! `cargo run -p weft-config --example scale -- [WORKLOADS] [SERVICES]`
//!
//! The workloads look like a cluster's: ten replicas of each owner behind one service, on nodes of thirty pods.

#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a measuring program: its data is its own, its numbers are rounded"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use weft_config::{Snapshot, SnapshotBuilder};
use weft_proto::convert::{service, workload};
use weft_proto::wire::workload as wire;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        arguments
            .next()
            .map_or(default, |text| text.parse().unwrap())
    };
    let (workloads, services) = (number(100_000), number(10_000));
    let before = resident();

    let begin = Instant::now();
    let mut builder = SnapshotBuilder::new();
    for index in 0..services {
        builder.put_service(service::from_wire(&service_message(index)).unwrap());
    }
    for index in 0..workloads {
        builder.put_workload(workload::from_wire(&workload_message(index, services)).unwrap());
    }
    let built = builder.build();
    println!("{workloads} workloads, {services} services");
    println!("first sync: {:?}", begin.elapsed());
    println!("resident: {:.1} MB", (resident() - before) as f64 / 1e6);

    let changes = 10_000;
    let (mut total, mut worst) = (Duration::ZERO, Duration::ZERO);
    let mut held: Vec<Snapshot> = Vec::new();
    for change in 0..changes {
        let mut message = workload_message(change * 7 % workloads, services);
        message.canonical_revision = format!("v{change}");
        let next = workload::from_wire(&message).unwrap();
        let begin = Instant::now();
        builder.put_workload(next);
        let snapshot = builder.build();
        let took = begin.elapsed();
        total += took;
        worst = worst.max(took);
        // A reader of the former state, so that nothing is changed in place.
        held.truncate(0);
        held.push(snapshot);
    }
    println!(
        "one change, readers of the former state alive: mean {:?}, worst {worst:?}",
        total / changes as u32
    );

    let begin = Instant::now();
    let mut found = 0u32;
    for index in 0..workloads {
        found += u32::from(built.workload_by_address("", address(index)).is_some());
    }
    println!(
        "lookup by address: mean {:?} ({found} found)",
        begin.elapsed() / workloads as u32
    );
}

fn address(index: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + index as u32).into()
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn names(service: usize) -> (String, String) {
    (
        format!("team-{}", service % 200),
        format!("service-{service}"),
    )
}

fn host(service: usize) -> String {
    let (namespace, name) = names(service);
    format!("{name}.{namespace}.svc.cluster.local")
}

fn service_message(index: usize) -> wire::Service {
    let (namespace, name) = names(index);
    wire::Service {
        name,
        namespace,
        hostname: host(index),
        addresses: vec![wire::NetworkAddress {
            address: bytes(Ipv4Addr::from(0xac10_0000 + index as u32).into()),
            ..wire::NetworkAddress::default()
        }],
        ports: ports().ports,
        ..wire::Service::default()
    }
}

fn workload_message(index: usize, services: usize) -> wire::Workload {
    let of = index % services;
    let (namespace, owner) = names(of);
    let name = format!("{owner}-6d4cf56db6-{index:x}");
    wire::Workload {
        uid: format!("Kubernetes//Pod/{namespace}/{name}"),
        name,
        addresses: vec![bytes(address(index))],
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        service_account: owner.clone(),
        node: format!("node-{}", index / 30),
        canonical_name: owner.clone(),
        canonical_revision: "v1".to_owned(),
        workload_name: owner,
        services: BTreeMap::from([(format!("{namespace}/{}", host(of)), ports())]),
        authorization_policies: vec![format!("{namespace}/allow-some")],
        cluster_id: "Kubernetes".to_owned(),
        locality: Some(wire::Locality {
            region: "eu-west".to_owned(),
            zone: format!("eu-west-{}", index % 3),
            subzone: String::new(),
        }),
        namespace,
        ..wire::Workload::default()
    }
}

fn ports() -> wire::PortList {
    wire::PortList {
        ports: vec![wire::Port {
            service_port: 80,
            target_port: 8080,
            ..wire::Port::default()
        }],
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}
