//! The only way to change a snapshot: a builder that keeps every index in step.

use std::sync::Arc;

use weft_types::{MeshSettings, PolicyName, Service, ServiceName, Workload, WorkloadUid};

use super::intern::Interner;
use super::{Origin, PolicyEntry, Snapshot};

/// Builds the next snapshot from the current one; also makes snapshots for tests of what reads them.
#[derive(Clone, Debug)]
pub struct SnapshotBuilder {
    next: Snapshot,
    shared: Interner,
}

impl SnapshotBuilder {
    /// Starts from a snapshot.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        Self {
            next: snapshot.clone(),
            shared: Interner::default(),
        }
    }

    /// Starts from nothing, as a complete state of the default cluster.
    pub fn new() -> Self {
        let mut next = Snapshot::empty(MeshSettings::default().cluster);
        next.origin = Origin::Live;
        Self {
            next,
            shared: Interner::default(),
        }
    }

    /// The state built so far, to look at.
    pub fn current(&self) -> &Snapshot {
        &self.next
    }

    /// The state built so far, to keep.
    pub fn build(&self) -> Snapshot {
        self.next.clone()
    }

    /// Adds or replaces a workload.
    pub fn put_workload(&mut self, workload: impl Into<Arc<Workload>>) -> &mut Self {
        let mut workload = Arc::unwrap_or_clone(workload.into());
        self.shared.workload(&mut workload);
        let workload = Arc::new(workload);
        let before = self.next.workloads.put(workload.clone());
        self.next
            .services
            .put_endpoint(before.as_deref(), &workload);
        self.touch()
    }

    /// Removes a workload, if it is there.
    pub fn remove_workload(&mut self, uid: &WorkloadUid) -> &mut Self {
        if let Some(gone) = self.next.workloads.remove(uid) {
            self.next.services.remove_endpoint(&gone);
        }
        self.touch()
    }

    /// Adds or replaces a service.
    pub fn put_service(&mut self, service: impl Into<Arc<Service>>) -> &mut Self {
        self.next.services.put(service.into());
        self.touch()
    }

    /// Removes a service, if it is there; its workloads stay behind its name.
    pub fn remove_service(&mut self, name: &ServiceName) -> &mut Self {
        self.next.services.remove(name);
        self.touch()
    }

    /// Adds or replaces a policy, good or broken.
    pub fn put_policy(&mut self, entry: PolicyEntry) -> &mut Self {
        self.next.policies.put(entry);
        self.next.policies_revision += 1;
        self.touch()
    }

    /// Removes a policy, if it is there.
    pub fn remove_policy(&mut self, name: &PolicyName) -> &mut Self {
        if self.next.policies.remove(name) {
            self.next.policies_revision += 1;
        }
        self.touch()
    }

    /// Replaces the settings; None goes back to the defaults.
    pub fn set_settings(&mut self, settings: Option<MeshSettings>) -> &mut Self {
        self.next.settings_known = settings.is_some();
        self.next.settings = Arc::new(settings.unwrap_or_default());
        self.touch()
    }

    /// Says where the state comes from.
    pub fn set_origin(&mut self, origin: Origin) -> &mut Self {
        self.next.origin = origin;
        self.touch()
    }

    fn touch(&mut self) -> &mut Self {
        self.next.revision += 1;
        self
    }
}

impl Default for SnapshotBuilder {
    fn default() -> Self {
        Self::new()
    }
}
