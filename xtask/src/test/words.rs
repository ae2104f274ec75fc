//! What failed tests said, out of what libtest prints below `failures:`.
//!
//! In: lines. Out: for each test, in a line, the place and the message of its panic, or its error; and the end of what it
//! printed, without backtraces. Not here: the whole of it, which is in the transcript.

use std::collections::VecDeque;

use super::transcript::cut;

/// Longest reason in characters: a message that shows two lists of thousands is cut.
const REASON_MAX: usize = 400;

/// Lines shown of one test, its last ones: the panic, and what was said before it.
const LINES_MAX: usize = 15;

/// What has been read so far.
#[derive(Default)]
pub(super) struct Words {
    /// Tests that have failed and have not been heard yet. Nothing else begins a section, whatever a test prints.
    expected: Vec<String>,
    sections: Vec<Section>,
    in_message: bool,
    in_backtrace: bool,
    /// The names of all failed tests may be what comes.
    in_names: bool,
}

/// One failed test's.
#[derive(Default)]
struct Section {
    test: String,
    reason: String,
    lines: VecDeque<String>,
}

// === impl Words ===

impl Words {
    /// A test that has failed.
    pub(super) fn expect(&mut self, test: &str) {
        self.expected.push(test.to_owned());
    }

    /// Takes in the next line.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(test) = self.header(line) {
            self.sections.push(Section {
                test,
                ..Section::default()
            });
            (self.in_message, self.in_backtrace) = (false, false);
            return;
        }
        if self.is_of_names(line) {
            return;
        }
        let Some(section) = self.sections.last_mut() else {
            return;
        };
        if line == "stack backtrace:" {
            (self.in_message, self.in_backtrace) = (false, true);
        } else if line.starts_with("note: run with `RUST") || line.starts_with("note: Some details")
        {
            (self.in_message, self.in_backtrace) = (false, false);
            return;
        } else if line.starts_with("thread '") && line.contains(" panicked at ") {
            let place = line.rsplit_once(" panicked at ").map(|(_, place)| place);
            section.add(place.unwrap_or(line));
            (self.in_message, self.in_backtrace) = (true, false);
        } else if line.starts_with("Error: ") {
            section.add(line);
            self.in_message = true;
        } else if self.in_message {
            section.add(line.trim());
        }
        if !self.in_backtrace {
            section.show(line);
        }
    }

    /// Why a test failed, if it said anything.
    pub(super) fn of(&self, test: &str) -> Option<&str> {
        let section = self.sections.iter().find(|section| section.test == test)?;
        Some(section.reason.as_str()).filter(|reason| !reason.is_empty())
    }

    /// Each failed test, and the end of what it printed.
    pub(super) fn shown(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.sections.iter().map(|section| {
            let lines = section.lines.iter().map(String::as_str);
            (section.test.as_str(), lines)
        })
    }

    /// `---- NAME stdout ----`
    fn header(&mut self, line: &str) -> Option<String> {
        let name = line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?;
        let name = name.strip_suffix(" - should panic").unwrap_or(name);
        let place = self.expected.iter().position(|test| test == name)?;
        Some(self.expected.swap_remove(place))
    }

    /// Below all sections stand the names once more, and the result.
    fn is_of_names(&mut self, line: &str) -> bool {
        let is_name = || {
            let name = line.strip_prefix("    ").unwrap_or_default();
            let known = |section: &Section| {
                name.strip_suffix(" - should panic").unwrap_or(name) == section.test
            };
            self.sections.iter().any(known)
        };
        self.in_names = line == "failures:"
            || self.in_names && (line.is_empty() || is_name() || line.starts_with("test result: "));
        self.in_names
    }
}

// === impl Section ===

impl Section {
    fn add(&mut self, words: &str) {
        let left = REASON_MAX.saturating_sub(self.reason.chars().count());
        if left == 0 || words.is_empty() {
            return;
        }
        if !self.reason.is_empty() {
            self.reason.push(' ');
        }
        self.reason.extend(words.chars().take(left));
    }

    fn show(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(cut(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "failures:\n\n---- a::b stdout ----\nchatter\n\nthread 'a::b' (7) panicked at src/a.rs:3:5:\nassertion \
                          failed\n  left: 1\n right: 2\nstack backtrace:\n   0: rust_begin_unwind\nnote: Some details are \
                          omitted\nfailures:\n---- c of it stdout ----\nlast words\n\n---- c stdout ----\nError: \"no such thing\"\n\n\nfailures:\n    a::b\n    c\n";

    fn read(text: &str) -> Words {
        let mut words = Words::default();
        for test in ["a", "a::b", "c"] {
            words.expect(test);
        }
        text.lines().for_each(|line| words.read(line));
        words
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_without_its_backtrace() {
        let words = read(OUTPUT);
        let panic = "src/a.rs:3:5: assertion failed left: 1 right: 2";
        assert_eq!(words.of("a::b"), Some(panic));
        assert_eq!(words.of("c"), Some("Error: \"no such thing\""));
        assert_eq!(words.of("d"), None);
    }

    #[test]
    fn what_failed_tests_printed_is_shown_without_backtraces_and_repetition() {
        let words = read(OUTPUT);
        let shown: Vec<(&str, Vec<&str>)> = words
            .shown()
            .map(|(test, lines)| (test, lines.collect()))
            .collect();
        let panicked = "thread 'a::b' (7) panicked at src/a.rs:3:5:";
        assert_eq!(
            shown,
            [
                (
                    "a::b",
                    vec![
                        "chatter",
                        panicked,
                        "assertion failed",
                        "  left: 1",
                        " right: 2",
                        "---- c of it stdout ----",
                        "last words"
                    ]
                ),
                ("c", vec!["Error: \"no such thing\""]),
            ]
        );
    }

    #[test]
    fn a_long_reason_is_cut_and_of_many_lines_the_last_are_shown() {
        let long = "é".repeat(5 * REASON_MAX);
        let chatter = "chatter\n".repeat(2 * LINES_MAX);
        let words = read(&format!(
            "---- a stdout ----\n{chatter}thread 'a' panicked at x.rs:1:1:\n{long}\n"
        ));
        assert_eq!(words.of("a").unwrap().chars().count(), REASON_MAX + 1);
        let (_, lines) = words.shown().next().unwrap();
        assert_eq!(lines.count(), LINES_MAX);
    }
}
