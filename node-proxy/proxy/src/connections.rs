//! The live connections of one worker, and the one place where a connection is recorded.
//!
//! In: facts as the phases find them out, what authorised a connection, its end. Out: one access record and one metric
//! update for each connection, a listing for the admin socket, and the word to those that are no longer allowed.
//! Belongs to one thread: cells instead of locks.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_hbone::Counters;
use weft_telemetry::{
    AccessLog, ConnectionMetrics, ConnectionRecord, ConnectionSeries, Direction, Party,
    ResponseFlag, Security, SeriesLabels, ServiceLabel,
};
use weft_types::PodUid;

use crate::failure::{Denial, Failure};

/// Where records and counts of all workers go.
#[derive(Clone)]
pub(crate) struct Telemetry {
    pub(crate) metrics: Arc<ConnectionMetrics>,
    pub(crate) access: AccessLog,
}

/// The live connections of one worker; `G` is what authorised one, to be judged again later.
pub(crate) struct Connections<G> {
    telemetry: Telemetry,
    live: RefCell<HashMap<u64, Rc<Live<G>>>>,
}

/// How long a live connection is kept when something that decides about it is missing.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// What is known about a connection; filled in as its phases go on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) source: Party,
    pub(crate) destination: Party,
    pub(crate) hbone_target: Option<String>,
    pub(crate) service: Option<ServiceLabel>,
    pub(crate) security: Security,
}

/// Which end of the relay is the client: counters are named by end, records by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstEnd {
    Client,
    Server,
}

struct Live<G> {
    id: u64,
    pod: PodUid,
    direction: Direction,
    first_end: FirstEnd,
    accepted: Instant,
    started: SystemTime,
    facts: RefCell<Facts>,
    counters: Rc<Counters>,
    series: RefCell<Option<ConnectionSeries>>,
    grant: RefCell<Option<G>>,
    held_since: Cell<Option<Instant>>,
    cut: Cell<Option<Failure>>,
    cut_set: Notify,
}

/// One connection, held by the future that serves it. Dropped without [`Connection::end`], it counts as stopped.
pub(crate) struct Connection<G> {
    live: Rc<Live<G>>,
    registry: Rc<Connections<G>>,
    ended: bool,
}

/// One line of the listing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) direction: &'static str,
    pub(crate) source: Option<SocketAddr>,
    pub(crate) source_identity: Option<String>,
    pub(crate) source_workload: Option<String>,
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) destination_identity: Option<String>,
    pub(crate) destination_workload: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) security: &'static str,
    pub(crate) open: bool,
    pub(crate) age_seconds: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// Numbers connections across workers, so that one number names one connection of the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl<G> Connections<G> {
    pub(crate) fn new(telemetry: Telemetry) -> Rc<Self> {
        Rc::new(Self {
            telemetry,
            live: RefCell::default(),
        })
    }

    /// A connection has been accepted.
    pub(crate) fn begin(
        self: &Rc<Self>,
        pod: &PodUid,
        direction: Direction,
        first_end: FirstEnd,
        counters: Rc<Counters>,
    ) -> Connection<G> {
        let live = Rc::new(Live {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            pod: pod.clone(),
            direction,
            first_end,
            accepted: Instant::now(),
            started: SystemTime::now(),
            facts: RefCell::default(),
            counters,
            series: RefCell::new(None),
            grant: RefCell::new(None),
            held_since: Cell::new(None),
            cut: Cell::new(None),
            cut_set: Notify::new(),
        });
        self.live.borrow_mut().insert(live.id, Rc::clone(&live));
        Connection {
            live,
            registry: Rc::clone(self),
            ended: false,
        }
    }

    /// How many live.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }

    /// Judges every connection that was authorised here again; those refused are told. Returns when those that cannot be
    /// judged yet have to be judged once more.
    pub(crate) fn judge(
        &self,
        now: Instant,
        mut verdict: impl FnMut(&G) -> Judgement,
    ) -> Option<Instant> {
        let mut again = None;
        for live in self.live.borrow().values() {
            let grant = live.grant.borrow();
            let Some(judgement) = grant.as_ref().map(&mut verdict) else {
                continue;
            };
            match judgement {
                Judgement::Keep => live.held_since.set(None),
                Judgement::Cut(denial) => live.cut(Failure::cut(denial)),
                Judgement::Hold(missing) => {
                    let until = live.held_since.get().unwrap_or(now) + HOLD_MAX;
                    if until <= now {
                        live.cut(Failure::cut(missing));
                    } else {
                        live.held_since.set(Some(until - HOLD_MAX));
                        again = Some(again.map_or(until, |earlier: Instant| earlier.min(until)));
                    }
                }
            }
        }
        again
    }

    /// Cuts every connection of a pod whose network namespace is gone.
    pub(crate) fn cut_pod(&self, pod: &PodUid) {
        for live in self.live.borrow().values().filter(|live| live.pod == *pod) {
            live.cut(Failure::PodGone);
        }
    }

    /// Brings the byte counters of long connections up to date.
    pub(crate) fn flush(&self) {
        for live in self.live.borrow().values() {
            live.flush();
        }
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let mut list: Vec<_> = self.live.borrow().values().map(|l| l.listed()).collect();
        list.sort_by_key(|line| line.id);
        list
    }
}

