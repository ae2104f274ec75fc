//! Endpoints whose connect failed: left alone for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::candidates::EndpointId;

/// First pause: longer than a burst of retries, short enough that a restarted pod is not missed.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause, after failures in a row: a pod that is really gone leaves the configuration well before.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Entries kept; beyond it failures are not remembered, which costs retries and nothing else.
const ENTRIES_MAX: usize = 10_000;

/// Which endpoints are set aside, until when.
#[derive(Clone, Debug, Default)]
pub struct SetAside {
    entries: HashMap<EndpointId, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    until: Instant,
    pause: Duration,
}

impl SetAside {
    /// Remembers that connecting failed; the pause doubles while it keeps failing.
    pub fn failed(&mut self, endpoint: EndpointId, now: Instant) {
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&endpoint) {
            self.entries.retain(|_, entry| !entry.over(now));
            if self.entries.len() >= ENTRIES_MAX {
                return;
            }
        }
        let entry = self.entries.entry(endpoint).or_insert(Entry {
            until: now,
            pause: Duration::ZERO,
        });
        // Connections that were under way together fail together: that is one failure.
        if entry.until > now {
            return;
        }
        let pause = if entry.over(now) {
            PAUSE_MIN
        } else {
            (entry.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
        };
        *entry = Entry {
            until: now + pause,
            pause,
        };
    }

    /// Forgets failures after a connect that succeeded.
    pub fn succeeded(&mut self, endpoint: EndpointId) {
        self.entries.remove(&endpoint);
    }

    /// Whether an endpoint is to be left alone.
    pub fn contains(&self, endpoint: EndpointId, now: Instant) -> bool {
        // Nearly always nothing is set aside.
        !self.entries.is_empty()
            && self
                .entries
                .get(&endpoint)
                .is_some_and(|entry| entry.until > now)
    }
}

impl Entry {
    /// Another pause has passed without a failure: the next one is a first one again.
    fn over(&self, now: Instant) -> bool {
        self.pause > Duration::ZERO && now >= self.until + self.pause.max(PAUSE_MIN)
    }
}
