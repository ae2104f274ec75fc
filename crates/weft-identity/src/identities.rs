//! The identities of one node's pods: fetched ahead of need, renewed at half life, kept while they are valid.
//!
//! In: leases (one for each pod), connections that wait, a certificate authority, a clock. Out: current [`Credentials`],
//! a listing without keys, and the bytes that the next proxy takes over. One driver task owns all decisions; readers see
//! the latest credentials without waiting for it. Not here: which pod has which identity (proxy), the wire (`ca`).
//!
//! ```text
//!            ensure                 signed                    half life, jittered
//!   (none) ---------> Pending ----------------> Available ---------------------------+
//!                      ^  | no: backoff, again   |    ^     renewing in background;  |
//!                      +--+                      |    +---- what is there stays -----+
//!                      ^          expired        |
//!                      +-------------------------+      last lease dropped: forgotten
//! ```

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use weft_runtime::Clock;
use weft_types::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::ca::{CaError, CertificateSource};
use crate::credentials::Credentials;
use crate::handover::{self, HandoverError};

mod driver;
mod entry;
mod schedule;

use driver::{Command, Driver};
use entry::Entry;
pub use schedule::FetchPriority;

/// Refusals in a row after which a waiting connection is told at once. The first ones may only mean that the authority has
/// not yet heard of a pod that has just started.
const REFUSALS_PATIENT: u32 = 3;

/// How the identities of a node are kept.
#[derive(Clone, Debug)]
pub struct IdentitiesOptions {
    /// Requested lifetime of certificates; the authority may give less.
    pub ttl: Duration,
    /// Longest that a connection waits for its identity.
    pub wait_max: Duration,
    /// Most requests in flight: enough to hide latency, few enough that a waiting connection is never queued behind
    /// a node's worth of renewals.
    pub requests_max: usize,
    /// First pause after a failure; doubles.
    pub retry_min: Duration,
    /// Longest pause after failures, and so the longest that recovery goes unnoticed in the background.
    pub retry_max: Duration,
    /// Longest single request.
    pub request_timeout: Duration,
    /// Trust domains accepted beside the identity's own.
    pub aliases: Vec<TrustDomain>,
}

/// The identities of one node. Clones share state; any thread may use them.
#[derive(Clone)]
pub struct Identities {
    shared: Arc<Shared>,
}

/// A pod's claim to its identity. When the last one of an identity is dropped, key and chain are forgotten.
#[must_use = "the identity is forgotten when the lease is dropped"]
pub struct Lease {
    identity: SpiffeId,
    shared: Arc<Shared>,
}

/// Why a connection cannot have credentials now.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unready {
    /// No pod of this node holds a lease of it.
    #[error("no pod here has the identity {0}")]
    NotHeld(SpiffeId),
    /// The authority says no, again and again.
    #[error("{0}")]
    Refused(CaError),
    /// No answer within the bound; what failed last, if anything did.
    #[error("no certificate for {identity} within {} s: {}", waited.as_secs(), reason_or_none(last.as_ref()))]
    Timeout {
        /// Who is without.
        identity: SpiffeId,
        /// How long it was waited for.
        waited: Duration,
        /// The latest failure.
        last: Option<CaError>,
    },
    /// The proxy is shutting down.
    #[error("shutting down")]
    Closed,
}

/// Where an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityState {
    /// No certificate yet, or it expired; being asked for.
    Pending,
    /// A valid certificate is there.
    Available,
    /// A valid certificate is there, but the latest renewal failed.
    Stale,
}

/// One line of the listing. Never carries keys.
#[derive(Clone, Debug)]
pub struct IdentityStatus {
    /// Who.
    pub identity: SpiffeId,
    /// How it stands.
    pub state: IdentityState,
    /// Hex serial of the certificate, when there is one.
    pub serial: Option<String>,
    /// Start of validity.
    pub not_before: Option<SystemTime>,
    /// End of validity.
    pub not_after: Option<SystemTime>,
    /// Pods that hold it.
    pub leases: usize,
    /// The latest failure since the latest success.
    pub last_error: Option<String>,
}

/// What happens, for metrics and logs. Called from the driver: must not block.
pub trait IdentityEvents: Send + Sync + 'static {
    /// A certificate came.
    fn issued(&self, _credentials: &Credentials, _took: Duration) {}
    /// A request failed; it will be tried again after the pause.
    fn failed(&self, _identity: &SpiffeId, _error: &CaError, _pause: Duration) {}
    /// A certificate ended before a new one came: connections of this identity fail from now on.
    fn expired(&self, _identity: &SpiffeId) {}
}

/// Nobody listens.
impl IdentityEvents for () {}

struct Shared {
    options: IdentitiesOptions,
    clock: Arc<dyn Clock>,
    entries: RwLock<HashMap<SpiffeId, Arc<Entry>>>,
    commands: mpsc::UnboundedSender<Command>,
    changes: watch::Sender<u64>,
}

