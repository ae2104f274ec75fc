//! `networking.istio.io`: WorkloadEntry, a workload that is not a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::value::Port;

/// A workload that is not a pod.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEntry {
    /// Always `networking.istio.io/v1`, `v1beta1` or `v1alpha3`, checked before.
    pub api_version: String,
    /// Always `WorkloadEntry`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What it says.
    pub spec: WorkloadEntrySpec,
    /// Written by other controllers; not read.
    pub status: Option<serde_json::Value>,
}

/// What a WorkloadEntry says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEntrySpec {
    /// Where it is. Names and Unix sockets, which Istio also takes here, are refused: they would need resolution by the mesh.
    pub address: IpAddr,
    /// Named ports.
    #[serde(default)]
    pub ports: BTreeMap<String, Port>,
    /// Labels, besides those of its metadata.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Network that the address belongs to.
    #[serde(default)]
    pub network: String,
    /// `region/zone/subzone`.
    #[serde(default)]
    pub locality: String,
    /// Weight among endpoints; 0 is 1.
    #[serde(default)]
    pub weight: u32,
    /// Service account of its identity.
    #[serde(default)]
    pub service_account: String,
}
