//! What one test program writes: kept whole in files, a part of it told.
//!
//! In: its standard output and its standard error. Out: `test-logs/NAME.{stdout,stderr}` in the build folder, lines as they come,
//! and the last lines of standard error for the report of a failure. Not here: what the lines mean.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, SendError, SyncSender, sync_channel};

use anyhow::{Context as _, Result};

/// Between a test's name and its result.
pub(super) const RUNS: &str = " ... ";

/// Lines of standard error that are shown of a program with a failure: what a thread other than the test's has said.
const LAST_ERRORS: usize = 5;

/// Of standard error, as much of its end as is looked at, in bytes.
const ERRORS_MAX: u64 = 16 << 10;

/// Longest line shown, in characters.
const SHOWN_MAX: usize = 160;

/// Longest line read, in bytes; the rest of it is in the file only.
const LINE_MAX: usize = 64 << 10;

/// Lines that have been read and not looked at yet. A program that writes more waits.
const LINES_MAX: usize = 1024;

/// Bytes of standard output that are kept. A program that says more has run wild.
const KEPT_MAX: usize = 64 << 20;

/// The files of one program.
pub(super) struct Transcript {
    output: File,
    errors: File,
    errors_path: PathBuf,
}

/// Takes bytes as they come, gives lines.
struct Lines {
    line: Vec<u8>,
    to: SyncSender<String>,
}

// === impl Transcript ===

impl Transcript {
    /// Makes the files anew. Two programs of one name, as one that was started twice, overwrite each other's.
    pub(super) fn begin(folder: &Path, program: &str) -> Result<Self> {
        let name = program.replace('/', "-");
        let create = |ending: &str| {
            let path = folder.join(format!("{name}.{ending}"));
            let file =
                File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok((file, path))
        };
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let (output, _) = create("stdout")?;
        let (errors, errors_path) = create("stderr")?;
        Ok(Self {
            output,
            errors,
            errors_path,
        })
    }

    /// Where the program's standard error goes.
    pub(super) fn errors(&self) -> Result<Stdio> {
        let file = self.errors.try_clone();
        Ok(file
            .context("cannot hand a test program its standard error")?
            .into())
    }

    /// Lines of standard output, until its end or until nobody listens; and before a line that tells of a test, its beginning
    /// up to [`RUNS`], which libtest writes when the test begins. A disk that is full costs the file's rest, not the run.
    pub(super) fn read(&self, output: impl Read + Send + 'static) -> Result<Receiver<String>> {
        let mut file = self.output.try_clone().context("cannot keep an output")?;
        let (to, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut lines = Lines {
                line: Vec::new(),
                to,
            };
            let mut kept = 0;
            while let Ok(bytes) = output.fill_buf() {
                let count = bytes.len();
                if kept < KEPT_MAX {
                    kept += count;
                    let _ = file.write_all(bytes);
                }
                if count == 0 || lines.take(bytes).is_err() {
                    break;
                }
                output.consume(count);
            }
            let _ = lines.end();
        });
        Ok(lines)
    }

    /// The end of standard error as far as it is written, long lines cut.
    pub(super) fn last_errors(&self) -> Vec<String> {
        let text = tail(&self.errors_path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(LAST_ERRORS);
        lines[first..].iter().map(|line| cut(line)).collect()
    }
}

// === impl Lines ===

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Result<(), SendError<String>> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let words = part.strip_suffix(b"\n").unwrap_or(part);
            let room = LINE_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&words[..words.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end()?;
            }
        }
        if self.line.starts_with(b"test ") && self.line.ends_with(RUNS.as_bytes()) {
            self.send()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), SendError<String>> {
        let sent = self.send();
        self.line.clear();
        sent
    }

    fn send(&self) -> Result<(), SendError<String>> {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.to.send(line)
    }
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(ERRORS_MAX)))?;
    let mut end = Vec::new();
    file.take(ERRORS_MAX).read_to_end(&mut end)?;
    Ok(end)
}

/// A line as it is shown.
pub(super) fn cut(line: &str) -> String {
    cut_to(line, SHOWN_MAX)
}

/// The first characters of a line; what would move a terminal's cursor is spelled out.
pub(super) fn cut_to(line: &str, characters: usize) -> String {
    let mut shown = String::new();
    for (count, character) in line.chars().enumerate() {
        if count == characters {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let transcript = Transcript::begin(folder.path(), "a/b").unwrap();
        let input = std::io::Cursor::new(bytes.to_vec());
        let lines = transcript.read(input).unwrap().iter().collect();
        (
            lines,
            std::fs::read(folder.path().join("a-b.stdout")).unwrap(),
        )
    }

    #[test]
    fn output_is_kept_byte_for_byte_and_long_lines_are_read_in_part() {
        let mut bytes = b"\xff\ntest a ... ok\n".to_vec();
        bytes.resize(3 * LINE_MAX, b'x');
        bytes.extend(b"\nno end");
        let (lines, kept) = lines_of(&bytes);
        assert!(kept == bytes, "the file differs");
        assert_eq!(lines[..2], ["\u{fffd}", "test a ... ok"]);
        assert_eq!(lines[2].len(), LINE_MAX);
        assert_eq!(lines[3..], ["no end"]);
    }

    #[test]
    fn the_end_of_standard_error_is_told_and_all_of_it_kept() {
        let folder = tempfile::tempdir().unwrap();
        let transcript = Transcript::begin(folder.path(), "a").unwrap();
        let long = "é".repeat(2 * SHOWN_MAX);
        let text = format!("{long}\n").repeat(2 * LAST_ERRORS);
        std::fs::write(folder.path().join("a.stderr"), &text).unwrap();
        let told = transcript.last_errors();
        assert_eq!(told.len(), LAST_ERRORS);
        let whole = |line: &String| line.chars().count() == SHOWN_MAX + 1 && line.ends_with('…');
        assert!(told.iter().all(whole), "{told:?}");
    }

    #[test]
    fn what_is_shown_moves_no_cursor() {
        assert_eq!(cut("a\x1b[2J\rb"), "a\\u{1b}[2J\\rb");
    }
}
