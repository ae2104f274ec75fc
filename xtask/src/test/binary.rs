//! One test program of libtest: running it, reading what it says.
//!
//! In: an executable. Out: a [`Tally`]. Names of failed tests are printed as they come, and their
//! output at the end. A program that does not end is killed and counts as a failure.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weft_testkit::interrupt;
use weft_testkit::lab::program::TEST_RUN;

use super::Group;
use super::report::Tally;
use super::words::Words;
use crate::shell;

/// How often a test program that says nothing is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks without a word from a program that has ended until nothing of its own can be under way any more.
const SILENT_LOOKS: u32 = 5;

/// Tests clean up after themselves.
const LEFT_BEHIND: &str = "a program is left behind that holds the output";

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

/// How far its output has been read.
#[derive(Default)]
struct Reader {
    /// The test that has begun last, as far as can be told.
    running: String,
    /// The list of failures is being read.
    in_failures: bool,
    words: Words,
}

// === impl Binary ===

impl Binary {
    /// Runs it to its end, or to the limit.
    ///
    /// `run` stands in its environment, and so in that of all that it starts.
    pub(super) fn run(&self, run: &str, filter: Option<&str>, limit: Duration) -> Result<Tally> {
        let skips = std::env::temp_dir().join(format!("weft-skips-{}", std::process::id()));
        let judged = std::env::temp_dir().join(format!("weft-judged-{}", std::process::id()));
        for file in [&skips, &judged] {
            let _ = std::fs::remove_file(file);
        }
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env(TEST_RUN, run)
            .env("WEFT_TEST_SKIPS", &skips)
            .env("WEFT_TEST_JUDGED", &judged)
            .args(filter)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        if self.one_by_one {
            command.arg("--test-threads=1");
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.executable.display()))?;
        let _ends = interrupt::end_with_us(&child);
        let output = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let deadline = Instant::now() + limit;
        let mut tally = Tally::default();
        let mut reader = Reader::default();
        let mut silent = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left.min(LOOK_INTERVAL)) {
                Ok(line) => self.read(&line, &mut reader, &mut tally),
                Err(RecvTimeoutError::Disconnected) => break,
                // What it started and left behind may hold its output open for longer than it lives.
                Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => {
                    silent += 1;
                    if interrupt::came().is_some() {
                        break;
                    }
                    if silent == SILENT_LOOKS {
                        tally.fail(&self.name, &reader.running, LEFT_BEHIND);
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    child.kill().context("cannot kill a test program")?;
                    tally.fail(&self.name, &reader.running, "did not end in time");
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let status = child.wait().context("a test program is gone")?;
        if interrupt::check_after(status).is_err() {
            return Ok(tally);
        }
        if !status.success() && tally.failed == 0 {
            tally.fail(&self.name, &reader.running, &format!("ended with {status}"));
        }
        tally.explain(&reader.words);
        tally.take_skips(&self.name, &skips);
        tally.take_judged(&judged);
        Ok(tally)
    }

    /// One line of libtest. Its forms: `test NAME ... ok`, `... FAILED`, `... ignored, REASON`;
    /// with one thread the name comes first and the result when the test has ended.
    fn read(&self, line: &str, reader: &mut Reader, tally: &mut Tally) {
        // Below the results come the words of failed tests, which may look like results themselves.
        if reader.in_failures || line == "failures:" {
            reader.in_failures = true;
            reader.words.read(line);
            shell::say(format_args!("    {line}"));
            return;
        }
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        name.clone_into(&mut reader.running);
        if result == "ok" {
            tally.passed += 1;
            if self.one_by_one {
                shell::note(format_args!("    {name}: ok"));
            }
        } else if let Some(reason) = result.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(", ");
            tally.skip(&self.name, name, reason);
        } else {
            tally.fail(&self.name, name, "failed");
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
        let limit = Duration::from_mins(1);
        let tally = binary.run("run", script.to_str(), limit).unwrap();
        let stray = std::fs::read_to_string(folder.path().join("stray")).unwrap();
        let stray = Running::of(stray.trim().parse().unwrap()).expect("it lives on");
        kill_all(&[stray]).unwrap();
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert_eq!(tally.reasons().collect::<Vec<_>>(), [LEFT_BEHIND]);
    }
}
