//! What became of the connections of a churn. Pure.
//!
//! In: outcomes. Out: counts by the way in which a connection can go wrong, times, and each failure with its life span,
//! so that a death can be told apart from a fault: only what was under way when its process died may break.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::death::{Death, Failure, Phase};

/// Failures listed one by one; more are only counted, and no death explains them.
const FAILURES_MAX: usize = 10_000;
/// Counted separately: nobody should wait longer for a first byte.
const SECOND: Duration = Duration::from_secs(1);

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
    /// Broken ones that ended with the process that held them, see [`ChurnReport::excuse`].
    pub excused: u64,
    /// Nothing came in time.
    pub late: u64,
    /// Other bytes came back than were sent.
    pub wrong: u64,
    /// Anything else, for example no free port.
    pub other: u64,
    /// The longest good exchange, from when it was due.
    pub slowest: Duration,
    /// From when a connection was due to its first byte of an answer.
    pub first_byte: Spread,
    /// Good ones whose first byte took more than a second.
    pub over_a_second: u64,
    /// The first failure in words.
    pub first_failure: Option<String>,
    /// Failures one by one.
    pub failures: Vec<Failure>,
    /// Failures that a death explains.
    pub explained: Vec<Failure>,
    waits: Vec<Duration>,
}

/// How a time is spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Half of them took at most this long.
    pub p50: Duration,
    /// All but one in a hundred.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// How one connection ended.
pub(super) enum Outcome {
    Good(Times),
    Wrong,
    Failed {
        error: io::Error,
        from: Option<SocketAddr>,
        phase: Phase,
        begun: Instant,
        ended: Instant,
    },
}

/// From when a connection was due.
pub(super) struct Times {
    pub(super) first_byte: Duration,
    pub(super) whole: Duration,
}

// === impl ChurnReport ===

impl ChurnReport {
    /// An error when any connection did not end well and nothing excuses it.
    pub fn verdict(&self) -> Result<()> {
        if self.good + self.excused == self.begun && self.good > 0 {
            return Ok(());
        }
        Err(anyhow!("{self}"))
    }

    /// Moves connections off the list of failures that broke because a process that held them died: see
    /// [`Death::explains`].
    pub fn excuse(&mut self, deaths: &[Death]) {
        let is_explained = |failure: &mut Failure| deaths.iter().any(|d| d.explains(failure));
        let before = self.explained.len();
        self.explained
            .extend(self.failures.extract_if(.., is_explained));
        let excused = (self.explained.len() - before) as u64;
        self.broken -= excused;
        self.excused += excused;
    }

    /// Connections that did not end well.
    pub fn failed(&self) -> u64 {
        self.refused + self.broken + self.late + self.wrong + self.other
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        let words = match outcome {
            Outcome::Good(times) => {
                self.good += 1;
                self.slowest = self.slowest.max(times.whole);
                self.over_a_second += u64::from(times.first_byte > SECOND);
                self.waits.push(times.first_byte);
                return;
            }
            Outcome::Wrong => {
                self.wrong += 1;
                "wrong bytes came back".to_owned()
            }
            Outcome::Failed {
                error,
                from,
                phase,
                begun,
                ended,
            } => {
                let failure = Failure {
                    from,
                    begun,
                    ended,
                    phase,
                    kind: error.kind(),
                };
                match error.kind() {
                    ErrorKind::ConnectionRefused => self.refused += 1,
                    ErrorKind::TimedOut => self.late += 1,
                    _ if failure.is_break() => self.broken += 1,
                    _ => self.other += 1,
                }
                if self.failures.len() < FAILURES_MAX {
                    self.failures.push(failure);
                }
                format!("{phase:?}: {error}")
            }
        };
        let number = self.begun;
        self.first_failure
            .get_or_insert_with(|| format!("{words} (about connection {number})"));
    }

    /// Works the times out, once all have been counted.
    pub(super) fn sum_up(&mut self) {
        self.first_byte = Spread::of(std::mem::take(&mut self.waits));
    }
}

impl fmt::Display for ChurnReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "of {} connections {} were good, {} refused, {} broken, {} more died with their process, {} late, \
             {} with wrong bytes, {} other; first byte after {:?} (median), {:?} (p99), {:?} at most, {} over a second; \
             first failure: {}",
            self.begun,
            self.good,
            self.refused,
            self.broken,
            self.excused,
            self.late,
            self.wrong,
            self.other,
            self.first_byte.p50,
            self.first_byte.p99,
            self.first_byte.max,
            self.over_a_second,
            self.first_failure.as_deref().unwrap_or("none")
        )
    }
}

// === impl Spread ===

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(index).copied().unwrap_or_default()
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::death::Held;
    use super::*;

    #[test]
    fn an_excuse_moves_a_failure_and_no_other() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let death = Death {
            who: "a proxy".to_owned(),
            held: Held::Near,
            signal: at(100),
            gone: at(110),
            ready: at(200),
        };
        let failed = |begun| Outcome::Failed {
            error: ErrorKind::ConnectionReset.into(),
            from: None,
            phase: Phase::Read,
            begun,
            ended: begun + Duration::from_millis(20),
        };
        let mut report = ChurnReport {
            begun: 3,
            ..ChurnReport::default()
        };
        report.count(Outcome::Good(Times {
            first_byte: SECOND,
            whole: SECOND,
        }));
        report.count(failed(at(95)));
        report.excuse(std::slice::from_ref(&death));
        assert_eq!((report.broken, report.excused), (0, 1));
        report.count(failed(at(111)));
        report.excuse(&[death]);
        assert_eq!((report.broken, report.excused), (1, 1));
        assert_eq!(report.explained.len(), 1);
        assert_eq!(report.failures.len(), 1);
        assert!(report.verdict().is_err());
    }

    #[test]
    fn wrong_bytes_are_never_excused() {
        let mut report = ChurnReport {
            begun: 1,
            ..ChurnReport::default()
        };
        report.count(Outcome::Wrong);
        report.excuse(&[]);
        assert!(report.verdict().is_err());
    }

    #[test]
    fn times_are_ranked() {
        let spread = Spread::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(spread.p50, Duration::from_millis(100));
        assert_eq!(spread.p99, Duration::from_millis(198));
        assert_eq!(spread.max, Duration::from_millis(200));
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
