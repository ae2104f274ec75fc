//! Limits that were reached: counted for the metrics, and told in the log once a minute.
//!
//! In: a call where something is refused or shed. Out: `weft_limit_reached_total{limit="NAME"}` and a line that says what to check.
//! `docs/limits.md` lists them all. Not here: the numbers, which stand beside what they bound.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Least time between two lines about one limit, seconds: a flood must not become a flood of lines.
const QUIET_SECONDS: u64 = 60;

/// One limit of this program; a `static`.
#[derive(Debug)]
pub struct Limit {
    name: &'static str,
    advice: &'static str,
    reached: AtomicU64,
    /// When it was last told, in seconds of this process plus one; 0 for never.
    told: AtomicU64,
}

impl Limit {
    /// A limit by its name in metrics; `advice` says what happened and what an operator should check.
    pub const fn new(name: &'static str, advice: &'static str) -> Self {
        Self {
            name,
            advice,
            reached: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// Something was refused or shed.
    pub fn reached(&self) {
        self.reached_times(1);
    }

    /// Several things were; 0 is none.
    pub fn reached_times(&self, times: u64) {
        if times == 0 {
            return;
        }
        let count = self.reached.fetch_add(times, Ordering::Relaxed) + times;
        if self.is_to_be_told(seconds()) {
            tracing::warn!(
                limit = self.name,
                count,
                "a limit was reached: {}",
                self.advice
            );
        }
    }

    /// Its name in metrics.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How often since the start.
    pub fn count(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }

    fn is_to_be_told(&self, now: u64) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        if told != 0 && now + 1 < told + QUIET_SECONDS {
            return false;
        }
        // Of several threads, one tells.
        let exchanged =
            self.told
                .compare_exchange(told, now + 1, Ordering::Relaxed, Ordering::Relaxed);
        exchanged.is_ok()
    }
}

/// The limits and their counts, for a registry.
pub fn limit_counts(limits: &[&Limit]) -> Vec<(&'static str, u64)> {
    limits
        .iter()
        .map(|limit| (limit.name(), limit.count()))
        .collect()
}

/// The limits as Prometheus text, for programs without a registry.
pub fn limits_text(limits: &[&Limit]) -> String {
    let mut text = String::from(
        "# HELP weft_limit_reached_total Things refused or shed because a limit was reached.\n\
         # TYPE weft_limit_reached_total counter\n",
    );
    for (name, count) in limit_counts(limits) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "weft_limit_reached_total{{limit=\"{name}\"}} {count}");
    }
    text
}

/// Since the first call in this process.
fn seconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs()
}

#[cfg(test)]
mod tests {
    use super::{Limit, QUIET_SECONDS, limits_text};

    #[test]
    fn every_time_is_counted_and_once_a_minute_is_told() {
        let limit = Limit::new("seats", "more guests than seats; bring chairs");
        limit.reached();
        limit.reached_times(0);
        limit.reached_times(3);
        assert_eq!(limit.count(), 4);
        let text = limits_text(&[&limit]);
        assert!(
            text.ends_with("weft_limit_reached_total{limit=\"seats\"} 4\n"),
            "{text}"
        );

        let limit = Limit::new("seats", "");
        let told: Vec<bool> = [0, 1, QUIET_SECONDS - 1, QUIET_SECONDS, QUIET_SECONDS + 1]
            .map(|now| limit.is_to_be_told(now))
            .into();
        assert_eq!(told, [true, false, false, true, false]);
    }
}
