//! One test program: running it to its end.
//!
//! In: an executable. Out: a [`Tally`]. A program that does not end is killed and counts as a failure, and so does one that leaves
//! programs or labs behind, which are ended.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weft_testkit::interrupt;
use weft_testkit::lab::program::TEST_RUN;
use weft_testkit::lab::{down_of_run, left_of_run};

use super::Group;
use super::reader::Reader;
use super::report::Tally;
use super::transcript::{Transcript, cut};
use crate::shell;

/// How often a test program that says nothing is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Tests clean up after themselves.
const LEFT_BEHIND: &str = "left behind";

/// A program that took longer than this is told with its time.
const WORTH_TELLING: Duration = Duration::from_secs(5);

/// A test program.
pub(super) struct Binary {
    pub(super) group: Group,
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// Where it runs, the folder of its package, as under `cargo test`.
    pub(super) folder: PathBuf,
    /// Its tests must not run at the same time.
    pub(super) one_by_one: bool,
}

/// What all programs of a run are run with.
pub(super) struct Terms<'a> {
    /// The mark in the environment of all that this run starts.
    pub(super) run: &'a str,
    /// Only tests whose name contains this.
    pub(super) filter: Option<&'a str>,
    /// Until a program has to end.
    pub(super) limit: Duration,
    /// From a program's end until nothing of its own can be under way any more.
    pub(super) grace: Duration,
    /// Where transcripts go.
    pub(super) logs: &'a Path,
}

/// The files in which tests note what libtest cannot count.
struct Notes {
    skips: PathBuf,
    judged: PathBuf,
}

// === impl Binary ===

impl Binary {
    /// Runs it to its end, or to the limit. `sections`: of how many more failed tests the words are shown.
    pub(super) fn run(&self, terms: &Terms<'_>, sections: &mut usize) -> Result<Tally> {
        let started = Instant::now();
        let transcript = Transcript::begin(terms.logs, &self.name)?;
        let notes = Notes::begin(terms.logs);
        let mut child = self.start(terms, &notes, &transcript)?;
        let _ends = interrupt::end_with_us(&child);
        let lines = transcript.read(child.stdout.take().expect("stdout is piped"))?;
        let mut reader = Reader::begin(&self.name, self.one_by_one, transcript);
        let by_itself = follow(&mut child, &lines, terms, &mut reader)?;
        let status = child.wait().context("a test program is gone")?;
        if interrupt::check_after(status).is_err() {
            return Ok(reader.end(sections));
        }
        if by_itself {
            reader.judge(status);
        }
        if let Some(left) = left_behind(terms) {
            reader.fail(&left);
        }
        let mut tally = reader.end(sections);
        tally.take_skips(&self.name, &notes.skips);
        tally.take_judged(&notes.judged);
        if started.elapsed() > WORTH_TELLING {
            let (passed, seconds) = (tally.passed, started.elapsed().as_secs());
            shell::note(format_args!("    {passed} passed in {seconds} s"));
        }
        Ok(tally)
    }

    fn start(&self, terms: &Terms<'_>, notes: &Notes, transcript: &Transcript) -> Result<Child> {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env(TEST_RUN, terms.run)
            .env("WEFT_TEST_SKIPS", &notes.skips)
            .env("WEFT_TEST_JUDGED", &notes.judged)
            .args(terms.filter)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(transcript.errors()?);
        if self.one_by_one {
            command.arg("--test-threads=1");
        }
        command
            .spawn()
            .with_context(|| format!("cannot start {}", self.executable.display()))
    }
}

// === impl Notes ===

impl Notes {
    /// Without what an earlier program noted. `folder` is that of the transcripts.
    fn begin(folder: &Path) -> Self {
        // Two runs on one checkout must not take each other's.
        let path = |what| folder.join(format!("{what}-{}", std::process::id()));
        let (skips, judged) = (path("skips"), path("judged"));
        for file in [&skips, &judged] {
            let _ = std::fs::remove_file(file);
        }
        Self { skips, judged }
    }
}

