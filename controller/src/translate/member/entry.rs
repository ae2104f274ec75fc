//! WorkloadEntries as workloads, and what only an EndpointSlice knows of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_k8s_api::ObjectKey;
use weft_k8s_api::networking::WorkloadEntry;
use weft_types::{
    Health, Locality, NetworkMode, ResourceName, TunnelProtocol, Workload, WorkloadKind,
};

use super::{DEFAULT_SERVICE_ACCOUNT, TUNNEL_LABEL, canonical_name, canonical_revision};
use crate::translate::Context;

/// The workload that an entry is.
pub(super) fn workload(context: &Context<'_>, key: &ObjectKey, entry: &WorkloadEntry) -> Workload {
    let spec = &entry.spec;
    let labels = labels(entry);
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
    Workload {
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
    }
}

/// Labels of the object and of what it stands for.
pub(super) fn labels(entry: &WorkloadEntry) -> BTreeMap<String, String> {
    let mut labels = entry.metadata.labels.clone().unwrap_or_default();
    labels.extend(entry.spec.labels.clone());
    labels
}

/// A workload that only a slice knows: an address, no identity, no tunnel.
pub(super) fn stranger(
    context: &Context<'_>,
    slice: &ResourceName,
    address: IpAddr,
    ready: bool,
) -> Workload {
    let cluster = &context.mesh.node.cluster;
    let uid = format!("{cluster}/discovery.k8s.io/EndpointSlice/{slice}/{address}");
    Workload {
        uid: uid.into(),
        name: Arc::clone(&slice.name),
        namespace: Arc::clone(&slice.namespace),
        addresses: vec![address],
        hostname: "".into(),
        network: "".into(),
        tunnel: TunnelProtocol::None,
        trust_domain: context.mesh.node.trust_domain.clone(),
        service_account: "default".into(),
        waypoint: None,
        node: "".into(),
        canonical_name: Arc::clone(&slice.name),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: Arc::clone(&slice.name),
        native_tunnel: false,
        application_tunnel: None,
        authorization_policies: Vec::new(),
        health: if ready {
            Health::Healthy
        } else {
            Health::Unhealthy
        },
        cluster: cluster.as_str().into(),
        network_gateway: None,
        services: Arc::default(),
        locality: Locality::default(),
        network_mode: NetworkMode::Standard,
        capacity: 1,
    }
}