impl Identities {
    /// Makes the set, and the driver that the caller must run (it ends when the last handle is dropped).
    pub fn new(
        options: IdentitiesOptions,
        source: Arc<dyn CertificateSource>,
        clock: Arc<dyn Clock>,
        events: Arc<dyn IdentityEvents>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            options,
            clock,
            entries: RwLock::default(),
            commands,
            changes: watch::Sender::new(0),
        });
        let driver = Driver::new(&shared, source, events);
        (Self { shared }, driver.run(inbox))
    }

    /// Claims an identity for a pod and starts to fetch it when nobody has. Call at enrolment; keep the lease with the pod.
    pub fn ensure(&self, identity: &SpiffeId) -> Lease {
        self.shared.claim(identity);
        Lease {
            identity: identity.clone(),
            shared: self.shared.clone(),
        }
    }

    /// The current credentials, when they are there and valid. For the path of every connection.
    pub fn current(&self, identity: &SpiffeId) -> Option<Arc<Credentials>> {
        self.shared
            .entry(identity)?
            .current(self.shared.clock.wall())
    }

    /// The current credentials, waiting for them up to [`IdentitiesOptions::wait_max`].
    ///
    /// A wait moves this identity before warm-up and renewal of others. Cancel safe.
    pub async fn credentials(&self, identity: &SpiffeId) -> Result<Arc<Credentials>, Unready> {
        let entry = self
            .shared
            .entry(identity)
            .ok_or_else(|| Unready::NotHeld(identity.clone()))?;
        if let Some(credentials) = entry.current(self.shared.clock.wall()) {
            return Ok(credentials);
        }
        let mut view = entry.watch();
        self.shared
            .commands
            .send(Command::Want(identity.clone()))
            .map_err(|_| Unready::Closed)?;
        let wait_max = self.shared.options.wait_max;
        let came = view.wait_for(|view| {
            view.valid(self.shared.clock.wall()).is_some() || view.refusals >= REFUSALS_PATIENT
        });
        match tokio::time::timeout(wait_max, came).await {
            Ok(Ok(view)) => match (view.valid(self.shared.clock.wall()), &view.last_error) {
                (Some(credentials), _) => Ok(credentials.clone()),
                (None, Some(refusal)) => Err(Unready::Refused(refusal.clone())),
                (None, None) => Err(Unready::Closed),
            },
            Ok(Err(_)) => Err(Unready::Closed),
            Err(_) => Err(Unready::Timeout {
                identity: identity.clone(),
                waited: wait_max,
                last: entry.last_error(),
            }),
        }
    }

    /// Asks for certificates of this lifetime from now on. Ones that live longer are replaced within half of it.
    pub fn set_ttl(&self, ttl: Duration) {
        self.shared.tell(Command::Ttl(ttl));
    }

    /// Ticks whenever the set of keys changed: export again then.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// All that is held, sorted by identity. Never keys.
    pub fn list(&self) -> Vec<IdentityStatus> {
        let entries = self.shared.read();
        let mut list: Vec<_> = entries.values().map(|entry| entry.status()).collect();
        list.sort_by(|a, b| a.identity.cmp(&b.identity));
        list
    }

    /// All keys and chains as bytes for the sealed memory that only the next proxy gets. Wiped on drop.
    pub fn export(&self) -> Zeroizing<Vec<u8>> {
        let now = self.shared.clock.wall();
        let entries = self.shared.read();
        let all: Vec<_> = entries
            .values()
            .filter_map(|entry| entry.current(now))
            .collect();
        handover::export(&all)
    }

    /// Takes over what a former proxy exported; returns how many identities are usable now.
    ///
    /// Expired ones are left out; a newer certificate that is already here wins. They are held without lease until a pod
    /// claims them, or [`Self::forget_unclaimed`].
    pub fn import(&self, bytes: &[u8]) -> Result<usize, HandoverError> {
        let imported = handover::import(bytes, self.shared.clock.wall())?;
        let count = imported.len();
        for credentials in imported {
            let credentials = credentials.with_aliases(&self.shared.options.aliases);
            self.shared.adopt(Arc::new(credentials));
        }
        Ok(count)
    }

    /// Forgets what was imported and no pod has claimed. Call once every pod of the node is known.
    pub fn forget_unclaimed(&self) {
        let mut forgotten = Vec::new();
        self.shared.write().retain(|identity, entry| {
            let claimed = entry.leases() > 0;
            if !claimed {
                forgotten.push(identity.clone());
            }
            claimed
        });
        for identity in forgotten {
            self.shared.tell(Command::Forget(identity));
        }
        self.shared.changed();
    }
}

// === impl Identities ===

impl Default for IdentitiesOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_hours(24),
            wait_max: Duration::from_secs(10),
            requests_max: 8,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(15),
            request_timeout: Duration::from_secs(10),
            aliases: Vec::new(),
        }
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("held", &self.shared.read().len())
            .finish_non_exhaustive()
    }
}

// === impl Lease ===

impl Lease {
    /// Whose claim it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.identity)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.release(&self.identity);
    }
}

fn reason_or_none(error: Option<&CaError>) -> String {
    error.map_or_else(|| "no answer yet".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests;
