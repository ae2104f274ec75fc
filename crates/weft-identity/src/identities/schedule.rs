//! When which identity is asked for: a pure schedule.
//!
//! In: what is tracked, what is wanted, how requests ended, the time (as an argument). Out: the next identity to ask for and
//! how long to sleep. No I/O, no task, no clock of its own.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::time::Instant;
use weft_runtime::Backoff;
use weft_types::SpiffeId;

/// Sleep no longer than this even when nothing is due: the wall clock may jump.
const SLEEP_MAX: Duration = Duration::from_mins(1);

/// A waiting connection shortens a pause after failure, but not below this: a thousand connections must not become a
/// thousand requests.
const WANTED_PAUSE_MIN: Duration = Duration::from_secs(1);

/// Who is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FetchPriority {
    /// A connection waits for it.
    Waiting,
    /// A pod was enrolled and will need it.
    WarmUp,
    /// It is there and grows old.
    Renewal,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

#[derive(Debug)]
struct Job {
    priority: FetchPriority,
    in_flight: bool,
    /// Grows with failures since the latest success.
    pauses: Backoff,
    last_try: Option<Instant>,
    retry_at: Option<Instant>,
    /// Of the certificate that is there.
    validity: Option<Validity>,
}

#[derive(Clone, Copy, Debug)]
struct Validity {
    renew_at: SystemTime,
    not_after: SystemTime,
}

#[derive(Debug)]
pub(super) struct Schedule {
    jobs: HashMap<SpiffeId, Job>,
    retry_min: Duration,
    retry_max: Duration,
}

impl Schedule {
    pub(super) fn new(retry_min: Duration, retry_max: Duration) -> Self {
        Self {
            jobs: HashMap::new(),
            retry_min,
            retry_max,
        }
    }

    /// Starts to care for an identity without certificate, or tells that one with a certificate came; called again,
    /// also that its certificate is gone.
    pub(super) fn track(&mut self, identity: &SpiffeId, held: Option<(SystemTime, SystemTime)>) {
        let job = self.jobs.entry(identity.clone()).or_insert(Job {
            priority: FetchPriority::WarmUp,
            in_flight: false,
            pauses: Backoff::random(self.retry_min, self.retry_max),
            last_try: None,
            retry_at: None,
            validity: None,
        });
        if let (Some((start, not_after)), None) = (held, job.validity) {
            job.validity = Some(Validity::new(start, not_after));
            job.priority = FetchPriority::Renewal;
        }
        if held.is_none() && job.validity.is_some() {
            // It was forgotten and claimed anew before the driver heard of either: nothing is held any more.
            job.validity = None;
            job.retry_at = None;
            job.priority = FetchPriority::WarmUp;
        }
    }

    pub(super) fn forget(&mut self, identity: &SpiffeId) {
        self.jobs.remove(identity);
    }

    /// A connection waits.
    pub(super) fn want(&mut self, identity: &SpiffeId) {
        let Some(job) = self.jobs.get_mut(identity) else {
            return;
        };
        job.priority = FetchPriority::Waiting;
        if let (Some(retry_at), Some(last_try)) = (job.retry_at, job.last_try) {
            job.retry_at = Some(retry_at.min(last_try + WANTED_PAUSE_MIN));
        }
    }

    /// Certificates shall live shorter: those that would not be renewed within half of the new lifetime are, spread over it.
    pub(super) fn shorten(&mut self, ttl: Duration, now: Now) {
        for validity in self
            .jobs
            .values_mut()
            .filter_map(|job| job.validity.as_mut())
        {
            let soon = now.wall + ttl.mul_f64(rand::rng().random_range(0.0..=0.5));
            validity.renew_at = validity.renew_at.min(soon);
        }
    }

    /// The most urgent identity that is due, marked as in flight.
    pub(super) fn start(&mut self, now: Now) -> Option<(SpiffeId, FetchPriority)> {
        let (identity, job) = self
            .jobs
            .iter_mut()
            .filter(|(_, job)| job.due_in(now).is_some_and(|wait| wait.is_zero()))
            .min_by_key(|(_, job)| (job.priority, job.retry_at, job.last_try))?;
        job.in_flight = true;
        job.last_try = Some(now.instant);
        Some((identity.clone(), job.priority))
    }

    pub(super) fn succeeded(&mut self, identity: &SpiffeId, now: Now, not_after: SystemTime) {
        if let Some(job) = self.jobs.get_mut(identity) {
            job.in_flight = false;
            job.pauses.reset();
            job.retry_at = None;
            job.validity = Some(Validity::new(now.wall, not_after));
            job.priority = FetchPriority::Renewal;
        }
    }

    /// Returns the pause until the next try.
    pub(super) fn failed(&mut self, identity: &SpiffeId, now: Now) -> Duration {
        let Some(job) = self.jobs.get_mut(identity) else {
            return Duration::ZERO;
        };
        job.in_flight = false;
        let pause = job.pauses.next_wait();
        job.retry_at = Some(now.instant + pause);
        pause
    }

    /// Identities whose certificate has ended; each is told once and then treated as new.
    pub(super) fn expire(&mut self, now: Now) -> Vec<SpiffeId> {
        let mut expired = Vec::new();
        for (identity, job) in &mut self.jobs {
            if job
                .validity
                .is_some_and(|validity| validity.not_after <= now.wall)
            {
                job.validity = None;
                job.priority = job.priority.min(FetchPriority::WarmUp);
                expired.push(identity.clone());
            }
        }
        expired
    }

    /// How long nothing will be due.
    pub(super) fn sleep(&self, now: Now) -> Duration {
        let until_expiry = |job: &Job| {
            let end = job.validity?.not_after;
            Some(end.duration_since(now.wall).unwrap_or_default())
        };
        self.jobs
            .values()
            .flat_map(|job| [job.due_in(now), until_expiry(job)])
            .flatten()
            .min()
            .unwrap_or(SLEEP_MAX)
            .min(SLEEP_MAX)
    }
}

// === impl Job ===

impl Job {
    /// Time until it may be asked for; `None` while in flight.
    fn due_in(&self, now: Now) -> Option<Duration> {
        if self.in_flight {
            return None;
        }
        let retry = self.retry_at.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(now.instant)
        });
        let renew = self.validity.map_or(Duration::ZERO, |validity| {
            validity
                .renew_at
                .duration_since(now.wall)
                .unwrap_or_default()
        });
        Some(retry.max(renew))
    }
}

// === impl Validity ===

impl Validity {
    /// Half life, give or take a tenth of it: a node's pods that started together do not renew together.
    fn new(start: SystemTime, not_after: SystemTime) -> Self {
        let life = not_after.duration_since(start).unwrap_or_default();
        Self {
            renew_at: start + life.mul_f64(rand::rng().random_range(0.45..=0.55)),
            not_after,
        }
    }
}
