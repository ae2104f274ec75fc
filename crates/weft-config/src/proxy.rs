//! Configuration of a node proxy: the handle that its parts share.
//!
//! In: settings. Out: snapshots. The task behind it lives until the shutdown value stops, through a drain as well,
//! because connections that are being drained are still judged.

mod state;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use weft_proto::resource::ip_alias;
use weft_runtime::Shutdown;

use crate::client::{self, Asker};
use crate::settings::{ConfigSettings, SettingsError};
use crate::snapshot::{Origin, Snapshot};
use crate::status::{ConfigStatus, SharedStatus};

use state::ProxyState;

/// The configuration of a node proxy. Clones are the same value.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    current: Arc<ArcSwap<Snapshot>>,
    changes: watch::Receiver<u64>,
    status: SharedStatus,
    asker: Asker,
}

impl ProxyConfig {
    /// Loads the last good state from disk, if there is any, and starts the client in the background.
    ///
    /// Returns at once; a controller that cannot be reached is tried again for ever and shows in [`ProxyConfig::status`].
    /// Must be called within a tokio runtime.
    pub fn start(settings: ConfigSettings, shutdown: &Shutdown) -> Result<Self, SettingsError> {
        let status = SharedStatus::default();
        let current = Arc::new(ArcSwap::from_pointee(Snapshot::empty(
            settings.cluster.as_str(),
        )));
        let (publish, changes) = watch::channel(0);
        let state = ProxyState::new(settings.cluster.as_str(), current.clone(), publish);
        let asker = client::start(settings, state, status.clone(), shutdown)?;
        Ok(Self {
            current,
            changes,
            status,
            asker,
        })
    }

    /// A configuration that never changes, for tests of what reads it.
    pub fn fixed(snapshot: Snapshot) -> Self {
        let (publish, changes) = watch::channel(snapshot.revision());
        drop(publish);
        Self {
            current: Arc::new(ArcSwap::from_pointee(snapshot)),
            changes,
            status: SharedStatus::default(),
            asker: client::questions().0,
        }
    }

    /// The current snapshot, to be kept as long as a decision takes.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The current snapshot for one short look: no reference count is touched. Do not hold it across an await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Tells of every published snapshot by its revision; slow readers see the last one only.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Waits until `look` finds what it wants in a snapshot, at most `limit`. Cancel-safe.
    pub async fn wait_for<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&Snapshot) -> Option<T>,
    ) -> Option<T> {
        let mut changes = self.changes.clone();
        let wait = async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = look(&self.snapshot()) {
                    return Some(found);
                }
                if changes.changed().await.is_err() {
                    // Nobody will publish again; what waits may still be of use to its caller's time limit.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, wait).await.ok().flatten()
    }

    /// Waits until something is known to stand behind an address in a network, at most `limit`; false: nothing does.
    ///
    /// What the controller publishes comes by itself; it is asked all the same, because its answer ends the wait for an address
    /// that does not exist. Without an answer (it is away, or many ask) the whole limit is waited. Cancel-safe.
    pub async fn wait_for_address(&self, network: &str, address: IpAddr, limit: Duration) -> bool {
        let look = |snapshot: &Snapshot| snapshot.destination(network, address).map(drop);
        if look(&self.load()).is_some() {
            return true;
        }
        let answered = self.asker.ask(ip_alias(network, address.to_canonical()));
        tokio::select! {
            found = self.wait_for(limit, look) => found.is_some(),
            () = answered => look(&self.load()).is_some(),
        }
    }

    /// Ready when there is a complete state to decide on, from disk or from the controller. Cancel-safe.
    pub async fn ready(&self) {
        self.reached(|origin| origin != Origin::Empty).await;
    }

    /// Ready when the controller has sent a complete state. Cancel-safe.
    pub async fn synced(&self) {
        self.reached(|origin| origin == Origin::Live).await;
    }

    /// How the connection to the controller is doing.
    pub fn status(&self) -> ConfigStatus {
        self.status.get()
    }

    async fn reached(&self, enough: impl Fn(Origin) -> bool) {
        let look = |snapshot: &Snapshot| enough(snapshot.origin()).then_some(());
        // No limit of its own: the caller has one.
        while self.wait_for(Duration::MAX, look).await.is_none() {}
    }
}
