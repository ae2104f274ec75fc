//! Pods and WorkloadEntries as workloads, each with what services and policies select it by.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};
use weft_k8s_api::networking::WorkloadEntry;
use weft_k8s_api::{Kind, ObjectKey, labels};
use weft_types::{
    DataplaneMode, Health, Locality, NetworkMode, PodUid, ResourceName, TunnelProtocol, Workload,
    WorkloadKind, WorkloadUid,
};

use super::finding::{Findings, Note, Reason};
use super::{Context, waypoint};

/// A workload with what it is selected by.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) key: ObjectKey,
    pub(super) workload: Workload,
    pub(super) labels: BTreeMap<String, String>,
    /// Ports by name.
    pub(super) ports: BTreeMap<String, u16>,
    /// It is being deleted.
    pub(super) terminating: bool,
    /// Creation time in seconds, to tell who was first.
    pub(super) created: i64,
}

const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// Pod label: the application speaks HBONE itself.
const TUNNEL_LABEL: &str = "networking.istio.io/tunnel";

/// Pods that have a node and have not ended.
pub(super) fn pods(context: &Context<'_>, findings: &mut Findings) -> Vec<Member> {
    let mut members = Vec::with_capacity(context.index.pods.len());
    for (name, pod) in &context.index.pods {
        let key = ObjectKey::new(Kind::Pod, name.namespace.as_ref(), name.name.as_ref());
        namespace_must_exist(context, &key, findings);
        if let (Some(spec), false) = (&pod.spec, has_ended(pod))
            && let Some(node) = &spec.node_name
        {
            members.push(self::pod(context, &key, pod, spec, node, findings));
        }
    }
    members
}

/// A namespace that does not exist has no labels, so it enrols nothing; what is in it is treated as usual, because a policy must not go away with it.
pub(super) fn namespace_must_exist(
    context: &Context<'_>,
    key: &ObjectKey,
    findings: &mut Findings,
) {
    let exists = context.index.namespaces.contains_key(&key.namespace);
    // Kubernetes makes this one itself.
    if exists || key.namespace == "default" {
        return;
    }
    findings.add(
        key,
        Note {
            field: "metadata.namespace",
            reason: Reason::ReferenceMissing,
            message: format!("namespace {} does not exist", key.namespace),
            effect: "treated as a namespace without labels; create it",
        },
    );
}

/// It will never run again.
pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub(super) fn service_account(spec: &PodSpec) -> &str {
    match spec.service_account_name.as_deref() {
        None | Some("") => DEFAULT_SERVICE_ACCOUNT,
        Some(account) => account,
    }
}

pub(super) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses = Vec::new();
    for text in listed.chain(status.pod_ip.as_deref()) {
        let address: IpAddr = text.parse().expect("parsing checks addresses");
        let address = address.to_canonical();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// `metadata.uid`, which standalone pods need not have: then one that is the same after a restart.
pub(super) fn uid(name: &ResourceName, pod: &Pod) -> PodUid {
    if let Some(uid) = &pod.metadata.uid {
        return uid.as_str().into();
    }
    let hash = Sha256::digest(name.to_string());
    let mut text = String::with_capacity(36);
    for (index, byte) in hash.iter().take(16).enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

/// Whether the pod's traffic goes through the mesh: its own label, or else its namespace's.
pub(super) fn mode(context: &Context<'_>, metadata: &ObjectMeta, spec: &PodSpec) -> DataplaneMode {
    if spec.host_network == Some(true) {
        return DataplaneMode::None;
    }
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let namespace = context.index.namespaces.get(namespace);
    let own = mesh_label(
        context,
        metadata,
        labels::DATAPLANE_MODE,
        labels::ISTIO_DATAPLANE_MODE,
    );
    let word = own.or_else(|| {
        mesh_label(
            context,
            &namespace?.metadata,
            labels::DATAPLANE_MODE,
            labels::ISTIO_DATAPLANE_MODE,
        )
    });
    match word {
        Some(labels::AMBIENT) => DataplaneMode::Ambient,
        _ => DataplaneMode::None,
    }
}

/// A label of ours, or else Istio's name for it where those are read.
pub(super) fn mesh_label<'a>(
    context: &Context<'_>,
    metadata: &'a ObjectMeta,
    ours: &str,
    istio: &str,
) -> Option<&'a str> {
    let labels = metadata.labels.as_ref()?;
    let istio = || labels.get(istio).filter(|_| context.mesh.istio_labels);
    labels.get(ours).or_else(istio).map(String::as_str)
}

