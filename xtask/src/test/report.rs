//! Counting tests, and the closing line.
//!
//! In: results. Out: reasons of skips, names and reasons of failures, and `N passed, N failed, N skipped`
//! alone on the last line.

use std::path::Path;

use super::transcript::{cut, cut_to};
use super::words::Words;
use crate::shell;

/// Failures told one by one, of a program as they come and of all at the end. Somebody who has thousands looks into the logs.
const TOLD_MAX: usize = 20;

/// Why a test failed, as long as it has not said so itself.
pub(super) const BARE: &str = "failed";

/// Longest line of a failure at the end, in characters.
const WHY_MAX: usize = 400;

/// What became of tests.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    failures: Vec<Failure>,
    skips: Vec<String>,
    judged: Judged,
}

/// A test that failed.
struct Failure {
    program: String,
    test: String,
    why: String,
}

/// What the oracles of all labs judged.
#[derive(Default)]
struct Judged {
    labs: u64,
    packets: u64,
    between_pods: u64,
    on_fabric: u64,
    identities: u64,
}

// === impl Tally ===

impl Tally {
    /// Counts a failure.
    pub(super) fn fail(&mut self, program: &str, test: &str, why: &str) {
        self.failed += 1;
        if self.failures.len() < TOLD_MAX {
            let told = cut(&format!("{test}: FAILED ({why})"));
            shell::note(format_args!("    {told}"));
        }
        self.failures.push(Failure {
            program: program.to_owned(),
            test: test.to_owned(),
            why: why.to_owned(),
        });
    }

    /// Whether nothing was run, nor skipped.
    pub(super) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed == 0 && self.skips.is_empty()
    }

    /// Why each failed test failed.
    #[cfg(test)]
    pub(super) fn reasons(&self) -> impl Iterator<Item = &str> {
        self.failures.iter().map(|failure| failure.why.as_str())
    }

    /// Puts what the failed tests said in the place of the bare fact.
    pub(super) fn explain(&mut self, words: &Words) {
        let bare = self
            .failures
            .iter_mut()
            .filter(|failure| failure.why == BARE);
        for failure in bare {
            if let Some(reason) = words.of(&failure.test) {
                reason.clone_into(&mut failure.why);
            }
        }
    }

    /// Counts a skip.
    pub(super) fn skip(&mut self, program: &str, test: &str, reason: &str) {
        let reason = if reason.is_empty() {
            "no reason given"
        } else {
            reason
        };
        self.skips.push(format!("{program}: {test}: {reason}"));
    }

    /// Takes in the skips that tests noted themselves; they had counted as passed.
    pub(super) fn take_skips(&mut self, program: &str, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        let mut seen = Vec::new();
        for line in text.lines() {
            let (test, reason) = line.split_once('\t').unwrap_or((line, ""));
            // One that failed all the same is no skip, and had not counted as passed.
            let failed = self.failures.iter().any(|failure| failure.test == test);
            if !failed && !seen.contains(&test) {
                seen.push(test);
                self.skip(program, test, reason);
                self.passed = self.passed.saturating_sub(1);
            }
        }
    }

    /// Takes in what the oracles of labs noted: packets, those between enrolled pods, those of them on the fabric,
    /// identities.
    pub(super) fn take_judged(&mut self, file: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        for line in text.lines() {
            let mut numbers = line.split('\t').map(|number| number.parse().unwrap_or(0));
            let mut next = || numbers.next().unwrap_or(0);
            self.judged.labs += 1;
            self.judged.packets += next();
            self.judged.between_pods += next();
            self.judged.on_fabric += next();
            self.judged.identities += next();
        }
    }

    /// Adds another tally.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
        self.judged.labs += other.judged.labs;
        self.judged.packets += other.judged.packets;
        self.judged.between_pods += other.judged.between_pods;
        self.judged.on_fabric += other.judged.on_fabric;
        self.judged.identities += other.judged.identities;
    }

    /// Prints everything, the closing line last.
    pub(super) fn print(&self) {
        for failure in self.failures.iter().take(TOLD_MAX) {
            let Failure { program, test, why } = failure;
            let why = why.replace('\n', " ");
            shell::say(format_args!(
                "failed: {program}: {}",
                cut_to(&format!("{test}: {why}"), WHY_MAX)
            ));
        }
        if let Some(more @ 1..) = self.failures.len().checked_sub(TOLD_MAX) {
            shell::say(format_args!("failed: and {more} more"));
        }
        for skip in &self.skips {
            shell::say(format_args!("skipped: {skip}"));
        }
        let judged = &self.judged;
        if judged.labs > 0 {
            shell::say(format_args!(
                "oracles: {} packets recorded in {} labs, {} of them between enrolled pods ({} on the fabric), {} identities compared",
                judged.packets,
                judged.labs,
                judged.between_pods,
                judged.on_fabric,
                judged.identities
            ));
        }
        let (passed, failed, skipped) = (self.passed, self.failed, self.skips.len());
        shell::say(format_args!(
            "{passed} passed, {failed} failed, {skipped} skipped"
        ));
    }
}
