//! A pod, as far as the mesh reads it.
//!
//! In: a pod with all its fields, already checked. Out: a tenth of its size: a large mesh keeps a hundred thousand of them,
//! and a change of what nobody reads is none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::labels;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Metadata, without annotations that the mesh does not read and without owners that are not its controller.
    pub metadata: ObjectMeta,
    /// What it asks for; absent where the author has left it out.
    pub spec: Option<PodSpec>,
    /// What became of it.
    pub status: PodStatus,
}

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpec {
    /// Where it runs; absent while it waits for a place.
    pub node_name: Option<String>,
    /// Its service account; `default` when absent.
    pub service_account_name: Option<String>,
    /// Its addresses are the node's.
    pub host_network: bool,
    /// TCP ports of its containers by name.
    pub ports: BTreeMap<String, u16>,
}

/// What became of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStatus {
    /// Where it is in its life.
    pub phase: Phase,
    /// Its addresses, the first is its main one.
    pub addresses: Vec<IpAddr>,
    /// Its condition `Ready`, where it has one.
    pub ready: Option<bool>,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not told, or not known.
    #[default]
    Unknown,
    /// Not running yet.
    Pending,
    /// Running.
    Running,
    /// Succeeded or Failed: it will never run again.
    Ended,
}

impl From<core::Pod> for Pod {
    fn from(pod: core::Pod) -> Self {
        Self {
            metadata: metadata(pod.metadata),
            spec: pod.spec.map(spec),
            status: pod.status.as_ref().map(status).unwrap_or_default(),
        }
    }
}

fn metadata(full: ObjectMeta) -> ObjectMeta {
    let annotations = full.annotations.map(|mut annotations| {
        annotations.retain(|key, _| key == labels::NETNS);
        annotations
    });
    let owners = full.owner_references.map(|mut owners| {
        owners.retain(|owner| owner.controller == Some(true));
        for owner in &mut owners {
            owner.api_version = String::new();
            owner.uid = String::new();
        }
        owners.shrink_to_fit();
        owners
    });
    ObjectMeta {
        name: full.name,
        namespace: full.namespace,
        uid: full.uid,
        labels: full.labels,
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        owner_references: owners.filter(|owners| !owners.is_empty()),
        creation_timestamp: full.creation_timestamp,
        deletion_timestamp: full.deletion_timestamp,
        ..ObjectMeta::default()
    }
}

fn spec(full: core::PodSpec) -> PodSpec {
    let containers = full.containers.into_iter();
    let ports = containers.flat_map(|container| container.ports.into_iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let named = tcp.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((port.name?, number))
    });
    PodSpec {
        node_name: full.node_name,
        service_account_name: full.service_account_name,
        host_network: full.host_network == Some(true),
        ports: named.collect(),
    }
}

fn status(full: &core::PodStatus) -> PodStatus {
    let listed = full.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in listed.chain(full.pod_ip.as_deref()) {
        // What is no address has been found before, and the pod with it is not used.
        let address = text.parse::<IpAddr>().ok();
        let address = address.map(|address| address.to_canonical());
        addresses.extend(address.filter(|address| !addresses.contains(address)));
    }
    addresses.shrink_to_fit();
    let mut conditions = full.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    PodStatus {
        phase: match full.phase.as_deref() {
            Some("Pending") => Phase::Pending,
            Some("Running") => Phase::Running,
            Some("Succeeded" | "Failed") => Phase::Ended,
            _ => Phase::Unknown,
        },
        addresses,
        ready: ready.map(|condition| condition.status == "True"),
    }
}
