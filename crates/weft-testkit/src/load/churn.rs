//! A steady stream of new connections on a fixed schedule (an open loop).
//!
//! In: a namespace, an echo server, an interval. Out: a report. The schedule does not slow down with the server, and every time
//! counts from the moment at which the connection was due: a second without service shows as a second in every connection that
//! was due in it, and not as a pause. Not here: what the counts mean (`report`).

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::EXCHANGE_LIMIT;
use super::death::Phase;
use super::report::{ChurnReport, Outcome, Times};
use crate::leak::canary_payload;
use crate::netns::{Netns, runtime};

/// Payload of one connection of a churn, in bytes.
const CHURN_BYTES: usize = 200;

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
    progress: Arc<Progress>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<ChurnReport>>>,
}

/// How far a churn has come.
#[derive(Default)]
struct Progress {
    good: AtomicU64,
    failed: AtomicU64,
    begun: AtomicU64,
    /// Every exchange with a lower number has ended.
    settled: AtomicU64,
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

    /// The same at another rate.
    #[must_use]
    pub fn per_second(mut self, rate: u32) -> Self {
        self.interval = Duration::from_secs(1) / rate;
        self
    }

    /// Begins connections until it is stopped.
    pub fn start(self) -> Result<Churning> {
        let progress = Arc::<Progress>::default();
        let (stop, stopped) = oneshot::channel();
        let noted = Arc::clone(&progress);
        let thread = self.netns.clone().spawn("churn", move || {
            runtime()?.block_on(self.run(stopped, &noted))
        })?;
        Ok(Churning {
            progress,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    async fn run(
        self,
        mut stopped: oneshot::Receiver<()>,
        progress: &Progress,
    ) -> Result<ChurnReport> {
        let mut report = ChurnReport::default();
        let mut exchanges = JoinSet::new();
        let mut under_way = BTreeSet::new();
        // Ticks that were missed, because this thread itself got no processor, follow at once.
        let mut schedule = tokio::time::interval(self.interval);
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                due = schedule.tick() => {
                    let (number, due) = (report.begun, due.into_std());
                    let exchange = one_exchange(self.to, self.from, due);
                    under_way.insert(number);
                    exchanges.spawn(async move { (number, exchange.await) });
                    report.begun += 1;
                }
                Some(outcome) = exchanges.join_next() => {
                    let (number, outcome) = outcome.context("an exchange panicked")?;
                    under_way.remove(&number);
                    report.count(outcome);
                }
            }
            progress.note(&report, under_way.first().copied());
        }
        while let Some(outcome) = exchanges.join_next().await {
            report.count(outcome.context("an exchange panicked")?.1);
        }
        report.sum_up();
        Ok(report)
    }
}

// === impl Progress ===

impl Progress {
    fn note(&self, report: &ChurnReport, oldest: Option<u64>) {
        self.good.store(report.good, Ordering::Relaxed);
        self.failed.store(report.failed(), Ordering::Relaxed);
        self.begun.store(report.begun, Ordering::Relaxed);
        let settled = oldest.unwrap_or(report.begun);
        self.settled.store(settled, Ordering::Relaxed);
    }
}

// === impl Churning ===

impl Churning {
    /// How many exchanges ended well so far.
    pub fn good(&self) -> u64 {
        self.progress.good.load(Ordering::Relaxed)
    }

    /// How many exchanges did not end well so far.
    pub fn failed(&self) -> u64 {
        self.progress.failed.load(Ordering::Relaxed)
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

    /// Waits until each exchange that is under way now has ended, well or not.
    pub fn settle(&self) -> Result<()> {
        let begun = self.progress.begun.load(Ordering::Relaxed);
        crate::wait::until("connections under way to end", crate::wait::LONG, || {
            let settled = self.progress.settled.load(Ordering::Relaxed);
            (settled >= begun)
                .then_some(())
                .ok_or_else(|| anyhow!("number {settled} of {begun} has not"))
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

async fn one_exchange(to: SocketAddr, from: Option<IpAddr>, due: Instant) -> Outcome {
    let begun = Instant::now();
    let (mut phase, mut local) = (Phase::Connect, None);
    let exchange = try_exchange(to, from, &mut phase, &mut local);
    let result = tokio::time::timeout(EXCHANGE_LIMIT, exchange).await;
    let ended = Instant::now();
    let failed = |error| Outcome::Failed {
        error,
        from: local,
        phase,
        begun,
        ended,
    };
    match result {
        Ok(Ok((answer, first_byte))) if answer => Outcome::Good(Times {
            first_byte: first_byte.duration_since(due),
            whole: ended.duration_since(due),
        }),
        Ok(Ok(_)) => Outcome::Wrong,
        Ok(Err(error)) => failed(error),
        Err(_) => failed(ErrorKind::TimedOut.into()),
    }
}

/// Begins to connect, without waiting: the local address is known from here on, whatever becomes of it.
fn begin(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    TcpStream::from_std(socket.into())
}

/// Waits until the connection is there or has failed.
async fn connected(stream: &TcpStream) -> io::Result<()> {
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), Err)
}

/// Whether the same bytes came back, and when the first of them did.
async fn try_exchange(
    to: SocketAddr,
    from: Option<IpAddr>,
    phase: &mut Phase,
    local: &mut Option<SocketAddr>,
) -> io::Result<(bool, Instant)> {
    let mut stream = begin(to, from)?;
    *local = stream.local_addr().ok();
    connected(&stream).await?;
    stream.set_nodelay(true)?;
    let payload = canary_payload(CHURN_BYTES);
    *phase = Phase::Write;
    stream.write_all(&payload).await?;
    stream.shutdown().await?;
    *phase = Phase::Read;
    let mut answer = vec![0; CHURN_BYTES];
    let length = stream.read(&mut answer).await?;
    let first_byte = Instant::now();
    if length == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    answer.truncate(length);
    stream.read_to_end(&mut answer).await?;
    Ok((answer == payload, first_byte))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// Lets a connect be ended by `end` before the client looks at it, as it happens to one that waits for a processor.
    async fn ended_unseen(end: impl FnOnce(TcpListener)) -> ErrorKind {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = begin(listener.local_addr().unwrap(), None).unwrap();
        end(listener);
        // Nothing is asked for: what is always told is an error or the end of both directions.
        let mut polled = [PollFd::new(&stream, PollFlags::empty())];
        poll(&mut polled, None).unwrap();
        connected(&stream).await.unwrap_err().kind()
    }

    #[tokio::test]
    async fn a_connect_whose_connection_was_reset_meanwhile_says_reset() {
        let kind = ended_unseen(|listener| {
            let (accepted, _) = listener.accept().unwrap();
            Socket::from(accepted)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        });
        assert_eq!(kind.await, ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_connect_whose_connection_died_in_the_accept_queue_says_reset_as_well() {
        assert_eq!(ended_unseen(drop).await, ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_connect_whose_connection_was_closed_meanwhile_succeeds() {
        // As by the end of its process: nothing is unread, so the kernel sends FIN.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = begin(listener.local_addr().unwrap(), None).unwrap();
        drop(listener.accept().unwrap());
        connected(&stream).await.unwrap();
    }

    #[tokio::test]
    async fn a_connect_that_nobody_listens_for_says_refused() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = nobody.local_addr().unwrap();
        drop(nobody);
        let stream = begin(to, None).unwrap();
        let error = connected(&stream).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}
