//! Why tests failed, in a line each, out of what libtest prints below `failures:`.
//!
//! In: lines. Out: for each test the place and the message of its panic, or its error. Not here: backtraces and what else a
//! failed test has printed; they stand above, where they were printed.

use std::collections::HashMap;

/// Longest reason in characters: a message that shows two lists of thousands is cut.
const REASON_MAX: usize = 400;

/// The reasons read so far.
#[derive(Default)]
pub(super) struct Words {
    /// Whose words are being read.
    test: Option<String>,
    /// A panic's message is being read.
    in_message: bool,
    reasons: HashMap<String, String>,
}

// === impl Words ===

impl Words {
    /// Takes in the next line.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(name) = header(line) {
            self.test = Some(name.to_owned());
            self.in_message = false;
        } else if line.starts_with("thread '") && line.contains(" panicked at ") {
            let place = line.rsplit_once(" panicked at ").map(|(_, place)| place);
            self.add(place.unwrap_or(line));
            self.in_message = true;
        } else if line.starts_with("Error: ") {
            self.add(line);
            self.in_message = true;
        } else if self.in_message {
            let ends = ["stack backtrace:", "note: ", "failures:"];
            self.in_message = !ends.iter().any(|end| line.starts_with(end));
            if self.in_message {
                self.add(line.trim());
            }
        }
    }

    /// What a test said, if it said anything.
    pub(super) fn of(&self, test: &str) -> Option<&str> {
        self.reasons.get(test).map(String::as_str)
    }

    fn add(&mut self, words: &str) {
        let Some(test) = &self.test else {
            return;
        };
        let reason = self.reasons.entry(test.clone()).or_default();
        let left = REASON_MAX.saturating_sub(reason.chars().count());
        if left == 0 || words.is_empty() {
            return;
        }
        if !reason.is_empty() {
            reason.push(' ');
        }
        reason.extend(words.chars().take(left));
    }
}

/// `---- NAME stdout ----`
fn header(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Words {
        let mut words = Words::default();
        text.lines().for_each(|line| words.read(line));
        words
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_without_its_backtrace() {
        let words = read(
            "failures:\n\n---- a::b stdout ----\nchatter\n\nthread 'a::b' (7) panicked at src/a.rs:3:5:\nassertion failed\n  \
             left: 1\n right: 2\nstack backtrace:\n   0: rust_begin_unwind\n\n---- c stdout ----\nError: \"no such \
             thing\"\n\n\nfailures:\n    a::b\n    c\n",
        );
        let panic = "src/a.rs:3:5: assertion failed left: 1 right: 2";
        assert_eq!(words.of("a::b"), Some(panic));
        assert_eq!(words.of("c"), Some("Error: \"no such thing\""));
        assert_eq!(words.of("d"), None);
    }

    #[test]
    fn a_long_reason_is_cut() {
        let long = "é".repeat(5 * REASON_MAX);
        let words = read(&format!(
            "---- a stdout ----\nthread 'a' panicked at x.rs:1:1:\n{long}\n"
        ));
        assert_eq!(words.of("a").unwrap().chars().count(), REASON_MAX + 1);
    }
}