/// What becomes of a live connection under new configuration.
pub(crate) enum Judgement {
    Keep,
    /// It cannot be judged yet; after a while it is cut with this.
    Hold(Denial),
    Cut(Denial),
}

impl<G> Connection<G> {
    /// Changes what is known.
    pub(crate) fn learn(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.live.facts.borrow_mut());
    }

    /// What is known.
    pub(crate) fn facts(&self) -> Ref<'_, Facts> {
        self.live.facts.borrow()
    }

    /// Bytes moved; the relay writes them.
    pub(crate) fn counters(&self) -> &Rc<Counters> {
        &self.live.counters
    }

    /// Both sides are connected: it counts as opened, under what is known now.
    pub(crate) fn opened(&self) {
        let labels = self.live.labels();
        let series = self.registry.telemetry.metrics.open(labels);
        *self.live.series.borrow_mut() = Some(series);
    }

    /// Remembers what authorised it, to be judged again when configuration changes.
    pub(crate) fn granted(&self, grant: G) {
        *self.live.grant.borrow_mut() = Some(grant);
    }

    /// Ready when the connection must end: a later judgement refused it, or its pod is gone. Cancel safe.
    pub(crate) async fn cut(&self) -> Failure {
        loop {
            self.live.cut_set.notified().await;
            if let Some(failure) = self.live.cut.take() {
                return failure;
            }
        }
    }

    /// Records it. The only way to the access log.
    pub(crate) fn end(mut self, outcome: Result<(), Failure>) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Result<(), Failure>) {
        self.ended = true;
        let live = &self.live;
        self.registry.live.borrow_mut().remove(&live.id);
        let flag = outcome
            .as_ref()
            .err()
            .map_or(ResponseFlag::None, Failure::flag);
        live.flush();
        match live.series.borrow_mut().take() {
            Some(series) => series.close(flag),
            None => self.registry.telemetry.metrics.fail(&live.labels(), flag),
        }
        let (bytes_sent, bytes_received) = live.bytes();
        let facts = live.facts.take();
        self.registry.telemetry.access.write(&ConnectionRecord {
            id: live.id,
            direction: live.direction,
            source: facts.source,
            destination: facts.destination,
            hbone_target: facts.hbone_target,
            service: facts.service,
            security: facts.security,
            started: live.started,
            duration: live.age(),
            bytes_sent,
            bytes_received,
            flag,
            error: outcome.err().map(|failure| failure.to_string()),
        });
    }
}

impl<G> Drop for Connection<G> {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(Err(Failure::Stopped));
        }
    }
}

impl<G> Live<G> {
    fn cut(&self, failure: Failure) {
        self.cut.set(Some(failure));
        self.cut_set.notify_one();
    }

    fn age(&self) -> Duration {
        self.accepted.elapsed()
    }

    /// Sent (server to client) and received (client to server), the words of Istio's records.
    fn bytes(&self) -> (u64, u64) {
        match self.first_end {
            FirstEnd::Client => (self.counters.backward(), self.counters.forward()),
            FirstEnd::Server => (self.counters.forward(), self.counters.backward()),
        }
    }

    fn flush(&self) {
        if let Some(series) = self.series.borrow_mut().as_mut() {
            let (sent, received) = self.bytes();
            series.flush(sent, received);
        }
    }

    fn labels(&self) -> SeriesLabels {
        let facts = self.facts.borrow();
        SeriesLabels::new(
            self.direction,
            &facts.source,
            &facts.destination,
            facts.service.as_ref(),
            facts.security,
        )
    }

    fn listed(&self) -> Listed {
        let facts = self.facts.borrow();
        let (bytes_sent, bytes_received) = self.bytes();
        let workload = |party: &Party| party.workload.as_ref().map(|w| w.uid.to_string());
        let identity = |party: &Party| party.identity.as_ref().map(ToString::to_string);
        Listed {
            id: self.id,
            direction: self.direction.as_str(),
            source: facts.source.address,
            source_identity: identity(&facts.source),
            source_workload: workload(&facts.source),
            destination: facts.destination.address,
            destination_identity: identity(&facts.destination),
            destination_workload: workload(&facts.destination),
            target: facts.hbone_target.clone(),
            service: facts.service.as_ref().map(|s| s.name.to_string()),
            security: facts.security.as_str(),
            open: self.series.borrow().is_some(),
            age_seconds: self.age().as_secs(),
            bytes_sent,
            bytes_received,
        }
    }
}

#[cfg(test)]
mod tests;
