//! The pool: one handshake for many misses, replacement of what went away, growth when full or busy, eviction.
//!
//! Method: a connector that makes in-memory connections and counts them; the test plays the server.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a panic is the report, and a test's tasks end with its runtime"
)]

#[path = "common/link.rs"]
mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::soon;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use weft_hbone::{
    ClientLimits, CloseHow, ConnectRequest, ConnectResponse, Connection, Connector, Pool,
    PoolError, PoolLimits, Server, ServerLimits, Tunnel, handshake, serve,
};

/// Accepts everything, keeps the tunnels, can be told to fail.
#[derive(Clone, Default)]
struct Fake(Arc<FakeState>);

#[derive(Default)]
struct FakeState {
    made: AtomicUsize,
    failing: AtomicUsize,
    /// Servers answer GOAWAY at once and serve nothing.
    draining: AtomicUsize,
    /// Servers close at once.
    closing: AtomicBool,
    streams_max: AtomicUsize,
    accepted: Mutex<Vec<Tunnel>>,
    servers: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("refused on purpose")]
struct Refused;

impl Connector<u8> for Fake {
    type Error = Refused;

    async fn connect(&self, _: u8) -> Result<Connection, Refused> {
        self.0.made.fetch_add(1, Ordering::Relaxed);
        // Suspends until another task has run, so that simultaneous misses overlap.
        tokio::spawn(async {}).await.unwrap();
        if self.0.failing.load(Ordering::Relaxed) > 0 {
            self.0.failing.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused);
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        let limit = self.0.streams_max.load(Ordering::Relaxed);
        let mut limits = ClientLimits::default();
        if limit > 0 {
            limits.streams_max = limit;
        }
        let (connected, served) =
            tokio::join!(handshake(near, limits), serve(far, ServerLimits::default()));
        let (connection, driver) = connected.unwrap();
        tokio::spawn(driver);
        let server = tokio::spawn(drive(served.unwrap(), self.clone()));
        self.0.servers.lock().unwrap().push(server);
        Ok(connection)
    }
}

async fn drive(mut server: Server<DuplexStream>, fake: Fake) {
    if fake.0.closing.load(Ordering::Relaxed) {
        return;
    }
    if fake.0.draining.load(Ordering::Relaxed) > 0 {
        fake.0.draining.fetch_sub(1, Ordering::Relaxed);
        server.drain();
    }
    while let Some(Ok(incoming)) = server.next().await {
        let tunnel = incoming.accept(&ConnectResponse::default()).unwrap();
        fake.0.accepted.lock().unwrap().push(tunnel);
    }
}

fn pool(limits: PoolLimits) -> (Pool<u8, Fake>, Fake) {
    let fake = Fake::default();
    (Pool::new(fake.clone(), limits), fake)
}