/// Reads until the program has closed its output, or has to be given up. Whether it ends by itself.
fn follow(
    child: &mut Child,
    lines: &Receiver<String>,
    terms: &Terms<'_>,
    reader: &mut Reader,
) -> Result<bool> {
    let deadline = Instant::now() + terms.limit;
    let mut pulse = shell::Pulse::begin();
    let (mut looked, mut ended, mut interrupted) = (Instant::now(), None, None);
    loop {
        match lines.recv_timeout(LOOK_INTERVAL) {
            Ok(line) => reader.read(&line),
            Err(RecvTimeoutError::Disconnected) if child.try_wait()?.is_some() => return Ok(true),
            // It is about to end, or has closed its output and goes on.
            Err(RecvTimeoutError::Disconnected) => std::thread::park_timeout(LOOK_INTERVAL / 10),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if looked.elapsed() < LOOK_INTERVAL {
            continue;
        }
        looked = Instant::now();
        if looked > deadline {
            child.kill().context("cannot kill a test program")?;
            reader.fail("did not end in time");
            return Ok(false);
        }
        if interrupt::came().is_some()
            && interrupted.get_or_insert(looked).elapsed() > 3 * terms.grace
        {
            // It does not heed the signal, and what it leaves is taken down without it.
            child.kill().context("cannot kill a test program")?;
            return Ok(false);
        }
        // What it started and left behind may hold its output open for longer than it lives.
        if child.try_wait()?.is_some() {
            let ended = *ended.get_or_insert(looked);
            if interrupt::came().is_some() || ended.elapsed() > terms.grace {
                return Ok(true);
            }
        }
        if let Some(minutes) = pulse.beat() {
            let state = cut(&reader.state());
            shell::note(format_args!("    {minutes} min: {state}"));
        }
    }
}

/// What a program of this run has left, which is ended and taken down. What is about to end is waited for.
fn left_behind(terms: &Terms<'_>) -> Option<String> {
    let run = terms.run;
    let end = Instant::now() + terms.grace;
    while !left_of_run(run).is_empty() && Instant::now() < end {
        std::thread::park_timeout(LOOK_INTERVAL / 10);
    }
    let left = left_of_run(run);
    if left.is_empty() {
        return None;
    }
    let left = format!("{LEFT_BEHIND}: {}", left.join(", "));
    // The other programs run all the same: what they have to say must not be lost to this.
    match down_of_run(run) {
        Ok(()) => Some(left),
        Err(undo) => Some(format!("{left}; and it cannot be taken down: {undo:#}")),
    }
}

#[cfg(test)]
mod tests {
    use weft_testkit::lab::program::Running;

    use super::*;

    /// What becomes of a shell script in a test program's place, in its folder.
    fn run(script: &str, limit: Duration) -> (Tally, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        std::fs::write(&path, script).unwrap();
        let binary = Binary {
            group: Group::Unit,
            name: "program".to_owned(),
            executable: "/bin/sh".into(),
            folder: folder.path().to_owned(),
            one_by_one: false,
        };
        // Folders have names of their own.
        let run = folder.path().display().to_string();
        let terms = Terms {
            run: &run,
            filter: path.to_str(),
            limit,
            grace: Duration::from_millis(100),
            logs: folder.path(),
        };
        (binary.run(&terms, &mut 0).unwrap(), folder)
    }

    #[test]
    fn a_program_that_leaves_another_fails_and_what_it_left_is_ended() {
        for output in ["", " >/dev/null 2>&1"] {
            let script = format!(
                "sleep 600{output} &\necho $! > stray\necho 'test a ... ok'\n\
                 echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured'\n"
            );
            let (tally, folder) = run(&script, Duration::from_mins(1));
            let stray = std::fs::read_to_string(folder.path().join("stray")).unwrap();
            assert!(Running::of(stray.trim().parse().unwrap()).is_none());
            assert_eq!((tally.passed, tally.failed), (1, 1));
            let why: Vec<&str> = tally.reasons().collect();
            assert!(
                why[0].starts_with(LEFT_BEHIND) && why[0].contains("sleep"),
                "{why:?}"
            );
        }
    }

    #[test]
    fn a_test_that_notes_a_skip_and_fails_is_a_failure_alone() {
        let script = "printf 'a\\twhy\\n' > $WEFT_TEST_SKIPS\necho 'test a ... FAILED'\necho 'test b ... ok'\n\
                      echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured'\nexit 101\n";
        let (tally, _folder) = run(script, Duration::from_mins(1));
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert_eq!(tally.reasons().collect::<Vec<_>>(), ["failed"]);
    }

    #[test]
    fn a_program_is_held_to_the_limit_whether_it_talks_or_has_closed_its_output() {
        for goes_on in ["while :; do echo words; done", "exec >&- sleep 600"] {
            let script = format!("echo 'test a ... ok'\n{goes_on}\n");
            let (tally, _folder) = run(&script, Duration::from_millis(10));
            assert_eq!(tally.reasons().collect::<Vec<_>>(), ["did not end in time"]);
        }
    }
}
