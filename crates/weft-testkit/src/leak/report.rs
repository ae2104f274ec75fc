//! What a recording found.
//!
//! In: the findings of each place. Out: a [`Report`] over all, and its verdict. Not here: judging.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::judge::{Flow, Violation};
use super::segment::FlowKey;

/// Everything that one recorder saw. A frame that passes two places is seen at both.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Frames read, over all places.
    pub packets: u64,
    /// TCP packets between two enrolled pods among them: those on which the verdict rests.
    pub judged: u64,
    /// Frames that the kernel could not keep for us.
    pub dropped: u64,
    /// What must not happen.
    pub violations: Vec<Violation>,
    /// Violations beyond those listed.
    pub violations_more: u64,
    /// What was seen at each place, in the order of the places.
    pub places: Vec<Seen>,
    /// What was seen of each TCP flow, one entry a direction, merged over places.
    pub flows: Vec<(FlowKey, Flow)>,
}

/// What was seen at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames read.
    pub packets: u64,
    /// TCP packets between two enrolled pods among them.
    pub judged: u64,
    /// Payload bytes in these.
    pub judged_bytes: u64,
    /// Payload bytes among them that were not looked at, as too little was kept of a large frame.
    pub unseen: u64,
    /// Frames that the kernel could not keep for us.
    pub dropped: u64,
}

/// What a judge found at one place.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) seen: Seen,
    pub(super) violations: Vec<Violation>,
    pub(super) violations_more: u64,
    pub(super) flows: HashMap<FlowKey, Flow>,
}

// === impl Report ===

impl Report {
    /// An error that names the first violations, or that the recording has holes.
    pub fn verdict(&self) -> Result<()> {
        ensure!(
            self.dropped == 0,
            "the recording misses {} packets, so it proves nothing",
            self.dropped
        );
        let first = self.violations.iter().take(5).map(ToString::to_string);
        let first: Vec<String> = first.collect();
        let count = self.violations.len() as u64 + self.violations_more;
        ensure!(count == 0, "{count} leaks: {}", first.join("; "));
        Ok(())
    }

    pub(super) fn of(findings: impl IntoIterator<Item = Findings>) -> Self {
        let mut this = Self::default();
        let mut flows: HashMap<FlowKey, Flow> = HashMap::new();
        for found in findings {
            this.packets += found.seen.packets;
            this.judged += found.seen.judged;
            this.dropped += found.seen.dropped;
            this.violations.extend(found.violations);
            this.violations_more += found.violations_more;
            this.places.push(found.seen);
            for (key, flow) in found.flows {
                flows.entry(key).or_default().merge(flow);
            }
        }
        this.flows = flows.into_iter().collect();
        this.flows.sort_unstable_by_key(|(key, _)| *key);
        this
    }
}
