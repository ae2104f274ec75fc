//! What libtest says, read as it comes.
//!
//! In: lines. Out: a [`Tally`]; failures are told as they come, and at the end what the failed tests have printed.
//!
//! On a terminal every test of the system is told as well. Elsewhere, as in a log, which may be cut, nothing is but what goes
//! wrong, and each minute where the program is.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, channel};

use super::report::Tally;
use super::transcript::Transcript;
use super::words::Words;
use crate::shell;

/// Between a test's name and its result.
const RUNS: &str = " ... ";

/// One program while it runs.
pub(super) struct Reader {
    program: String,
    /// Each test is told, on a terminal.
    each: bool,
    transcript: Transcript,
    tally: Tally,
    /// The test that has begun last, as far as can be told.
    running: String,
    /// The list of failures is being read.
    in_failures: bool,
    words: Words,
}

// === impl Reader ===

impl Reader {
    pub(super) fn begin(program: &str, each: bool, transcript: Transcript) -> Self {
        Self {
            program: program.to_owned(),
            each: each && shell::on_terminal(),
            transcript,
            tally: Tally::default(),
            running: String::new(),
            in_failures: false,
            words: Words::default(),
        }
    }

    /// One line of libtest. Its forms: `test NAME ... ok`, `... FAILED`, `... ignored, REASON`;
    /// with one thread the name comes first and the result when the test has ended.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(begun) = line.strip_suffix(RUNS) {
            begun
                .trim_start_matches("test ")
                .clone_into(&mut self.running);
            return;
        }
        self.transcript.keep(line);
        // Below the results come the words of failed tests, which may look like results themselves.
        if self.in_failures || line == "failures:" {
            self.in_failures = true;
            self.words.read(line);
            return;
        }
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(RUNS))
        else {
            return;
        };
        name.clone_into(&mut self.running);
        if result == "ok" {
            self.tally.passed += 1;
            if self.each {
                shell::note(format_args!("    {name}: ok"));
            }
        } else if let Some(reason) = result.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(", ");
            self.tally.skip(&self.program, name, reason);
        } else {
            self.tally.fail(&self.program, name, "failed");
        }
    }

    /// How many tests have failed.
    pub(super) fn failed(&self) -> u64 {
        self.tally.failed
    }

    /// A failure of the program, beside what its tests say.
    pub(super) fn fail(&mut self, why: &str) {
        self.tally.fail(&self.program, &self.running, why);
    }

    /// Where the program is.
    pub(super) fn state(&self) -> String {
        format!("{} passed, in {}", self.tally.passed, self.running)
    }

    /// The results, each failure with what the test said of it.
    pub(super) fn end(mut self) -> Tally {
        self.tell_failures();
        self.tally.explain(&self.words);
        self.tally
    }

    /// Prints what failed tests have said, and the end of what the program said beside.
    fn tell_failures(&self) {
        if self.tally.failed == 0 {
            return;
        }
        for (test, lines) in self.words.shown() {
            shell::note(format_args!("    ---- {test}"));
            lines.for_each(|line| shell::note(format_args!("    {line}")));
        }
        shell::note(format_args!("    ---- end of standard error"));
        for line in self.transcript.last_errors() {
            shell::note(format_args!("    {line}"));
        }
    }
}

/// Lines as they come, until the end or until nobody listens; and before a line that tells of a test, its beginning, which
/// libtest writes when the test begins.
pub(super) fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        let send = |line: &[u8]| sender.send(String::from_utf8_lossy(line).into_owned());
        while let Ok(bytes) = output.fill_buf() {
            if bytes.is_empty() {
                break;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            output.consume(taken);
            let begun =
                end.is_none() && line.starts_with(b"test ") && line.ends_with(RUNS.as_bytes());
            if (begun || end.is_some()) && send(&line).is_err() {
                break;
            }
            if end.is_some() {
                line.clear();
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_test_is_known_to_run_before_its_result_is_there() {
        let (read, mut write) = std::io::pipe().unwrap();
        let lines = lines(read);
        let folder = tempfile::tempdir().unwrap();
        let transcript = Transcript::begin(folder.path(), "program").unwrap();
        let mut reader = Reader::begin("program", false, transcript);
        write.write_all(b"running 2 tests\ntest a ... ").unwrap();
        while reader.running.is_empty() {
            reader.read(&lines.recv().unwrap());
        }
        assert_eq!(reader.state(), "0 passed, in a");
        write.write_all(b"ok\ntest b ... ignored, why\n").unwrap();
        drop(write);
        for line in lines {
            reader.read(&line);
        }
        assert_eq!(reader.state(), "1 passed, in b");
        let kept = std::fs::read_to_string(folder.path().join("program.stdout")).unwrap();
        assert_eq!(
            kept,
            "running 2 tests\ntest a ... ok\ntest b ... ignored, why\n"
        );
    }
}
