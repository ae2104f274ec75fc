//! Pods as workloads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};
use weft_k8s_api::pod::{Phase, Pod, PodSpec};
use weft_k8s_api::{ObjectKey, labels};
use weft_types::{
    DataplaneMode, Health, Locality, NetworkMode, PodUid, ResourceName, TunnelProtocol, Workload,
    WorkloadKind, WorkloadUid,
};

use super::{
    DEFAULT_SERVICE_ACCOUNT, TUNNEL_LABEL, canonical_name, canonical_revision, mesh_label,
};
use crate::translate::finding::Findings;
use crate::translate::{Context, waypoint};

/// The workload that a pod is; `None` when it has no node yet.
pub(super) fn workload(
    context: &Context<'_>,
    key: &ObjectKey,
    pod: &Pod,
    findings: &mut Findings,
) -> Option<Workload> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.as_deref()?;
    let none = BTreeMap::new();
    let labels = metadata.labels.as_ref().unwrap_or(&none);
    let terminating = metadata.deletion_timestamp.is_some();
    let enrolled = mode(context, metadata, spec) == DataplaneMode::Ambient;
    let host_network = is_host_network(pod);
    let native_tunnel = !host_network
        && context.mesh.istio_labels
        && labels.get(TUNNEL_LABEL).is_some_and(|word| word == "http");
    let (kind, workload_name) = owner(metadata, &key.name);
    Some(Workload {
        uid: WorkloadUid::of_pod(&context.mesh.node.cluster, &key.namespace, &key.name),
        name: key.name.as_str().into(),
        namespace: key.namespace.as_str().into(),
        addresses: pod.status.addresses.clone(),
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
        canonical_name: canonical_name(labels, &workload_name),
        canonical_revision: canonical_revision(labels),
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
    })
}

/// Its addresses are the node's.
pub(super) fn is_host_network(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.is_some_and(|spec| spec.host_network)
}

/// It will never run again.
pub(in crate::translate) fn has_ended(pod: &Pod) -> bool {
    pod.status.phase == Phase::Ended
}

pub(in crate::translate) fn service_account(spec: &PodSpec) -> &str {
    match spec.service_account_name.as_deref() {
        None | Some("") => DEFAULT_SERVICE_ACCOUNT,
        Some(account) => account,
    }
}

/// `metadata.uid`, which standalone pods need not have: then one that is the same after a restart.
pub(in crate::translate) fn uid(name: &ResourceName, pod: &Pod) -> PodUid {
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
pub(in crate::translate) fn mode(
    context: &Context<'_>,
    metadata: &ObjectMeta,
    spec: &PodSpec,
) -> DataplaneMode {
    if spec.host_network {
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

/// Ready unless the status says otherwise.
fn is_ready(pod: &Pod) -> bool {
    pod.status.ready != Some(false) && pod.status.phase != Phase::Pending
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

/// Where a node is.
pub(in crate::translate) fn locality(node: &Node) -> Locality {
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
