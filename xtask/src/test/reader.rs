//! What libtest says, read as it comes.
//!
//! In: lines. Out: a [`Tally`]; failures are told as they come, and at the end what the failed tests have printed. libtest's own
//! count at the end must be ours, or the program has failed: what is lost must not look like what has passed.
//!
//! On a terminal every test of the system is told as well. Elsewhere, as in a log, which may be cut, nothing is but what goes
//! wrong, and each minute where the program is.

use std::process::ExitStatus;

use super::report::{BARE, Tally};
use super::transcript::{RUNS, Transcript};
use super::words::Words;
use crate::shell;

/// What libtest exits with when a test has failed.
const FAILED: i32 = 101;

/// One program while it runs.
pub(super) struct Reader {
    program: String,
    /// Each test is told, on a terminal.
    each: bool,
    transcript: Transcript,
    tally: Tally,
    counts: Counts,
    /// libtest's own, from its last line.
    summary: Option<Counts>,
    /// The test that has begun last, or that takes long, as far as can be told.
    running: String,
    /// What follows its name is no result, so that the result stands alone, later.
    unfinished: bool,
    /// The list of failures is being read.
    in_failures: bool,
    words: Words,
}

/// Tests that ended.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

// === impl Reader ===

impl Reader {
    pub(super) fn begin(program: &str, each: bool, transcript: Transcript) -> Self {
        Self {
            program: program.to_owned(),
            each: each && shell::on_terminal(),
            transcript,
            tally: Tally::default(),
            counts: Counts::default(),
            summary: None,
            running: String::new(),
            unfinished: false,
            in_failures: false,
            words: Words::default(),
        }
    }

    /// One line of libtest. Its forms: `test NAME ... ok`, `... FAILED`, `... ignored, REASON`; with one thread the name comes
    /// first and the result when the test has ended.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(summary) = Counts::of(line) {
            self.summary = Some(summary);
        }
        // Below the results come the words of failed tests, which may look like results themselves.
        if self.in_failures || line == "failures:" {
            self.in_failures = true;
            self.words.read(line);
            return;
        }
        if self.unfinished && self.end_of_test(line) {
            return;
        }
        let Some(rest) = line.strip_prefix("test ") else {
            return;
        };
        if let Some(name) = rest.strip_suffix(" has been running for over 60 seconds") {
            name.clone_into(&mut self.running);
        } else if let Some((name, result)) = rest.split_once(RUNS) {
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            name.clone_into(&mut self.running);
            self.unfinished = !self.end_of_test(result);
        }
    }

    /// Takes in the result of the test that runs, if this is one.
    fn end_of_test(&mut self, result: &str) -> bool {
        let (program, name) = (&self.program, &self.running);
        if result == "ok" {
            self.counts.passed += 1;
            self.tally.passed += 1;
            if self.each {
                shell::note(format_args!("    {name}: ok"));
            }
        } else if result == "ignored" || result.starts_with("ignored, ") {
            let reason = result
                .trim_start_matches("ignored")
                .trim_start_matches(", ");
            self.counts.ignored += 1;
            self.tally.skip(program, name, reason);
        } else if result == "FAILED" || result.starts_with("FAILED (") {
            self.counts.failed += 1;
            self.words.expect(name);
            self.tally.fail(program, name, BARE);
        } else {
            return false;
        }
        self.unfinished = false;
        true
    }

    /// A failure of the program, beside what its tests say.
    pub(super) fn fail(&mut self, why: &str) {
        let test = if self.running.is_empty() {
            "outside of a test"
        } else {
            &self.running
        };
        self.tally.fail(&self.program, test, why);
    }

    /// Where the program is.
    pub(super) fn state(&self) -> String {
        format!("{} passed, last seen: {}", self.counts.passed, self.running)
    }

    /// Holds how the program ended, by itself, against what it said.
    pub(super) fn judge(&mut self, status: ExitStatus) {
        let want = if self.counts.failed == 0 { 0 } else { FAILED };
        match self.summary {
            _ if status.code().is_none_or(|code| code != 0 && code != FAILED) => {
                self.fail(&format!("ended with {status}"));
            }
            None => self.fail("ended without a result"),
            Some(summary) if summary != self.counts => {
                let told = self.counts.to_string();
                self.fail(&format!(
                    "its result is {summary}, and its tests told {told}"
                ));
            }
            Some(_) if status.code() != Some(want) => self.fail(&format!("ended with {status}")),
            Some(_) => {}
        }
    }

    /// The results, each failure with what the test said of it. `sections`: of how many more tests the words are shown.
    pub(super) fn end(mut self, sections: &mut usize) -> Tally {
        if self.tally.failed > 0 && *sections > 0 {
            for (test, lines) in self.words.shown().take(*sections) {
                *sections -= 1;
                shell::note(format_args!("    ---- {test}"));
                lines.for_each(|line| shell::note(format_args!("    {line}")));
            }
            for line in self.transcript.last_errors() {
                shell::note(format_args!("    stderr: {line}"));
            }
        }
        self.tally.explain(&self.words);
        self.tally
    }
}

