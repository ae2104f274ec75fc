//! Which pods of this node belong to the mesh: the handle that the agent reads.

mod state;

use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use weft_runtime::Shutdown;
use weft_types::{Enrollment, PodUid};

use crate::client;
use crate::settings::{ConfigSettings, SettingsError};
use crate::snapshot::Origin;
use crate::status::{ConfigStatus, SharedStatus};

use state::EnrollmentState;

/// The pods of this node as the controller names them. Clones are the same value.
#[derive(Clone, Debug)]
pub struct Enrollments {
    current: Arc<ArcSwap<EnrollmentSet>>,
    changes: watch::Receiver<u64>,
    status: SharedStatus,
}

/// One state of the set. Copies are cheap.
#[derive(Clone, Debug, Default)]
pub struct EnrollmentSet {
    pub(crate) origin: Origin,
    pub(crate) revision: u64,
    pub(crate) pods: OrdMap<PodUid, Arc<Enrollment>>,
}

/// What happened to one pod between two sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnrollmentChange {
    /// It is new, or something about it changed: here is how it is now.
    Put(Arc<Enrollment>),
    /// It is gone: here is how it was.
    Removed(Arc<Enrollment>),
}

impl Enrollments {
    /// Loads the last good state from disk, if there is any, and starts the client in the background.
    ///
    /// Returns at once, as [`crate::ProxyConfig::start`] does. Must be called within a tokio runtime.
    pub fn start(settings: ConfigSettings, shutdown: &Shutdown) -> Result<Self, SettingsError> {
        let status = SharedStatus::default();
        let current = Arc::new(ArcSwap::from_pointee(EnrollmentSet::default()));
        let (publish, changes) = watch::channel(0);
        let state = EnrollmentState::new(current.clone(), publish);
        // Everything of the node comes by itself; nobody asks.
        let _ = client::start(settings, state, status.clone(), shutdown)?;
        Ok(Self {
            current,
            changes,
            status,
        })
    }

    /// A set that never changes, for tests of what reads it.
    pub fn fixed(pods: impl IntoIterator<Item = Enrollment>) -> Self {
        let set = EnrollmentSet::of(Origin::Live, pods);
        let (publish, changes) = watch::channel(set.revision);
        drop(publish);
        Self {
            current: Arc::new(ArcSwap::from_pointee(set)),
            changes,
            status: SharedStatus::default(),
        }
    }

    /// The current set. While its origin is [`Origin::Empty`], an absent pod means nothing.
    pub fn current(&self) -> Arc<EnrollmentSet> {
        self.current.load_full()
    }

    /// Tells of every published set by its revision; slow readers see the last one only.
    ///
    /// ```text
    /// let mut changes = enrollments.changed();
    /// let mut known = EnrollmentSet::default();
    /// loop {
    ///     changes.mark_unchanged();
    ///     let current = enrollments.current();
    ///     for change in current.changes_since(&known) { ... }
    ///     known = (*current).clone();
    ///     changes.changed().await?;
    /// }
    /// ```
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// How the connection to the controller is doing.
    pub fn status(&self) -> ConfigStatus {
        self.status.get()
    }
}

impl EnrollmentSet {
    /// A set made by hand, for tests of what reads it.
    pub fn of(origin: Origin, pods: impl IntoIterator<Item = Enrollment>) -> Self {
        let pods = pods.into_iter().map(|pod| (pod.uid.clone(), Arc::new(pod)));
        Self {
            origin,
            revision: 1,
            pods: pods.collect(),
        }
    }

    /// Where this set comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Counts every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One pod.
    pub fn get(&self, uid: &PodUid) -> Option<&Arc<Enrollment>> {
        self.pods.get(uid)
    }

    /// All pods, by uid.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Enrollment>> {
        self.pods.values()
    }

    /// How many pods there are.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// What turns an earlier set into this one; costs what changed, not what there is.
    pub fn changes_since(&self, earlier: &Self) -> Vec<EnrollmentChange> {
        earlier
            .pods
            .diff(&self.pods)
            .map(|item| match item {
                DiffItem::Add(_, pod) | DiffItem::Update { new: (_, pod), .. } => {
                    EnrollmentChange::Put(pod.clone())
                }
                DiffItem::Remove(_, pod) => EnrollmentChange::Removed(pod.clone()),
            })
            .collect()
    }
}
