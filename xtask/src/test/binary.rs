//! One test program: running it to its end.
//!
//! In: an executable. Out: a [`Tally`]. A program that does not end is killed and counts as a failure.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weft_testkit::interrupt;
use weft_testkit::lab::program::TEST_RUN;

use super::Group;
use super::reader::{Reader, lines};
use super::report::Tally;
use super::transcript::Transcript;
use crate::shell;

/// How often a test program that says nothing is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks without a word from a program that has ended until nothing of its own can be under way any more.
const SILENT_LOOKS: u32 = 5;

/// Tests clean up after themselves.
const LEFT_BEHIND: &str = "a program is left behind that holds the output";

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
    /// Runs it to its end, or to the limit.
    pub(super) fn run(&self, terms: &Terms<'_>) -> Result<Tally> {
        let started = Instant::now();
        let notes = Notes::begin();
        let transcript = Transcript::begin(terms.logs, &self.name)?;
        let mut child = self.start(terms, &notes, &transcript)?;
        let mut reader = Reader::begin(&self.name, self.one_by_one, transcript);
        let _ends = interrupt::end_with_us(&child);
        let lines = lines(child.stdout.take().expect("stdout is piped"));
        follow(&mut child, &lines, terms.limit, &mut reader)?;
        let status = child.wait().context("a test program is gone")?;
        if interrupt::check_after(status).is_err() {
            return Ok(reader.end());
        }
        if !status.success() && reader.failed() == 0 {
            reader.fail(&format!("ended with {status}"));
        }
        let mut tally = reader.end();
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
    /// Without what an earlier program noted.
    fn begin() -> Self {
        let path = |what| std::env::temp_dir().join(format!("weft-{what}-{}", std::process::id()));
        let (skips, judged) = (path("skips"), path("judged"));
        for file in [&skips, &judged] {
            let _ = std::fs::remove_file(file);
        }
        Self { skips, judged }
    }
}

/// Reads until the program has closed its output, or has to be given up.
fn follow(
    child: &mut Child,
    lines: &Receiver<String>,
    limit: Duration,
    reader: &mut Reader,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut pulse = shell::Pulse::begin();
    let mut silent = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left.min(LOOK_INTERVAL)) {
            Ok(line) => reader.read(&line),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            // What it started and left behind may hold its output open for longer than it lives.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => {
                silent += 1;
                if interrupt::came().is_some() {
                    return Ok(());
                }
                if silent == SILENT_LOOKS {
                    reader.fail(LEFT_BEHIND);
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                child.kill().context("cannot kill a test program")?;
                reader.fail("did not end in time");
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(minutes) = pulse.beat() {
            shell::note(format_args!("    {minutes} min: {}", reader.state()));
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_testkit::lab::program::{Running, kill_all};

    use super::*;

    #[test]
    fn a_program_that_leaves_another_with_its_output_fails_and_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        let text = "sleep 600 &\necho $! > stray\necho 'test a ... ok'\n";
        std::fs::write(&script, text).unwrap();
        let binary = Binary {
            group: Group::Unit,
            name: "program".to_owned(),
            executable: "/bin/sh".into(),
            folder: folder.path().to_owned(),
            one_by_one: false,
        };
        let terms = Terms {
            run: "run",
            filter: script.to_str(),
            limit: Duration::from_mins(1),
            logs: folder.path(),
        };
        let tally = binary.run(&terms).unwrap();
        let stray = std::fs::read_to_string(folder.path().join("stray")).unwrap();
        let stray = Running::of(stray.trim().parse().unwrap()).expect("it lives on");
        kill_all(&[stray]).unwrap();
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert_eq!(tally.reasons().collect::<Vec<_>>(), [LEFT_BEHIND]);
    }
}
