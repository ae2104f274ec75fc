//! Connections that are kept and shared, by key.
//!
//! In: a key (who speaks from where to whom) and a request. Out: a tunnel over a connection that was there, or over a
//! new one. Deliberately not here: what a key is made of, TLS, retries at another endpoint.
//!
//! Locks: one mutex, never held across an await. A pool belongs to one worker thread, so that it is never contended;
//! it is a mutex and not a cell so that tasks stay `Send`.

mod entry;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use tokio::time::Instant;

use crate::limits::TUNNEL_CONNECTIONS;
use crate::{ConnectRequest, Connection, OpenError, PoolLimits, Tunnel};
use entry::{Attempt, Choice, Entry, Making};

/// Attempts of one [`Pool::open`] when connections turn out to have gone away: every pooled connection of a peer that
/// restarts fails once, and a fresh one after it decides.
const ATTEMPTS_MAX: usize = 4;

/// Makes a new connection for a key: TCP, TLS, [`crate::handshake`], and the spawning of its driver.
pub trait Connector<K>: Send + Sync + 'static {
    /// Why no connection could be made; shared by everyone who waited for it.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Connects, within a time limit of its own.
    fn connect(&self, key: K) -> impl Future<Output = Result<Connection, Self::Error>> + Send;
}

/// Why a tunnel could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PoolError<E: std::error::Error + 'static> {
    /// No connection to the peer.
    #[error("no connection to the peer: {0}")]
    Connect(#[source] Arc<E>),
    /// The peer did not open the tunnel.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// All connections are full and no more are allowed.
    #[error("pool is full: {0} connections, raise the limit or use fewer streams")]
    Full(usize),
}

/// What becomes of tunnels over connections that are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// They run to their end; no new ones join them.
    Drain,
    /// The same, and connections being made for the key are given up, so that waiting opens fail over to a new one.
    DrainAndForget,
}

/// What a pool holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Keys with at least one connection or attempt.
    pub keys: usize,
    /// Connections that take tunnels.
    pub connections: usize,
    /// Tunnels over them.
    pub streams: usize,
}

/// A pool of one worker; clones share it.
pub struct Pool<K, C: Connector<K>> {
    inner: Arc<Inner<K, C>>,
}

struct Inner<K, C: Connector<K>> {
    connector: Arc<C>,
    limits: PoolLimits,
    entries: Mutex<HashMap<K, Entry<C::Error>>>,
}