// === impl Counts ===

impl Counts {
    /// `test result: ok. 90 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.10s`
    fn of(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = counts.split("; ");
        let mut next = |what| counts.next()?.strip_suffix(what)?.parse().ok();
        Some(Self {
            passed: next(" passed")?,
            failed: next(" failed")?,
            ignored: next(" ignored")?,
        })
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            passed,
            failed,
            ignored,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {ignored} ignored")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const RESULT: &str = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    /// Failures of a program that says this and ends so.
    fn failures(lines: &[&str], status: i32) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let transcript = Transcript::begin(folder.path(), "program").unwrap();
        let mut reader = Reader::begin("program", false, transcript);
        for line in lines {
            reader.read(line);
        }
        reader.judge(ExitStatus::from_raw(status));
        let tally = reader.end(&mut 0);
        tally.reasons().map(str::to_owned).collect()
    }

    #[test]
    fn a_test_is_known_to_run_before_its_result_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let transcript = Transcript::begin(folder.path(), "program").unwrap();
        let mut reader = Reader::begin("program", false, transcript);
        reader.read("test a ... ");
        assert_eq!(reader.state(), "0 passed, last seen: a");
        reader.read("test a ... ok");
        reader.read("test b ... ignored, why");
        assert_eq!(reader.state(), "1 passed, last seen: b");
        reader.read("test c has been running for over 60 seconds");
        assert_eq!(reader.state(), "1 passed, last seen: c");
    }

    #[test]
    fn a_program_that_passes_says_so_itself() {
        assert!(failures(&["test a ... ok", RESULT], 0).is_empty());
        // A child of a test wrote between name and result.
        assert!(failures(&["test a ... chatter", "more", "ok", RESULT], 0).is_empty());
    }

    #[test]
    fn what_is_lost_has_not_passed() {
        let ended = failures(&["test a ... ok"], 0);
        assert_eq!(ended, ["ended without a result"]);
        let two = RESULT.replace("1 passed", "2 passed");
        let lost = failures(&["test a ... ok", "failures:", "test b ... ok", &two], 0);
        assert!(lost[0].starts_with("its result is 2 passed"), "{lost:?}");
        let forged = failures(
            &[
                "test a ... x",
                "ok",
                "FAILED",
                "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0",
            ],
            101 << 8,
        );
        assert!(forged[0].contains("told 1 passed"), "{forged:?}");
    }

    #[test]
    fn an_end_by_signal_is_told_beside_a_failure() {
        let told = failures(&["test a ... FAILED"], 6);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].contains("signal"), "{told:?}");
        assert_eq!(failures(&["test a ... ok", RESULT], 3 << 8).len(), 1);
    }
}