fn pod(
    context: &Context<'_>,
    key: &ObjectKey,
    pod: &Pod,
    spec: &PodSpec,
    node: &str,
    findings: &mut Findings,
) -> Member {
    let metadata = &pod.metadata;
    let labels = metadata.labels.clone().unwrap_or_default();
    let terminating = metadata.deletion_timestamp.is_some();
    let enrolled = mode(context, metadata, spec) == DataplaneMode::Ambient;
    let host_network = spec.host_network == Some(true);
    let native_tunnel = !host_network
        && context.mesh.istio_labels
        && labels.get(TUNNEL_LABEL).is_some_and(|word| word == "http");
    let (kind, workload_name) = owner(metadata, &key.name);
    let workload = Workload {
        uid: WorkloadUid::of_pod(&context.mesh.node.cluster, &key.namespace, &key.name),
        name: key.name.as_str().into(),
        namespace: key.namespace.as_str().into(),
        addresses: addresses(pod),
        hostname: "".into(),
        network: "".into(),
        tunnel: if enrolled || native_tunnel {
            TunnelProtocol::Hbone
        } else {
            TunnelProtocol::None
        },
        trust_domain: context.mesh.node.trust_domain.clone(),
        service_account: service_account(spec).into(),
        waypoint: waypoint::of_pod(context, key, metadata, findings),
        node: node.into(),
        canonical_name: canonical_name(&labels, &workload_name),
        canonical_revision: canonical_revision(&labels),
        kind,
        workload_name: workload_name.as_str().into(),
        native_tunnel,
        application_tunnel: None,
        authorization_policies: Vec::new(),
        health: if terminating || !is_ready(pod) {
            Health::Unhealthy
        } else {
            Health::Healthy
        },
        cluster: context.mesh.node.cluster.as_str().into(),
        network_gateway: None,
        services: Arc::default(),
        locality: context
            .index
            .nodes
            .get(node)
            .map(|node| locality(node))
            .unwrap_or_default(),
        network_mode: if host_network {
            NetworkMode::HostNetwork
        } else {
            NetworkMode::Standard
        },
        capacity: 1,
    };
    Member {
        key: key.clone(),
        workload,
        labels,
        ports: named_ports(spec),
        terminating,
        created: created(metadata),
    }
}

/// Ready unless the status says otherwise.
fn is_ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else {
        return true;
    };
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|condition| condition.status == "True")
        && status.phase.as_deref() != Some("Pending")
}

fn named_ports(spec: &PodSpec) -> BTreeMap<String, u16> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    let named = tcp.filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((port.name.clone()?, number))
    });
    named.collect()
}

/// What owns the pod; a ReplicaSet stands for its Deployment, whose name is its own without the template's hash.
fn owner(metadata: &ObjectMeta, pod: &str) -> (WorkloadKind, String) {
    let mut owners = metadata.owner_references.iter().flatten();
    let Some(owner) = owners.find(|owner| owner.controller == Some(true)) else {
        return (WorkloadKind::Pod, pod.to_owned());
    };
    let without_suffix = || match owner.name.rsplit_once('-') {
        Some((name, _)) => name.to_owned(),
        None => owner.name.clone(),
    };
    match owner.kind.as_str() {
        "ReplicaSet" => (WorkloadKind::Deployment, without_suffix()),
        "Job" => (WorkloadKind::Job, owner.name.clone()),
        "CronJob" => (WorkloadKind::CronJob, owner.name.clone()),
        _ => (WorkloadKind::Deployment, owner.name.clone()),
    }
}

