//! One identity as readers see it, and the table of all of them.
//!
//! In: claims and releases of pods, results from the driver. Out: the current view. Locks are held for a look or an
//! insert, never across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use tokio::sync::watch;
use weft_types::SpiffeId;

use super::driver::Command;
use super::{IdentityState, IdentityStatus, Shared};
use crate::ca::CaError;
use crate::credentials::Credentials;

pub(super) struct Entry {
    identity: SpiffeId,
    /// Written under the table's write lock only, so that a release cannot race a claim.
    leases: AtomicUsize,
    view: watch::Sender<View>,
}

#[derive(Clone, Default)]
pub(super) struct View {
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) last_error: Option<CaError>,
    /// Refusals in a row; an outage in between does not count as one.
    pub(super) refusals: u32,
}

impl View {
    /// An expired certificate counts as none, whether or not the driver has noticed.
    pub(super) fn valid(&self, now: SystemTime) -> Option<&Arc<Credentials>> {
        self.credentials
            .as_ref()
            .filter(|credentials| now < credentials.not_after())
    }
}

impl Entry {
    fn new(identity: SpiffeId, view: View) -> Self {
        Self {
            identity,
            leases: AtomicUsize::new(0),
            view: watch::Sender::new(view),
        }
    }

    pub(super) fn current(&self, now: SystemTime) -> Option<Arc<Credentials>> {
        self.view.borrow().valid(now).cloned()
    }

    pub(super) fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    pub(super) fn last_error(&self) -> Option<CaError> {
        self.view.borrow().last_error.clone()
    }

    pub(super) fn store(&self, credentials: Arc<Credentials>) {
        self.view.send_modify(|view| {
            view.credentials = Some(credentials);
            view.last_error = None;
            view.refusals = 0;
        });
    }

    pub(super) fn fail(&self, error: CaError) {
        self.view.send_modify(|view| {
            if matches!(error, CaError::Refused { .. }) {
                view.refusals += 1;
            }
            view.last_error = Some(error);
        });
    }

    pub(super) fn expire(&self) {
        self.view.send_modify(|view| view.credentials = None);
    }

    pub(super) fn status(&self) -> IdentityStatus {
        let view = self.view.borrow();
        let credentials = view.credentials.as_deref();
        IdentityStatus {
            identity: self.identity.clone(),
            state: match (credentials, &view.last_error) {
                (None, _) => IdentityState::Pending,
                (Some(_), None) => IdentityState::Available,
                (Some(_), Some(_)) => IdentityState::Stale,
            },
            serial: credentials.map(|credentials| credentials.serial().to_owned()),
            not_before: credentials.map(Credentials::not_before),
            not_after: credentials.map(Credentials::not_after),
            leases: self.leases(),
            last_error: view.last_error.as_ref().map(ToString::to_string),
        }
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn entry(&self, identity: &SpiffeId) -> Option<Arc<Entry>> {
        self.read().get(identity).cloned()
    }

    pub(super) fn claim(&self, identity: &SpiffeId) {
        {
            let mut entries = self.write();
            let entry = entries
                .entry(identity.clone())
                .or_insert_with(|| Arc::new(Entry::new(identity.clone(), View::default())));
            entry.leases.fetch_add(1, Ordering::Relaxed);
        }
        self.tell(Command::Track(identity.clone()));
    }

    pub(super) fn release(&self, identity: &SpiffeId) {
        {
            let mut entries = self.write();
            let Some(entry) = entries.get(identity) else {
                return;
            };
            if entry.leases.fetch_sub(1, Ordering::Relaxed) > 1 {
                return;
            }
            entries.remove(identity);
        }
        self.tell(Command::Forget(identity.clone()));
        self.changed();
    }

    /// Takes credentials of a former proxy, unless newer ones are here.
    pub(super) fn adopt(&self, credentials: Arc<Credentials>) {
        let identity = credentials.identity().clone();
        {
            let mut entries = self.write();
            let entry = entries
                .entry(identity.clone())
                .or_insert_with(|| Arc::new(Entry::new(identity.clone(), View::default())));
            let known = entry.view.borrow().credentials.clone();
            if known.is_none_or(|known| known.not_after() < credentials.not_after()) {
                entry.store(credentials);
            }
        }
        self.tell(Command::Track(identity));
        self.changed();
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, HashMap<SpiffeId, Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, HashMap<SpiffeId, Arc<Entry>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A driver that is gone means shutdown: nothing to tell anyone then.
    pub(super) fn tell(&self, command: Command) {
        drop(self.commands.send(command));
    }
}
