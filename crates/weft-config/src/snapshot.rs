//! What the controller said, as one immutable value.
//!
//! In: changes through [`SnapshotBuilder`]. Out: lookups by key, none of which walks a list that grows with the mesh.
//! Not here: how changes arrive (`stream`), how long a snapshot is trusted (`ProxyConfig`), what a policy means (`weft-policy`).
//!
//! All maps are persistent: a copy is a handful of pointers, and one change copies a path of a tree, not the tree.
//! Readers keep a whole snapshot for the length of a decision, so no decision mixes two states.

mod builder;
mod claims;
mod intern;
mod policies;
mod services;
mod workloads;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use weft_types::{
    AppliedPolicies, MeshSettings, PolicyName, Service, ServiceName, Workload, WorkloadUid,
};

pub use builder::SnapshotBuilder;
pub use policies::{BrokenPolicy, PolicyEntry};
pub use services::ServiceEndpoints;

use policies::PolicyIndex;
use services::ServiceIndex;
use workloads::WorkloadIndex;

/// The state of the mesh as this node knows it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    revision: u64,
    policies_revision: u64,
    origin: Origin,
    cluster: Arc<str>,
    workloads: WorkloadIndex,
    services: ServiceIndex,
    policies: PolicyIndex,
    settings: Arc<MeshSettings>,
    settings_known: bool,
}

/// Where a snapshot comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nothing is known yet: nothing may be decided on it.
    #[default]
    Empty,
    /// The last good state on disk: complete when it was written, the controller has not been heard since.
    Disk,
    /// A complete state from the controller, and everything that came after it.
    Live,
}

/// What stands behind an address.
#[derive(Clone, Debug)]
pub enum Destination<'a> {
    /// A service, by its virtual address.
    Service(&'a Arc<Service>),
    /// A workload, by its own address.
    Workload(&'a Arc<Workload>),
}

impl Snapshot {
    /// A snapshot that knows nothing, for a node of the given cluster.
    pub fn empty(cluster: impl Into<Arc<str>>) -> Self {
        let settings = MeshSettings::default();
        Self {
            revision: 0,
            policies_revision: 0,
            origin: Origin::Empty,
            cluster: cluster.into(),
            workloads: WorkloadIndex::default(),
            services: ServiceIndex::default(),
            policies: PolicyIndex::default(),
            settings: Arc::new(settings),
            settings_known: false,
        }
    }

    /// Counts every change; two snapshots of one process with the same revision are the same.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Counts changes of policies: what was compiled or decided at the same count and for the same
    /// workload (by pointer) is still right.
    pub fn policies_revision(&self) -> u64 {
        self.policies_revision
    }

    /// Where this state comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The cluster of this node: the controller's word where it has given one, else what the node was started with.
    pub fn cluster(&self) -> &str {
        if self.settings_known {
            &self.settings.cluster
        } else {
            &self.cluster
        }
    }

    /// Settings of the mesh; the defaults until the controller sends some.
    pub fn settings(&self) -> &Arc<MeshSettings> {
        &self.settings
    }

    /// Whether [`Snapshot::settings`] came from a controller rather than from the defaults.
    pub fn settings_known(&self) -> bool {
        self.settings_known
    }

    /// A workload by its unique name.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.by_uid(uid)
    }

    /// The workload that owns an address (canonical form) in a network; empty is the local network.
    ///
    /// Workloads on the node's own addresses are never found: such an address names no single workload.
    /// Where two claim one address (a Job's ended pod and its successor), the healthy one is found,
    /// among equals the one with the greatest uid.
    pub fn workload_by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.by_address(network, address.to_canonical())
    }

    /// A pod of this node's cluster.
    pub fn workload_by_pod(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.workload(&WorkloadUid::of_pod(self.cluster(), namespace, name))
    }

    /// Every workload, in no particular order.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.all()
    }

    /// A service by namespace and hostname.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.by_name(name)
    }

    /// A service by hostname alone; where several namespaces claim it, the alphabetically first.
    pub fn service_by_hostname(&self, hostname: &str) -> Option<&Arc<Service>> {
        self.services.by_hostname(hostname)
    }

    /// The service that owns a virtual address in a network: an exact address first, then the longest range around it.
    /// Where several claim one address, the alphabetically first.
    pub fn service_by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Service>> {
        self.services.by_address(network, address.to_canonical())
    }

    /// What stands behind an address: a workload first (an address of its own is more specific than a service's range).
    pub fn destination(&self, network: &str, address: IpAddr) -> Option<Destination<'_>> {
        self.workload_by_address(network, address)
            .map(Destination::Workload)
            .or_else(|| {
                self.service_by_address(network, address)
                    .map(Destination::Service)
            })
    }

    /// Every service, in no particular order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.all()
    }

    /// The workloads behind a service; they may be known before the service itself.
    ///
    /// The pointer changes exactly when one of them does, so a table compiled from it can be kept by pointer.
    pub fn endpoints(&self, service: &ServiceName) -> Option<&Arc<ServiceEndpoints>> {
        self.services.endpoints(service)
    }

    /// The policies that apply to a workload: global ones, those of its namespace, and those that it names.
    pub fn policies_for(&self, workload: &Workload) -> AppliedPolicies {
        self.policies
            .applied(&workload.namespace, &workload.authorization_policies)
    }

    /// One policy by name.
    pub fn policy(&self, name: &PolicyName) -> Option<&PolicyEntry> {
        self.policies.by_name(name)
    }

    /// Every policy, in no particular order.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = (&PolicyName, &PolicyEntry)> {
        self.policies.all()
    }
}
