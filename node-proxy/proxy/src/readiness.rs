//! What is still missing before this proxy serves, as a list that an operator can act on.
//!
//! In: the parts report when they have what they need. Out: `/healthz/ready`, and one word to the holder.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Something without which connections would fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// A complete configuration, from the controller or from disk.
    Configuration,
    /// The map of socket storage, from the agent by way of the holder.
    Map,
    /// The list of pods, from the holder.
    Pods,
    /// A first certificate for each pod that configuration knows.
    Certificates,
}

/// Shared by all parts.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    missing: Arc<Mutex<BTreeSet<Need>>>,
    ready: Arc<watch::Sender<bool>>,
}

impl Need {
    fn describe(self) -> &'static str {
        match self {
            Self::Configuration => {
                "configuration: no complete state from the controller or from disk"
            }
            Self::Map => "map: weft-agent has not given the map of socket storage",
            Self::Pods => "pods: weft-node has not named the pods of this node",
            Self::Certificates => "certificates: not every pod of this node has one",
        }
    }
}

impl Readiness {
    pub(crate) fn new() -> Self {
        let all = [
            Need::Configuration,
            Need::Map,
            Need::Pods,
            Need::Certificates,
        ];
        Self {
            missing: Arc::new(Mutex::new(all.into())),
            ready: Arc::new(watch::Sender::new(false)),
        }
    }

    /// One thing is there. It stays so: a controller that goes away later makes nobody unready.
    pub(crate) fn done(&self, need: Need) {
        let mut missing = self.lock();
        if missing.remove(&need) && missing.is_empty() {
            tracing::info!("ready");
            self.ready.send_replace(true);
        }
    }

    /// What is missing, one line each; empty when ready.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.lock().iter().map(|need| need.describe()).collect()
    }

    /// Whether one thing is still missing.
    pub(crate) fn lacks(&self, need: Need) -> bool {
        self.lock().contains(&need)
    }

    /// Ready when nothing is missing any more. Cancel safe.
    pub(crate) async fn ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives in self.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Need>> {
        // Every change leaves the set whole, so a poisoned lock holds no half of one.
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Need, Readiness};

    #[tokio::test]
    async fn ready_is_when_the_last_need_is_met_and_what_lacks_is_named() {
        let readiness = Readiness::new();
        readiness.done(Need::Configuration);
        readiness.done(Need::Pods);
        readiness.done(Need::Map);
        assert!(readiness.lacks(Need::Certificates));
        assert_eq!(readiness.missing().len(), 1);
        assert!(readiness.missing()[0].starts_with("certificates"));
        readiness.done(Need::Certificates);
        readiness.ready().await;
        assert!(readiness.missing().is_empty());
    }
}