impl<K, C: Connector<K>> Clone for Pool<K, C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K, C> Pool<K, C>
where
    K: Clone + Eq + Hash + Send + 'static,
    C: Connector<K>,
{
    /// An empty pool.
    pub fn new(connector: C, limits: PoolLimits) -> Self {
        let inner = Inner {
            connector: Arc::new(connector),
            limits,
            entries: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// What makes new connections.
    pub fn connector(&self) -> &C {
        &self.inner.connector
    }

    /// Opens a tunnel over a kept connection, or over a new one when there is none, all are full, or all are busy.
    /// Simultaneous misses of one key share one handshake. A connection that turns out to have gone away before the
    /// request was sent is replaced without the caller's notice.
    ///
    /// Cancel safety: dropping the future resets the stream; a handshake that others wait for goes on.
    pub async fn open(
        &self,
        key: &K,
        request: &ConnectRequest,
    ) -> Result<Tunnel, PoolError<C::Error>> {
        let mut last = OpenError::Closing;
        for _ in 0..ATTEMPTS_MAX {
            let connection = self.connection(key).await?;
            match connection.open(request).await {
                Err(error) if error.is_retryable() => {
                    self.remove(key, &connection);
                    last = error;
                }
                Err(error @ OpenError::Connection(_)) => {
                    self.remove(key, &connection);
                    return Err(error.into());
                }
                done => return done.map_err(Into::into),
            }
        }
        Err(last.into())
    }

    /// A connection with room, made if need be. Waiters choose again once a connection is there: of a thousand that
    /// waited for one, the first hundred fit.
    async fn connection(&self, key: &K) -> Result<Connection, PoolError<C::Error>> {
        for _ in 0..=self.inner.limits.connections_per_key_max {
            let attempt = match self.choose(key)? {
                Choice::Use(connection) => return Ok(connection),
                Choice::Wait(attempt) => attempt,
            };
            let result = attempt.clone().await;
            self.file(key, &attempt, &result);
            result.map_err(PoolError::Connect)?;
        }
        Err(full(self.stats().connections))
    }

    /// Whoever wakes first files the connection; the others find it. One that was forgotten meanwhile is not filed.
    fn file(
        &self,
        key: &K,
        attempt: &Attempt<C::Error>,
        result: &Result<Connection, Arc<C::Error>>,
    ) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        if entry
            .attempt()
            .is_some_and(|current| current.ptr_eq(attempt))
        {
            entry.set_attempt(None);
            if let Ok(connection) = result {
                entry.keep(connection.clone(), Instant::now());
            }
        }
        if entry.is_empty() {
            entries.remove(key);
        }
    }

    fn choose(&self, key: &K) -> Result<Choice<Attempt<C::Error>>, PoolError<C::Error>> {
        let limits = &self.inner.limits;
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            if let Some(choice) = entry.choose(limits, Instant::now()) {
                return Ok(choice);
            }
            if entry.len() >= limits.connections_per_key_max {
                return Err(full(entry.len()));
            }
        }
        let total = entries.values().map(Entry::len).sum::<usize>();
        if total >= limits.connections_max {
            return Err(full(total));
        }
        let (connector, owned) = (Arc::clone(&self.inner.connector), key.clone());
        let making: Making<C::Error> =
            Box::pin(async move { connector.connect(owned).await.map_err(Arc::new) });
        let attempt = making.shared();
        entries
            .entry(key.clone())
            .or_insert_with(Entry::new)
            .set_attempt(Some(&attempt));
        Ok(Choice::Wait(attempt))
    }

    fn remove(&self, key: &K, connection: &Connection) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.remove(connection);
            if entry.is_empty() {
                entries.remove(key);
            }
        }
    }

    /// Takes the connections of every key that matches out of the pool; their tunnels go on. Returns how many.
    pub fn close_matching(&self, how: CloseHow, matches: impl Fn(&K) -> bool) -> usize {
        let mut closed = 0;
        self.lock().retain(|key, entry| {
            if matches(key) {
                closed += entry.close_all();
                if how == CloseHow::DrainAndForget {
                    entry.set_attempt(None);
                }
            }
            !entry.is_empty()
        });
        closed
    }

    /// Takes out connections that were unused for longer than the limit, or are closing. Returns how many.
    pub fn evict_idle(&self) -> usize {
        let (now, idle) = (Instant::now(), self.inner.limits.idle);
        let mut evicted = 0;
        self.lock().retain(|_, entry| {
            evicted += entry.evict(now, idle);
            !entry.is_empty()
        });
        evicted
    }

    /// Evicts for ever, four times in each idle period; to be spawned once and dropped with the worker.
    pub async fn run_eviction(self) {
        let mut ticks = tokio::time::interval(self.inner.limits.idle / 4);
        loop {
            ticks.tick().await;
            let evicted = self.evict_idle();
            if evicted > 0 {
                tracing::debug!(evicted, "idle tunnel connections closed");
            }
        }
    }

    /// What the pool holds now.
    pub fn stats(&self) -> PoolStats {
        let entries = self.lock();
        let mut stats = PoolStats {
            keys: entries.len(),
            ..PoolStats::default()
        };
        for entry in entries.values() {
            stats.connections += entry.connections();
            stats.streams += entry.streams();
        }
        stats
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<C::Error>>> {
        // No code that can panic runs under the lock but the caller's predicate, and that changes nothing.
        self.inner
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// No more connections are allowed, and the present ones are full.
fn full<E: std::error::Error>(connections: usize) -> PoolError<E> {
    TUNNEL_CONNECTIONS.reached();
    PoolError::Full(connections)
}

impl<K, C: Connector<K>> fmt::Debug for Pool<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}
