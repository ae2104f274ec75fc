//! Wires the agent: the controller's word in, steps of the roster out to holder and kernel.
//!
//! One task owns roster and capture; admin and metrics read published pictures.
//! Not here: what to do about a pod (`roster`), how it is captured (`capture`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tracing::{info, warn};
use weft_agent::capture::{Capture, CaptureError, CaptureSettings};
use weft_config::{Enrollments, Origin};
use weft_node_api::{AgentClient, AgentEvent, Listeners, NackReason, PodFacts, PodSpec};
use weft_runtime::{Request, Response, Shutdown, Signals};
use weft_telemetry::log::LogHandle;
use weft_types::PodUid;

use crate::config::Options;
use crate::ids::PodIds;
use crate::limits::Watch;
use crate::metrics;
use crate::netns::open_netns;
use crate::pod_capture::pod_capture;
use crate::refusals::Refusals;
use crate::roster::{Roster, Step};
use crate::view::{ConfigView, View, current};

/// How often captures that never saw their SYN are swept; each lives 10 s at least, so this is often enough.
const SWEEP_PERIOD: Duration = Duration::from_secs(5);

type Fd = Arc<OwnedFd>;

/// Why the agent ended.
pub(crate) enum Outcome {
    /// It was asked to.
    Done,
    /// The configuration cannot work: exit 64.
    Config(String),
    /// It broke.
    Failed(String),
}

/// Runs until SIGTERM. Capture stays in force: programs, maps and links are pinned.
pub(crate) async fn run(options: Options, log: LogHandle) -> Outcome {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return Outcome::Failed(format!("cannot catch signals: {error}")),
    };
    if let Err(error) = std::fs::create_dir_all(&options.common.state_dir) {
        let path = options.common.state_dir.display();
        return Outcome::Config(format!("--state-dir {path} cannot be made: {error}"));
    }
    let shutdown = Shutdown::new();
    let mut agent = match Agent::start(&options, log, &shutdown) {
        Ok(agent) => agent,
        Err(outcome) => return outcome,
    };
    info!(node = options.common.node, "agent started");
    tokio::select! {
        _ = signals.next() => {}
        () = agent.work() => {}
    }
    shutdown.stop();
    Outcome::Done
}

struct Agent {
    roster: Roster,
    capture: Capture,
    refusals: Refusals,
    limits: Watch,
    enrollments: Enrollments,
    client: AgentClient,
    events: mpsc::Receiver<AgentEvent<Fd>>,
    /// What the holder made for each pod that it holds for us, for one that stays although it was let go.
    held: BTreeMap<PodUid, (PodFacts, Listeners<Fd>)>,
    view: Arc<Mutex<Arc<View>>>,
    /// What is on disk from before has been carried out, or the controller's word.
    known: bool,
    /// The controller's word has been carried out.
    complete: bool,
    settled: bool,
}

impl Agent {
    fn start(options: &Options, log: LogHandle, shutdown: &Shutdown) -> Result<Self, Outcome> {
        let mut settings = CaptureSettings::new(&options.common.node);
        settings.bpffs.clone_from(&options.bpffs);
        settings.cgroup.clone_from(&options.cgroup);
        let config = options.config_settings();
        // Before anything is pinned: settings that cannot work must not leave capture behind.
        config
            .check()
            .map_err(|error| Outcome::Config(error.to_string()))?;
        let capture = Capture::open(settings).map_err(|error| refusal(&error))?;
        let enrollments = Enrollments::start(config, shutdown)
            .map_err(|error| Outcome::Config(error.to_string()))?;
        let socket = options.common.run_dir.join("node.sock");
        let (client, events) = AgentClient::start(&socket, generation_base(), shutdown);
        let sockets = capture
            .sockets_map()
            .map_err(|error| Outcome::Failed(error.to_string()))?;
        client
            .set_maps(sockets)
            .map_err(|error| Outcome::Failed(error.to_string()))?;
        let agent = Self {
            roster: Roster::new(PodIds::open(&options.common.state_dir)),
            refusals: Refusals::left_by(&capture),
            limits: Watch::default(),
            capture,
            enrollments,
            client,
            events,
            held: BTreeMap::new(),
            view: Arc::default(),
            known: false,
            complete: false,
            settled: false,
        };
        agent
            .serve(options, log, shutdown)
            .map_err(|error| Outcome::Config(error.to_string()))?;
        Ok(agent)
    }

