//! Starts agent and proxy, or adopts those of a node program that died, and starts them again when they end.
//!
//! ```text
//!            adopt or launch                   exit
//! (nothing) -----------------> running ------------------> (nothing)
//!     ^ mode Run: at once; with a wait that grows when it keeps dying within a second
//!     | mode Hold or End: not until the mode is Run again
//! ```
//!
//! In: command lines and modes. Out: processes in groups of their own, and events when one ends.
//! Deliberately not here: killing them with ourselves. They outlive this program, and the next one adopts them.

mod process;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};
use weft_runtime::{Backoff, Shutdown, spawn};

pub(crate) use process::{Launch, Record, Which};

use process::{Process, Running};

/// A child that lived shorter than this did not really start.
const QUICK_DEATH: Duration = Duration::from_secs(1);

/// Longest wait between two starts of a child that keeps dying.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What to do about one child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Keep it running.
    Run,
    /// Let it run, do not start it again.
    Hold,
    /// Ask it to end, do not start it again.
    End,
}

/// A child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) Which);

/// Both children, for whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct Children {
    record: Arc<Mutex<Record>>,
    agent: watch::Sender<Mode>,
    proxy: watch::Sender<Mode>,
}

impl Children {
    /// Takes over the record of a node program that died, if its processes live.
    pub(crate) fn new(record: Record, agent: Mode, proxy: Mode) -> Self {
        Self {
            record: Arc::new(Mutex::new(record)),
            agent: watch::Sender::new(agent),
            proxy: watch::Sender::new(proxy),
        }
    }

    /// Starts to supervise; ends are told through `ended`.
    pub(crate) fn supervise(
        &self,
        shutdown: &Shutdown,
        which: Which,
        launch: Launch,
        ended: mpsc::Sender<Ended>,
    ) {
        let supervisor = Supervisor {
            children: self.clone(),
            which,
            launch,
            ended,
            mode: self.mode_of(which).subscribe(),
            backoff: Backoff::random(Duration::from_millis(100), WAIT_MAX),
            quick_deaths: 0,
        };
        let name = match which {
            Which::Agent => "agent-supervisor",
            Which::Proxy => "proxy-supervisor",
        };
        spawn(shutdown, name, supervisor.run());
    }

    /// Changes what is done about a child.
    pub(crate) fn set_mode(&self, which: Which, mode: Mode) {
        self.mode_of(which).send_replace(mode);
    }

    /// What is done about a child.
    pub(crate) fn mode(&self, which: Which) -> Mode {
        *self.mode_of(which).borrow()
    }

    /// The child's pid, while it lives. Waits for a start that is in work, so that a child is known before it speaks.
    pub(crate) fn pid(&self, which: Which) -> Option<i32> {
        self.record().of(which).map(|process| process.pid)
    }

    /// How often a child was started again.
    pub(crate) fn restarts(&self, which: Which) -> u64 {
        self.record().restarts(which)
    }

    /// Whether the record on disk is ours to write; during a hand-over it is the successor's.
    pub(crate) fn keep_record(&self, ours: bool) {
        self.record().keep(ours);
    }

    /// Asks a child of another node program that failed to end, if it lives and is not ours.
    pub(crate) fn end_orphan(&self, theirs: &Record, which: Which) {
        let Some(process) = theirs
            .of(which)
            .filter(|of| self.record().of(which) != Some(*of))
        else {
            return;
        };
        if let Ok(orphan) = Running::adopt(process) {
            warn!(child = %which, pid = process.pid, "ending what another node program left");
            orphan.terminate();
        }
    }

    /// What the record on disk says; during a hand-over it is the successor's.
    pub(crate) fn record_on_disk(&self) -> Record {
        Record::load(self.record().path().to_owned())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record
            .lock()
            .expect("nobody panics while holding the record")
    }

    fn mode_of(&self, which: Which) -> &watch::Sender<Mode> {
        match which {
            Which::Agent => &self.agent,
            Which::Proxy => &self.proxy,
        }
    }
}

struct Supervisor {
    children: Children,
    which: Which,
    launch: Launch,
    ended: mpsc::Sender<Ended>,
    mode: watch::Receiver<Mode>,
    backoff: Backoff,
    quick_deaths: u32,
}

impl Supervisor {
    async fn run(mut self) {
        let known = self.children.record().of(self.which);
        let mut running = known.and_then(|process| self.adopt(process));
        loop {
            let child = match running.take() {
                Some(child) => child,
                None => match self.start().await {
                    Some(child) => child,
                    None => continue,
                },
            };
            let since = Instant::now();
            self.wait(child).await;
            self.children.record().clear(self.which);
            if self.ended.send(Ended(self.which)).await.is_err() {
                return;
            }
            if since.elapsed() < QUICK_DEATH {
                self.quick_deaths += 1;
            } else {
                self.quick_deaths = 0;
                self.backoff.reset();
            }
            // One quick death may be the signal of a tester or of the kernel; two are a pattern.
            if self.quick_deaths >= 2 {
                let wait = self.backoff.next_wait();
                warn!(child = %self.which, ?wait, "it keeps ending right after its start; see its log");
                tokio::time::sleep(wait).await;
            }
        }
    }

    fn adopt(&self, process: Process) -> Option<Running> {
        match Running::adopt(process) {
            Ok(running) => {
                info!(child = %self.which, pid = process.pid, "took over a living process");
                Some(running)
            }
            Err(error) => {
                info!(child = %self.which, pid = process.pid, %error, "the recorded process is gone");
                self.children.record().clear(self.which);
                None
            }
        }
    }

    async fn start(&mut self) -> Option<Running> {
        if *self.mode.borrow_and_update() != Mode::Run {
            // The sender lives as long as this task's own handle.
            let _ = self.mode.changed().await;
            return None;
        }
        match self.launch() {
            Ok(running) => Some(running),
            Err(error) => {
                error!(child = %self.which, %error, "cannot start it; check the program's path");
                tokio::time::sleep(self.backoff.next_wait()).await;
                None
            }
        }
    }

    fn launch(&self) -> io::Result<Running> {
        // Under the lock: who connects meanwhile is looked up only when its pid is known.
        let mut record = self.children.record();
        let running = self.launch.start()?;
        info!(child = %self.which, pid = running.process.pid, "started");
        record.set(self.which, running.process);
        Ok(running)
    }

    /// Until the child has ended.
    async fn wait(&mut self, child: Running) {
        loop {
            if *self.mode.borrow_and_update() == Mode::End {
                child.terminate();
            }
            tokio::select! {
                status = child.ended() => {
                    info!(child = %self.which, pid = child.process.pid, status, "ended");
                    return;
                }
                changed = self.mode.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
