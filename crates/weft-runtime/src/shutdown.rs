//! The value that tells every task to drain and then to stop, and that knows when they have ended.
//!
//! ```text
//! running --drain()--> draining --stop()--> stopped
//!    '------------------stop()----------------^
//! ```
//!
//! In: one call by the composition root. Out: futures that tasks select on.
//! Deliberately not here: signals (`signal.rs`) and what draining means for a listener or a flow.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Passed into everything that lives longer than one call. Clones are the same value.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Every task ended by itself.
    Drained,
    /// The limit passed with this many tasks left; they have been told to stop.
    CutOff(usize),
}

impl Shutdown {
    /// A value in the running state.
    pub fn new() -> Self {
        Self::default()
    }

    /// A value for one part of the program: it drains and stops with this one, and can do so alone.
    /// Tasks started with it count for its own [`Shutdown::finished`] only.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            drain: self.drain.child_token(),
            stop: self.stop.child_token(),
            tasks: TaskTracker::new(),
        }
    }

    /// Asks everyone to take no new work and to finish what runs.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks everyone to end now; implies [`Shutdown::drain`].
    pub fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether everything should end now.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ready once a drain has begun. Cancel-safe.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Ready once everything should end. Cancel-safe.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Tasks of this value that have not ended.
    pub fn live_tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Begins a drain, waits until every task of this value has ended or `limit` has passed, then stops the rest.
    ///
    /// The caller's own task must not be one of them. Cancel-safe: the drain itself goes on.
    pub async fn finished(&self, limit: Duration) -> Finished {
        self.drain();
        self.tasks.close();
        let outcome = tokio::time::timeout(limit, self.tasks.wait()).await;
        let left = self.tasks.len();
        self.stop();
        match outcome {
            Ok(()) => Finished::Drained,
            Err(_) => Finished::CutOff(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Finished, Shutdown};
    use crate::task::spawn;

    #[tokio::test]
    async fn a_drain_waits_for_tasks_and_cuts_off_the_rest_at_its_limit() {
        let shutdown = Shutdown::new();
        let seen = shutdown.clone();
        spawn(&shutdown, "polite", async move { seen.draining().await });
        assert_eq!(
            shutdown.finished(Duration::from_mins(1)).await,
            Finished::Drained
        );

        let shutdown = Shutdown::new();
        spawn(&shutdown, "stubborn", std::future::pending::<()>());
        assert_eq!(shutdown.finished(Duration::ZERO).await, Finished::CutOff(1));
        assert!(shutdown.is_stopped());
    }

    #[test]
    fn a_child_follows_its_parent_and_not_the_other_way_round() {
        let parent = Shutdown::new();
        let child = parent.child();
        child.stop();
        assert!(!parent.is_draining());
        let other = parent.child();
        parent.drain();
        assert!(other.is_draining() && !other.is_stopped());
    }
}