    fn serve(&self, options: &Options, log: LogHandle, shutdown: &Shutdown) -> io::Result<()> {
        let (view, enrollments) = (self.view.clone(), self.enrollments.clone());
        let path = options.common.run_dir.join("agent-admin.sock");
        let listener = weft_runtime::unix_listener(&path).map_err(|error| about(&path, &error))?;
        weft_runtime::serve_unix(shutdown, listener, move |request| {
            let response = answer(&request, &current(&view), &enrollments, &log);
            std::future::ready(response)
        })?;
        let address = options.metrics_address;
        let metrics = metrics::all(&self.view, self.enrollments.clone());
        let listener = weft_runtime::tcp_listener(address).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("--metrics-address {address} cannot be used: {error}"),
            )
        })?;
        weft_runtime::serve_tcp(shutdown, listener, move |request| {
            let response = match request.path.as_str() {
                "/metrics" | "/stats/prometheus" => Response::metrics(metrics.encode()),
                _ => Response::not_found(),
            };
            std::future::ready(response)
        })?;
        Ok(())
    }

    /// Ends only when the connection to the holder is shut down.
    async fn work(&mut self) {
        let mut changes = self.enrollments.changed();
        changes.mark_changed();
        let mut sweep = tokio::time::interval(SWEEP_PERIOD);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.roster.next_due();
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    changes.mark_unchanged();
                    self.reconcile();
                }
                event = self.events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => return,
                },
                () = until(due) => {
                    let steps = self.roster.due(Instant::now());
                    self.carry_out(steps);
                }
                _ = sweep.tick() => {
                    if let Err(error) = self.capture.sweep() {
                        warn!(%error, "stale captures could not be swept");
                    }
                }
            }
            self.settle();
            self.publish();
        }
    }

    /// Once every pod is enrolled under this ABI, what an agent of another ABI left pinned may go.
    fn settle(&mut self) {
        if self.settled || !self.complete || !self.roster.all_enrolled() {
            return;
        }
        self.settled = true;
        let outcome = tokio::task::block_in_place(|| self.capture.finish_upgrade());
        if let Err(error) = outcome {
            warn!(%error, "pins of another generation could not be removed");
        }
    }

    fn reconcile(&mut self) {
        let set = self.enrollments.current();
        if set.origin() == Origin::Empty {
            return;
        }
        let steps = self.roster.reconcile(&set, Instant::now());
        self.carry_out(steps);
        if !self.known && set.origin() == Origin::Disk {
            // The copy on disk may be older than a pod: what it does not name stays captured and held.
            if let Err(error) = self.client.set_last_known() {
                warn!(%error, "the holder was not told that the remembered pods are named");
            }
        }
        self.known = true;
        if !self.complete && set.origin() == Origin::Live {
            self.complete = true;
            // What an earlier agent left pinned and nobody wants any more goes now.
            self.forget_unknown();
            if let Err(error) = self.client.set_complete() {
                warn!(%error, "the holder was not told that the pods are complete");
            }
        }
    }

    fn on_event(&mut self, event: AgentEvent<Fd>) {
        match event {
            AgentEvent::Connected | AgentEvent::PodRemoved { .. } => {}
            AgentEvent::PodReady {
                uid,
                facts,
                listeners,
            } => {
                if self.roster.knows(&uid) {
                    let made = (facts.clone(), listeners.clone());
                    self.held.insert(uid.clone(), made);
                }
                self.enrol(&uid, facts, &listeners);
            }
            AgentEvent::PodRefused {
                uid,
                reason,
                detail,
            } => {
                warn!(pod = %uid, reason = detail, "weft-node cannot hold the pod; it is tried again");
                if reason == NackReason::WrongNetns {
                    let steps = self.roster.namespace_is_taken();
                    self.carry_out(steps);
                }
                self.roster.failed(&uid, detail, Instant::now());
            }
            AgentEvent::PodGone { uid } => {
                info!(pod = %uid, "the pod's network namespace was deleted");
                self.held.remove(&uid);
                let step = self.roster.netns_gone(&uid, Instant::now());
                self.carry_out(step);
            }
            AgentEvent::Refusals { set } => self.refusals.want(set, &self.capture),
            AgentEvent::Incompatible { detail } => {
                warn!(
                    detail,
                    "weft-node and weft-agent are of versions too far apart: update both"
                );
            }
        }
    }

    fn enrol(&mut self, uid: &PodUid, facts: PodFacts, listeners: &Listeners<Fd>) {
        let Some(pod) = self.roster.pods().get(uid) else {
            // It left meanwhile; its RemovePod is on its way.
            return;
        };
        let (id, netns) = (pod.id, pod.enrollment.netns.clone());
        let opened = netns
            .ok_or_else(|| io::Error::other("its network namespace is not known"))
            .and_then(|path| open_netns(&path).map_err(|error| about(&path, &error)));
        let outcome = opened.map_err(|error| error.to_string()).and_then(|netns| {
            let pod = pod_capture(id, netns.as_fd(), &facts, listeners);
            self.capture.enrol(&pod).map_err(|error| error.to_string())
        });
        match outcome {
            Ok(()) => {
                info!(pod = %uid, id, "enrolled");
                self.roster.captured(uid, facts);
            }
            Err(reason) => {
                warn!(pod = %uid, reason, "the pod cannot be captured; it is tried again");
                self.roster.failed(uid, reason, Instant::now());
            }
        }
    }

    fn carry_out(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            match step {
                Step::Hold(spec) => self.hold(spec),
                Step::Loosen { uid, id } => {
                    self.loosen(id);
                    info!(pod = %uid, id, "un-enrolled, tunnels to it still arrive for a while");
                }
                Step::Stay(uid) => self.stay(&uid),
                Step::Release { uid, id } => {
                    self.forget(id);
                    self.held.remove(&uid);
                    info!(pod = %uid, id, "un-enrolled");
                    if let Err(error) = self.client.remove(&uid) {
                        warn!(%error, pod = %uid, "the holder was not told to let go");
                    }
                }
                Step::Forget { id } => self.forget(id),
            }
        }
    }

    fn stay(&mut self, uid: &PodUid) {
        match self.held.get(uid).cloned() {
            Some((facts, listeners)) => self.enrol(uid, facts, &listeners),
            // The holder is being asked for them.
            None => self
                .roster
                .failed(uid, "its sockets are not known".into(), Instant::now()),
        }
    }

    fn hold(&mut self, spec: PodSpec) {
        let uid = spec.uid.clone();
        let held = open_netns(&spec.netns)
            .map_err(|error| about(&spec.netns, &error).to_string())
            .and_then(|netns| {
                let put = self.client.put(spec, Arc::new(netns));
                put.map_err(|error| error.to_string())
            });
        if let Err(reason) = held {
            self.roster.failed(&uid, reason, Instant::now());
        }
    }

    fn forget_unknown(&self) {
        let wanted = self.roster.known_ids();
        match self.capture.pods() {
            Ok(pinned) => {
                for id in pinned.into_iter().filter(|id| !wanted.contains(id)) {
                    self.forget(id);
                }
            }
            Err(error) => warn!(%error, "pins of earlier pods cannot be listed"),
        }
    }

    /// Blocks as [`Self::forget`].
    fn loosen(&self, id: u32) {
        let outcome = tokio::task::block_in_place(|| self.capture.loosen(id));
        if let Err(error) = outcome {
            warn!(%error, id, "capture of a pod could not be loosened");
        }
    }

    /// Blocks for the connections of the pod that are in handshake; the runtime moves other tasks away.
    fn forget(&self, id: u32) {
        let outcome = tokio::task::block_in_place(|| self.capture.unenrol(id));
        if let Err(error) = outcome {
            warn!(%error, id, "capture of a pod could not be removed");
        }
    }

    fn publish(&mut self) {
        let counters = self.capture.counters().unwrap_or_else(|error| {
            warn!(%error, "counters cannot be read");
            Vec::new()
        });
        self.limits.look(&counters);
        let counters = counters
            .into_iter()
            .map(|(counter, value)| (counter.name(), value));
        let counters = counters.collect();
        let view = View::of(&self.roster, self.known, counters, &self.refusals);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

fn answer(request: &Request, view: &View, enrollments: &Enrollments, log: &LogHandle) -> Response {
    let json = |value: serde_json::Result<Vec<u8>>| match value {
        Ok(body) => Response::json(body),
        Err(error) => Response::error(500, error.to_string()),
    };
    match request.path.as_str() {
        "/pods" => json(serde_json::to_vec(&view.pods)),
        "/refusals" => json(serde_json::to_vec(&view.refusals)),
        "/counters" => json(serde_json::to_vec(&view.counters)),
        "/config_dump" | "/config" => {
            json(serde_json::to_vec(&ConfigView::from(enrollments.status())))
        }
        "/logging" => logging(request, log),
        "/healthz/ready" | "/ready" if view.complete => Response::text("ready\n"),
        "/healthz/ready" | "/ready" => Response::error(503, "no configuration yet\n"),
        _ => Response::not_found(),
    }
}

/// `/logging` tells the filter in force, `/logging?level=FILTER` sets one, `level=reset` brings the first one back.
fn logging(request: &Request, log: &LogHandle) -> Response {
    let level = request
        .query
        .as_deref()
        .and_then(|query| query.strip_prefix("level="));
    let outcome = match level {
        Some(level) => log.set(level).and_then(|()| log.current()),
        None => log.current(),
    };
    match outcome {
        Ok(filter) => Response::text(filter + "\n"),
        Err(error) => Response::error(400, format!("{error}\n")),
    }
}

/// A missing feature or privilege is the operator's to fix; everything else is ours.
fn refusal(error: &CaptureError) -> Outcome {
    let text = error.to_string();
    match error {
        CaptureError::KernelTooOld { .. }
        | CaptureError::ProgramRefused { .. }
        | CaptureError::Capabilities(_)
        | CaptureError::NoCgroup2
        | CaptureError::Cgroup { .. }
        | CaptureError::NoBpffs { .. }
        | CaptureError::NodeName(_) => Outcome::Config(text),
        _ => Outcome::Failed(text),
    }
}

/// Microseconds since 1970: generations of a later process are higher than those of an earlier one.
fn generation_base() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2)
        })
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
