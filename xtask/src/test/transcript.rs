//! What one test program writes: kept whole in files, a part of it told.
//!
//! In: its lines on standard output, and its standard error. Out: `test-logs/NAME.{stdout,stderr}` in the build folder, and the
//! last lines of the second for the report of a failure. Not here: what the lines mean.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};

/// Lines of standard error that are shown of a program with a failure: what a thread other than the test's has said.
const LAST_ERRORS: usize = 15;

/// Longest line shown, in characters.
pub(super) const LINE_MAX: usize = 300;

/// The files of one program.
pub(super) struct Transcript {
    output: File,
    errors: File,
    errors_path: PathBuf,
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

    /// Takes in a line of standard output. A disk that is full costs the file's rest, not the run.
    pub(super) fn keep(&mut self, line: &str) {
        let _ = writeln!(self.output, "{line}");
    }

    /// The end of standard error as far as it is written, long lines cut.
    pub(super) fn last_errors(&self) -> Vec<String> {
        let mut last = VecDeque::new();
        let Ok(file) = File::open(&self.errors_path) else {
            return Vec::new();
        };
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            if last.len() == LAST_ERRORS {
                last.pop_front();
            }
            last.push_back(cut(&String::from_utf8_lossy(&line)));
        }
        last.into()
    }
}

/// A line as it is shown.
pub(super) fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_standard_error_is_told_and_all_of_it_kept() {
        let folder = tempfile::tempdir().unwrap();
        let transcript = Transcript::begin(folder.path(), "a/b").unwrap();
        let long = "é".repeat(2 * LINE_MAX);
        let text = format!("{long}\n").repeat(2 * LAST_ERRORS);
        std::fs::write(folder.path().join("a-b.stderr"), &text).unwrap();
        let told = transcript.last_errors();
        assert_eq!(told.len(), LAST_ERRORS);
        assert!(
            told.iter()
                .all(|line| line.chars().count() == LINE_MAX + 1 && line.ends_with('…'))
        );
    }
}
