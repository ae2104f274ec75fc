//! Clients: one exchange, or a steady stream of new connections on a fixed schedule.
//!
//! In: a namespace, an address. Out: what came back, or [`ChurnReport`] that counts every way in
//! which a connection can go wrong. The schedule does not slow down with the server, so a moment
//! without service shows as failures and not as a pause. Not here: servers (`peer`).

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::leak::canary_payload;
use crate::netns::{Netns, runtime};

/// Bound of one exchange: a hundred times what it takes on a busy machine.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(20);
/// Payload of one connection of a churn, in bytes.
const CHURN_BYTES: usize = 200;

/// Connects from inside a namespace.
pub fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    let connected = netns.enter(|| Ok(TcpStream::connect_timeout(&to, EXCHANGE_LIMIT)));
    let stream = connected.map_err(io::Error::other)??;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(EXCHANGE_LIMIT))?;
    stream.set_write_timeout(Some(EXCHANGE_LIMIT))?;
    Ok(stream)
}

/// Connects, sends, ends the sending side, and returns all that comes back.
pub fn exchange(netns: &Netns, to: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(netns, to)?;
    let mut sender = stream.try_clone()?;
    // Both directions at once: a large payload does not fit into the buffers between.
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            sender.write_all(payload)?;
            sender.shutdown(Shutdown::Write)
        });
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        sending
            .join()
            .map_err(|_| io::Error::other("the sending thread panicked"))??;
        Ok(answer)
    })
}

/// An exchange with an echo server whose payload is all canaries; an error when anything but the
/// same bytes comes back.
pub fn echo(netns: &Netns, to: SocketAddr, length: usize) -> Result<()> {
    let payload = canary_payload(length);
    let answer = exchange(netns, to, &payload)
        .with_context(|| format!("{to} from {} does not echo", netns.name()))?;
    if answer != payload {
        return Err(anyhow!(
            "{to} from {}: sent {length} bytes, {} other ones came back",
            netns.name(),
            answer.len()
        ));
    }
    Ok(())
}

/// A steady stream of new connections.
#[derive(Clone, Debug)]
pub struct Churn {
    /// Namespace of the client.
    pub netns: Netns,
    /// An echo server.
    pub to: SocketAddr,
    /// Local address of the connections; none lets the kernel choose.
    pub from: Option<IpAddr>,
    /// Time from one connection to the next.
    pub interval: Duration,
}

/// A churn in progress. Dropping it ends it.
pub struct Churning {
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<ChurnReport>>>,
}

/// What became of the connections of a churn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChurnReport {
    /// Connections begun.
    pub begun: u64,
    /// The same bytes came back and the connection ended cleanly.
    pub good: u64,
    /// The connect was refused.
    pub refused: u64,
    /// The connection was reset, or ended before its time.
    pub broken: u64,
    /// Nothing came in time.
    pub late: u64,
    /// Other bytes came back than were sent.
    pub wrong: u64,
    /// Anything else, for example no free port.
    pub other: u64,
    /// The longest good exchange.
    pub slowest: Duration,
    /// The first failure in words.
    pub first_failure: Option<String>,
}

enum Outcome {
    Good(Duration),
    Wrong,
    Late,
    Failed(io::Error, &'static str),
}

// === impl Churn ===

impl Churn {
    /// A churn of a hundred connections a second.
    pub fn new(netns: &Netns, to: SocketAddr) -> Self {
        Self {
            netns: netns.clone(),
            to,
            from: None,
            interval: Duration::from_millis(10),
        }
    }