fn request() -> ConnectRequest {
    ConnectRequest::new("10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap())
}

fn made(fake: &Fake) -> usize {
    fake.0.made.load(Ordering::Relaxed)
}

async fn open_many(pool: &Pool<u8, Fake>, count: usize) -> Vec<Result<Tunnel, PoolError<Refused>>> {
    let request = request();
    soon(futures_util::future::join_all(
        (0..count).map(|_| pool.open(&1, &request)),
    ))
    .await
}

#[tokio::test]
async fn simultaneous_misses_share_one_handshake() {
    let (pool, fake) = pool(PoolLimits::default());
    let tunnels = open_many(&pool, 100).await;
    assert!(tunnels.iter().all(Result::is_ok));
    assert_eq!(made(&fake), 1);
    assert_eq!((pool.stats().connections, pool.stats().streams), (1, 100));
    drop(tunnels);
    assert_eq!(pool.stats().streams, 0);
}

#[tokio::test]
async fn keys_never_share_a_connection() {
    let (pool, fake) = pool(PoolLimits::default());
    let request = request();
    let _one = soon(pool.open(&1, &request)).await.unwrap();
    let _two = soon(pool.open(&2, &request)).await.unwrap();
    assert_eq!(made(&fake), 2);
}

#[tokio::test]
async fn a_thousand_at_once_get_ten_connections() {
    let (pool, fake) = pool(PoolLimits::default());
    let tunnels = open_many(&pool, 1000).await;
    assert!(tunnels.iter().all(Result::is_ok));
    assert_eq!(made(&fake), 10);
}

#[tokio::test]
async fn a_full_pool_says_so() {
    let limits = PoolLimits {
        connections_per_key_max: 2,
        ..PoolLimits::default()
    };
    let (pool, fake) = pool(limits);
    fake.0.streams_max.store(3, Ordering::Relaxed);
    let tunnels = open_many(&pool, 7).await;
    assert_eq!(tunnels.iter().filter(|t| t.is_ok()).count(), 6);
    assert!(tunnels.iter().any(|t| matches!(t, Err(PoolError::Full(2)))));
    drop(tunnels);
    assert!(soon(pool.open(&1, &request())).await.is_ok());
}

#[tokio::test]
async fn the_whole_pool_is_bounded() {
    let (pool, _fake) = pool(PoolLimits {
        connections_max: 2,
        ..PoolLimits::default()
    });
    let request = request();
    for key in 0..2 {
        soon(pool.open(&key, &request)).await.unwrap();
    }
    assert!(matches!(
        soon(pool.open(&2, &request)).await,
        Err(PoolError::Full(2))
    ));
}

#[tokio::test]
async fn a_failed_handshake_fails_everyone_who_waited_and_nobody_later() {
    let (pool, fake) = pool(PoolLimits::default());
    fake.0.failing.store(1, Ordering::Relaxed);
    let tunnels = open_many(&pool, 20).await;
    assert!(
        tunnels
            .iter()
            .all(|t| matches!(t, Err(PoolError::Connect(_))))
    );
    assert_eq!(made(&fake), 1);
    assert_eq!(pool.stats().keys, 0);
    assert!(soon(pool.open(&1, &request())).await.is_ok());
}

#[tokio::test]
async fn a_waiter_that_gives_up_does_not_stop_the_others() {
    let (pool, fake) = pool(PoolLimits::default());
    let request = request();
    let mut first = Box::pin(pool.open(&1, &request));
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut second = Box::pin(pool.open(&1, &request));
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(first);
    assert!(soon(second).await.is_ok());
    assert_eq!(made(&fake), 1);
}

#[tokio::test]
async fn an_attempt_that_everyone_left_is_not_waited_for() {
    let (pool, fake) = pool(PoolLimits::default());
    let request = request();
    let mut first = Box::pin(pool.open(&1, &request));
    assert!(futures_util::poll!(&mut first).is_pending());
    drop(first);
    assert!(soon(pool.open(&1, &request)).await.is_ok());
    assert_eq!(made(&fake), 2);
}

#[tokio::test]
async fn a_connection_that_went_away_is_replaced_unnoticed() {
    let (pool, fake) = pool(PoolLimits::default());
    drop(soon(pool.open(&1, &request())).await.unwrap());
    let server = fake.0.servers.lock().unwrap().pop().unwrap();
    fake.0.accepted.lock().unwrap().clear();
    server.abort();
    let _ended = server.await;
    assert!(soon(pool.open(&1, &request())).await.is_ok());
    assert_eq!(made(&fake), 2);
    assert_eq!(pool.stats().connections, 1);
}

#[tokio::test]
async fn goaway_moves_new_tunnels_to_a_new_connection() {
    let (pool, fake) = pool(PoolLimits::default());
    fake.0.draining.store(1, Ordering::Relaxed);
    let mut tunnels = Vec::new();
    soon(async {
        while made(&fake) < 2 {
            tunnels.push(pool.open(&1, &request()).await.unwrap());
        }
    })
    .await;
    assert_eq!(pool.stats().connections, 1);
}

#[tokio::test]
async fn a_peer_that_closes_every_connection_ends_in_an_error() {
    let (pool, fake) = pool(PoolLimits::default());
    fake.0.closing.store(true, Ordering::Relaxed);
    let opened = soon(pool.open(&1, &request())).await;
    assert!(matches!(opened, Err(PoolError::Open(_))), "{opened:?}");
    assert!(made(&fake) <= 4, "{}", made(&fake));
}

#[tokio::test]
async fn a_busy_connection_gets_company() {
    let (pool, fake) = pool(PoolLimits::default());
    let mut bulk = soon(pool.open(&1, &request())).await.unwrap();
    bulk.set_bulk(true);
    let mut second = soon(pool.open(&1, &request())).await.unwrap();
    assert_eq!(made(&fake), 2);
    // The new one is idle: no third is made, and the next tunnel goes there.
    let _third = soon(pool.open(&1, &request())).await.unwrap();
    assert_eq!(made(&fake), 2);
    second.write_all(b"x").await.unwrap();
    bulk.set_bulk(false);
}

#[tokio::test]
async fn idle_connections_are_evicted_and_used_ones_kept() {
    let (pool, fake) = pool(PoolLimits {
        idle: std::time::Duration::from_millis(40),
        ..PoolLimits::default()
    });
    let _held = soon(pool.open(&1, &request())).await.unwrap();
    drop(soon(pool.open(&2, &request())).await.unwrap());
    fake.0.accepted.lock().unwrap().truncate(1);
    let evicting = tokio::spawn(pool.clone().run_eviction());
    // The evicted connection's server sees it close; the other one is still served.
    let server = fake.0.servers.lock().unwrap().pop().unwrap();
    soon(server).await.unwrap();
    assert_eq!(pool.stats().connections, 1);
    evicting.abort();
}

#[tokio::test]
async fn close_matching_takes_out_what_matches_and_leaves_its_tunnels() {
    let (pool, fake) = pool(PoolLimits::default());
    let mut held = soon(pool.open(&1, &request())).await.unwrap();
    let _other = soon(pool.open(&2, &request())).await.unwrap();
    assert_eq!(pool.close_matching(CloseHow::Drain, |key| *key == 1), 1);
    assert_eq!(pool.stats().connections, 1);
    held.write_all(b"still there").await.unwrap();
    let _fresh = soon(pool.open(&1, &request())).await.unwrap();
    assert_eq!(made(&fake), 3);
}

#[tokio::test]
async fn an_attempt_that_was_forgotten_is_not_used() {
    let (pool, fake) = pool(PoolLimits::default());
    let request = request();
    let mut opening = Box::pin(pool.open(&1, &request));
    assert!(futures_util::poll!(&mut opening).is_pending());
    pool.close_matching(CloseHow::DrainAndForget, |_| true);
    assert!(soon(opening).await.is_ok());
    assert_eq!(made(&fake), 2);
}
