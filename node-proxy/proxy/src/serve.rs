//! The worker threads: each a runtime of its own, with its own connections and tunnels.
//!
//! In: commands of the control thread, new configuration. Out: nothing but traffic and listings.
//! Share nothing on the data path: what a worker needs of the others it reads from snapshots.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::Instant;
use weft_hbone::{CloseHow, PoolStats};
use weft_node_api::Removal;
use weft_runtime::{Shutdown, spawn, spawn_thread};
use weft_types::PodUid;

use crate::accept;
use crate::admission::{Arrival, Decision, decide};
use crate::connections::{Judgement, Listed};
use crate::failure::Denial;
use crate::memory;
use crate::pods::Pod;
use crate::shared::Shared;
use crate::worker::Worker;

/// How often the byte counters of long connections are brought up to date, and unused memory is given back.
const FLUSH_INTERVAL: Duration = Duration::from_secs(15);
/// Least time between two rounds of judging live connections: 10 000 of them take some 10 ms, so a tenth of a core at most.
const JUDGE_PAUSE: Duration = Duration::from_millis(100);

/// The control thread's hold on all workers. They end when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Workers {
    commands: Arc<[mpsc::UnboundedSender<Command>]>,
}

enum Command {
    Serve(Arc<Pod>),
    Forget(PodUid, Removal),
    List(oneshot::Sender<(Vec<Listed>, PoolStats)>),
}

impl Workers {
    /// Starts `count` worker threads.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        count: usize,
    ) -> io::Result<(Self, Vec<JoinHandle<io::Result<()>>>)> {
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count {
            let (sender, inbox) = mpsc::unbounded_channel();
            let shared = Arc::clone(shared);
            threads.push(spawn_thread(&format!("worker-{number}"), move || {
                run(shared, inbox)
            })?);
            commands.push(sender);
        }
        let commands = commands.into();
        Ok((Self { commands }, threads))
    }

    /// Accept for a pod from now on.
    pub(crate) fn serve(&self, pod: &Arc<Pod>) {
        self.tell(|| Command::Serve(Arc::clone(pod)));
    }

    /// Accept no more for a pod; when its namespace is gone, end its connections.
    pub(crate) fn forget(&self, uid: &PodUid, reason: Removal) {
        self.tell(|| Command::Forget(uid.clone(), reason));
    }

    /// Every live connection, and what the pools hold.
    pub(crate) async fn list(&self) -> (Vec<Listed>, PoolStats) {
        let mut all = Vec::new();
        let mut pools = PoolStats::default();
        for worker in self.commands.iter() {
            let (answer, wait) = oneshot::channel();
            if worker.send(Command::List(answer)).is_err() {
                continue;
            }
            if let Ok((list, stats)) = wait.await {
                all.extend(list);
                pools.keys += stats.keys;
                pools.connections += stats.connections;
                pools.streams += stats.streams;
            }
        }
        all.sort_by_key(|line| line.id);
        (all, pools)
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in self.commands.iter() {
            // A worker ends before its channel only by a panic, which ends the process.
            let _ = worker.send(command());
        }
    }
}

fn run(shared: Arc<Shared>, commands: mpsc::UnboundedReceiver<Command>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, work(Worker::new(shared), commands));
    Ok(())
}

async fn work(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    accept::refill_spare(&worker);
    let eviction = worker.tunnels.clone().run_eviction();
    spawn(&worker.shared.background, "pool-eviction", eviction);
    let mut accepting: HashMap<PodUid, Shutdown> = HashMap::new();
    let mut changes = worker.shared.config.changed();
    let mut flush = tokio::time::interval(FLUSH_INTERVAL);
    let mut judge_again: Option<Instant> = None;
    let mut judged = Instant::now();
    loop {
        let due = judge_again.unwrap_or(judged).max(judged + JUDGE_PAUSE);
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => obey(&worker, command, &mut accepting),
                None => return,
            },
            () = changed(&mut changes), if judge_again.is_none_or(|at| at > Instant::now()) => {
                judge_again = Some(Instant::now());
            }
            () = tokio::time::sleep_until(due), if judge_again.is_some() => {
                judge_again = judge(&worker);
                judged = Instant::now();
            }
            _ = flush.tick() => {
                worker.connections.flush();
                memory::give_back();
            }
        }
    }
}

/// Ready at each new configuration; never again once nobody can publish any more.
async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Judges all live connections under the current configuration; returns when to do so again.
fn judge(worker: &Worker) -> Option<Instant> {
    let snapshot = worker.shared.config.snapshot();
    worker
        .connections
        .judge(Instant::now(), |arrival: &Arrival| {
            match decide(&snapshot, arrival) {
                // A pod that has left configuration while it still runs: its connections end with it.
                Decision::Admit(_) | Decision::Hold(Denial::UnknownWorkload(_)) => Judgement::Keep,
                Decision::Deny(denial) => Judgement::Cut(denial),
                Decision::Hold(missing) => Judgement::Hold(missing),
            }
        })
}

fn obey(worker: &Rc<Worker>, command: Command, accepting: &mut HashMap<PodUid, Shutdown>) {
    match command {
        Command::Serve(pod) => {
            let until = pod.life.child();
            if let Err(error) = accept::start(worker, &pod, &until) {
                tracing::error!(%error, pod = %pod.workload(), "cannot watch a pod's listeners; check the limit of open files");
            }
            if let Some(former) = accepting.insert(pod.spec.uid.clone(), until) {
                former.drain();
            }
        }
        Command::Forget(uid, reason) => {
            if let Some(until) = accepting.remove(&uid) {
                until.drain();
            }
            let of_pod = |key: &crate::tunnel::TunnelKey| key.pod == uid;
            worker
                .tunnels
                .close_matching(CloseHow::DrainAndForget, of_pod);
            if reason == Removal::Gone {
                worker.connections.cut_pod(&uid);
            }
        }
        Command::List(answer) => {
            // Nobody waits any more: the question was given up.
            let _ = answer.send((worker.connections.list(), worker.tunnels.stats()));
        }
    }
}