fn canonical_name(labels: &BTreeMap<String, String>, workload: &str) -> Arc<str> {
    let name = first_label(labels, &labels::CANONICAL_NAMES);
    name.unwrap_or(workload).into()
}

fn canonical_revision(labels: &BTreeMap<String, String>) -> Arc<str> {
    let revision = first_label(labels, &labels::CANONICAL_REVISIONS);
    revision.unwrap_or("latest").into()
}

fn first_label<'a>(labels: &'a BTreeMap<String, String>, names: &[&str]) -> Option<&'a str> {
    let mut found = names.iter().filter_map(|name| labels.get(*name));
    found.next().map(String::as_str)
}

fn locality(node: &Node) -> Locality {
    let label = |name| {
        let labels = node.metadata.labels.as_ref();
        let value = labels.and_then(|labels| labels.get(name));
        value.map(String::as_str).unwrap_or_default().into()
    };
    Locality {
        region: label(labels::REGION),
        zone: label(labels::ZONE),
        subzone: label(labels::SUBZONE),
    }
}

fn created(metadata: &ObjectMeta) -> i64 {
    let time = metadata.creation_timestamp.as_ref();
    // Without one it was there from the start.
    time.map_or(0, |time| time.0.as_second())
}

/// WorkloadEntries.
pub(super) fn entries(context: &Context<'_>, findings: &mut Findings) -> Vec<Member> {
    let mut members = Vec::with_capacity(context.index.entries.len());
    for (name, entry) in &context.index.entries {
        let kind = Kind::WorkloadEntry;
        let key = ObjectKey::new(kind, name.namespace.as_ref(), name.name.as_ref());
        namespace_must_exist(context, &key, findings);
        members.push(self::entry(context, &key, entry));
    }
    members
}

fn entry(context: &Context<'_>, key: &ObjectKey, entry: &WorkloadEntry) -> Member {
    let spec = &entry.spec;
    let mut labels = entry.metadata.labels.clone().unwrap_or_default();
    labels.extend(spec.labels.clone());
    let cluster = &context.mesh.node.cluster;
    let uid = format!(
        "{cluster}/networking.istio.io/WorkloadEntry/{}/{}",
        key.namespace, key.name
    );
    let native_tunnel = labels.get(TUNNEL_LABEL).is_some_and(|word| word == "http");
    let mut place = spec.locality.split('/');
    let mut step = || place.next().unwrap_or_default().into();
    let locality = Locality {
        region: step(),
        zone: step(),
        subzone: step(),
    };
    let workload = Workload {
        uid: uid.into(),
        name: key.name.as_str().into(),
        namespace: key.namespace.as_str().into(),
        addresses: vec![spec.address.to_canonical()],
        hostname: "".into(),
        network: spec.network.as_str().into(),
        tunnel: if native_tunnel {
            TunnelProtocol::Hbone
        } else {
            TunnelProtocol::None
        },
        trust_domain: context.mesh.node.trust_domain.clone(),
        service_account: if spec.service_account.is_empty() {
            DEFAULT_SERVICE_ACCOUNT
        } else {
            &spec.service_account
        }
        .into(),
        waypoint: None,
        node: "".into(),
        canonical_name: canonical_name(&labels, &key.name),
        canonical_revision: canonical_revision(&labels),
        kind: WorkloadKind::Pod,
        workload_name: key.name.as_str().into(),
        native_tunnel,
        application_tunnel: None,
        authorization_policies: Vec::new(),
        health: Health::Healthy,
        cluster: cluster.as_str().into(),
        network_gateway: None,
        services: Arc::default(),
        locality,
        network_mode: NetworkMode::Standard,
        capacity: spec.weight.max(1),
    };
    Member {
        key: key.clone(),
        workload,
        labels,
        ports: entry_ports(entry),
        terminating: entry.metadata.deletion_timestamp.is_some(),
        created: created(&entry.metadata),
    }
}

fn entry_ports(entry: &WorkloadEntry) -> BTreeMap<String, u16> {
    let ports = entry.spec.ports.iter();
    ports.map(|(name, port)| (name.clone(), port.0)).collect()
}
