//! Pods and WorkloadEntries as workloads, each with what services and policies select it by.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_k8s_api::networking::WorkloadEntry;
use weft_k8s_api::pod::Pod;
use weft_k8s_api::{ObjectKey, labels};
use weft_types::{ResourceName, Workload};

use super::Context;
use super::finding::{Findings, Note, Reason};
use super::members::MemberKey;

mod entry;
mod pod;

pub(super) use pod::{has_ended, locality, mode, service_account, uid};

/// What a member says about its addresses, and what decides between several that say the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) network: String,
    pub(super) addresses: Vec<IpAddr>,
    /// The addresses are the node's.
    pub(super) host_network: bool,
    /// It is being deleted.
    pub(super) terminating: bool,
    /// Creation time in seconds, to tell who was first.
    pub(super) created: i64,
}

const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// Pod label: the application speaks HBONE itself.
const TUNNEL_LABEL: &str = "networking.istio.io/tunnel";

/// What a member is made from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Pod(Arc<Pod>),
    Entry(Arc<WorkloadEntry>),
    /// An EndpointSlice that names an address no other object has.
    Slice {
        name: ResourceName,
        ready: bool,
    },
}

impl Source {
    /// A pod that has a node and has not ended.
    pub(super) fn of_pod(pod: &Arc<Pod>) -> Option<Self> {
        let placed = pod.spec.as_ref()?.node_name.is_some();
        (placed && !has_ended(pod)).then(|| Self::Pod(Arc::clone(pod)))
    }

    /// Whether it is the very same object.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pod(one), Self::Pod(other)) => Arc::ptr_eq(one, other),
            (Self::Entry(one), Self::Entry(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Labels that services and policies select by.
    pub(super) fn labels(&self) -> Cow<'_, BTreeMap<String, String>> {
        match self {
            Self::Pod(pod) => match &pod.metadata.labels {
                Some(labels) => Cow::Borrowed(labels),
                None => Cow::default(),
            },
            Self::Entry(entry) => Cow::Owned(entry::labels(entry)),
            Self::Slice { .. } => Cow::default(),
        }
    }

    /// A port by its name.
    pub(super) fn port(&self, name: &str) -> Option<u16> {
        match self {
            Self::Pod(pod) => pod.spec.as_ref()?.ports.get(name).copied(),
            Self::Entry(entry) => entry.spec.ports.get(name).map(|port| port.0),
            Self::Slice { .. } => None,
        }
    }

    /// What it says about its addresses.
    pub(super) fn claim(&self) -> Claim {
        match self {
            Self::Pod(pod) => Claim {
                network: String::new(),
                addresses: pod.status.addresses.clone(),
                host_network: pod::is_host_network(pod),
                terminating: pod.metadata.deletion_timestamp.is_some(),
                created: created(&pod.metadata),
            },
            Self::Entry(entry) => Claim {
                network: entry.spec.network.clone(),
                addresses: vec![entry.spec.address.to_canonical()],
                host_network: false,
                terminating: entry.metadata.deletion_timestamp.is_some(),
                created: created(&entry.metadata),
            },
            // It has its address because nobody else does.
            Self::Slice { .. } => Claim::default(),
        }
    }

    /// The workload, still without services and policies, and with all addresses that its object names.
    pub(super) fn workload(
        &self,
        context: &Context<'_>,
        key: &MemberKey,
        findings: &mut Findings,
    ) -> Workload {
        match (self, key.object()) {
            (Self::Pod(pod), Some(key)) => {
                namespace_must_exist(context, &key, findings);
                let workload = pod::workload(context, &key, pod, findings);
                workload.expect("a pod without a node is no member")
            }
            (Self::Entry(entry), Some(key)) => {
                namespace_must_exist(context, &key, findings);
                entry::workload(context, &key, entry)
            }
            (Self::Slice { name, ready }, _) => {
                let MemberKey::Stranger(address) = key else {
                    unreachable!("a slice makes strangers only")
                };
                entry::stranger(context, name, *address, *ready)
            }
            (Self::Pod(_) | Self::Entry(_), None) => {
                unreachable!("a stranger is made from a slice")
            }
        }
    }
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

/// When an object was made, in seconds.
pub(super) fn created(metadata: &ObjectMeta) -> i64 {
    let time = metadata.creation_timestamp.as_ref();
    // Without one it was there from the start.
    time.map_or(0, |time| time.0.as_second())
}