    /// Begins connections until it is stopped.
    pub fn start(self) -> Result<Churning> {
        let (done, failed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (stop, stopped) = oneshot::channel();
        let counted = (done.clone(), failed.clone());
        let thread = self.netns.clone().spawn("churn", move || {
            runtime()?.block_on(self.run(stopped, &counted.0, &counted.1))
        })?;
        Ok(Churning {
            done,
            failed,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    async fn run(
        self,
        mut stopped: oneshot::Receiver<()>,
        done: &AtomicU64,
        failed: &AtomicU64,
    ) -> Result<ChurnReport> {
        let mut report = ChurnReport::default();
        let mut exchanges = JoinSet::new();
        let mut schedule = tokio::time::interval(self.interval);
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                _ = schedule.tick() => {
                    report.begun += 1;
                    exchanges.spawn(one_exchange(self.to, self.from));
                }
                Some(outcome) = exchanges.join_next() => {
                    report.count(outcome.context("an exchange panicked")?);
                    done.store(report.good, Ordering::Relaxed);
                    failed.store(report.failed(), Ordering::Relaxed);
                }
            }
        }
        while let Some(outcome) = exchanges.join_next().await {
            report.count(outcome.context("an exchange panicked")?);
        }
        Ok(report)
    }
}

// === impl Churning ===

impl Churning {
    /// How many exchanges ended well so far.
    pub fn good(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many exchanges did not end well so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits until this many more exchanges have ended well.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.good() + more;
        crate::wait::until("new connections that succeed", crate::wait::LONG, || {
            let good = self.good();
            (good >= goal)
                .then_some(())
                .ok_or_else(|| anyhow!("{good} of {goal} so far"))
        })
    }

    /// Returns right after an exchange has ended, when with a short exchange and a long interval
    /// none is under way.
    pub fn wait_for_pause(&self) {
        let (before, started) = (self.good(), Instant::now());
        while self.good() == before && started.elapsed() < EXCHANGE_LIMIT {
            std::thread::yield_now();
        }
    }

    /// Begins no more connections, waits for those under way, and reports.
    pub fn stop(mut self) -> Result<ChurnReport> {
        self.end().expect("a churn is stopped once")
    }

    fn end(&mut self) -> Option<Result<ChurnReport>> {
        drop(self.stop.take());
        self.thread.take().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("a churn panicked"))
                .and_then(|result| result)
        })
    }
}

impl Drop for Churning {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

// === impl ChurnReport ===

impl ChurnReport {
    /// An error when any connection did not end well.
    pub fn verdict(&self) -> Result<()> {
        if self.good == self.begun && self.begun > 0 {
            return Ok(());
        }
        Err(anyhow!(
            "of {} connections {} were good, {} refused, {} broken, {} late, {} with wrong bytes, {} other; first failure: {}",
            self.begun,
            self.good,
            self.refused,
            self.broken,
            self.late,
            self.wrong,
            self.other,
            self.first_failure.as_deref().unwrap_or("none")
        ))
    }

    /// Connections that did not end well.
    pub fn failed(&self) -> u64 {
        self.refused + self.broken + self.late + self.wrong + self.other
    }

    fn count(&mut self, outcome: Outcome) {
        let failure = match outcome {
            Outcome::Good(took) => {
                self.good += 1;
                self.slowest = self.slowest.max(took);
                return;
            }
            Outcome::Wrong => {
                self.wrong += 1;
                "wrong bytes came back".to_owned()
            }
            Outcome::Late => {
                self.late += 1;
                format!("nothing within {} s", EXCHANGE_LIMIT.as_secs())
            }
            Outcome::Failed(error, phase) => {
                match error.kind() {
                    ErrorKind::ConnectionRefused => self.refused += 1,
                    ErrorKind::ConnectionReset
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
                    | ErrorKind::ConnectionAborted => self.broken += 1,
                    _ => self.other += 1,
                }
                format!("{phase}: {error}")
            }
        };
        let number = self.begun;
        self.first_failure
            .get_or_insert_with(|| format!("{failure} (about connection {number})"));
    }
}

async fn one_exchange(to: SocketAddr, from: Option<IpAddr>) -> Outcome {
    let started = Instant::now();
    match tokio::time::timeout(EXCHANGE_LIMIT, try_exchange(to, from)).await {
        Ok(Ok(true)) => Outcome::Good(started.elapsed()),
        Ok(Ok(false)) => Outcome::Wrong,
        Ok(Err((error, phase))) => Outcome::Failed(error, phase),
        Err(_) => Outcome::Late,
    }
}

async fn try_exchange(
    to: SocketAddr,
    from: Option<IpAddr>,
) -> Result<bool, (io::Error, &'static str)> {
    let connect = async {
        let socket = if to.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let mut stream = connect.await.map_err(|error| (error, "connect"))?;
    let payload = canary_payload(CHURN_BYTES);
    stream
        .write_all(&payload)
        .await
        .map_err(|error| (error, "write"))?;
    stream
        .shutdown()
        .await
        .map_err(|error| (error, "shutdown"))?;
    let mut answer = Vec::with_capacity(CHURN_BYTES);
    stream
        .read_to_end(&mut answer)
        .await
        .map_err(|error| (error, "read"))?;
    if answer.is_empty() {
        return Err((ErrorKind::UnexpectedEof.into(), "read"));
    }
    Ok(answer == payload)
}
