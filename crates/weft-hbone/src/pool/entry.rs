//! The connections of one key, and which of them a new tunnel takes.
//!
//! In: what is known about each connection's load. Out: one of them, or the wish for another.
//! Deliberately not here: making connections, and locks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Shared, WeakShared};
use tokio::time::Instant;

use crate::{Connection, PoolLimits};

/// The making of one connection, driven by whoever waits for it.
pub(super) type Attempt<E> = Shared<Making<E>>;
pub(super) type Making<E> = Pin<Box<dyn Future<Output = Result<Connection, Arc<E>>> + Send>>;

/// Connections of one key and at most one attempt to make another.
pub(super) struct Entry<E> {
    kept: Vec<Kept>,
    attempt: Option<WeakShared<Making<E>>>,
}

struct Kept {
    connection: Connection,
    used: Instant,
}

/// Where a new tunnel goes.
pub(super) enum Choice<A> {
    /// Over this connection.
    Use(Connection),
    /// Over the connection that is being made.
    Wait(A),
}

impl<E> Entry<E> {
    pub(super) fn new() -> Self {
        Self {
            kept: Vec::new(),
            attempt: None,
        }
    }

    pub(super) fn keep(&mut self, connection: Connection, now: Instant) {
        self.kept.push(Kept {
            connection,
            used: now,
        });
    }

    /// `None`: another connection is wanted. A busy one is taken while another is being made, since its bytes only
    /// delay; a full one is not.
    pub(super) fn choose(
        &mut self,
        limits: &PoolLimits,
        now: Instant,
    ) -> Option<Choice<Attempt<E>>> {
        self.kept.retain(|kept| !kept.connection.load().closing);
        let attempt = self.attempt();
        let company_allowed = attempt.is_none() && self.kept.len() < limits.busy_connections_max;
        let with_room = self.kept.iter_mut().filter_map(|kept| {
            let load = kept.connection.load();
            (load.streams < load.streams_max).then_some((load, kept))
        });
        let Some((load, best)) = with_room.min_by_key(|(load, _)| (load.bulk, load.streams)) else {
            return attempt.map(Choice::Wait);
        };
        if load.bulk > 0 && company_allowed {
            return None;
        }
        best.used = now;
        Some(Choice::Use(best.connection.clone()))
    }

    /// The attempt that is under way; one whose last waiter left is not, nobody drives it any more.
    pub(super) fn attempt(&self) -> Option<Attempt<E>> {
        self.attempt.as_ref().and_then(WeakShared::upgrade)
    }

    pub(super) fn set_attempt(&mut self, attempt: Option<&Attempt<E>>) {
        self.attempt = attempt.and_then(Shared::downgrade);
    }

    pub(super) fn remove(&mut self, connection: &Connection) {
        self.kept
            .retain(|kept| !kept.connection.is_same(connection));
    }

    pub(super) fn close_all(&mut self) -> usize {
        self.kept
            .drain(..)
            .map(|kept| kept.connection.close())
            .count()
    }

    pub(super) fn evict(&mut self, now: Instant, idle: Duration) -> usize {
        let before = self.kept.len();
        self.kept.retain_mut(|kept| {
            let load = kept.connection.load();
            if load.streams > 0 {
                kept.used = now;
            }
            !load.closing && now.duration_since(kept.used) < idle
        });
        before - self.kept.len()
    }

    /// Connections, and the one being made.
    pub(super) fn len(&self) -> usize {
        self.kept.len() + usize::from(self.attempt().is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn connections(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn streams(&self) -> usize {
        self.kept
            .iter()
            .map(|kept| kept.connection.load().streams)
            .sum()
    }
}
