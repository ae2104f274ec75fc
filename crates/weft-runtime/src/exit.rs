//! The end of a program that was started with a configuration it cannot use.

use std::fmt::Display;

/// Exit code for a bad configuration (`EX_USAGE` of sysexits.h): restarting without a change is pointless.
pub const EXIT_CONFIG: i32 = 64;

/// Prints one line that says what to fix, the first paragraph of the message, and exits with [`EXIT_CONFIG`].
///
/// Only for `main`, before anything runs: no destructor runs after it.
pub fn exit_config(message: impl Display) -> ! {
    eprintln!("configuration error: {}", line(&message.to_string()));
    std::process::exit(EXIT_CONFIG)
}

/// A message as one line. The text of clap's errors explains at length after its first paragraph, which says what is wrong.
fn line(text: &str) -> String {
    let paragraph = text.lines().take_while(|line| !line.trim().is_empty());
    let words: Vec<&str> = paragraph.flat_map(str::split_whitespace).collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn of_a_long_explanation_its_first_paragraph_makes_one_line() {
        let usage =
            "error: these were not provided:\n  --node <NODE>\n  --run-dir <DIR>\n\nUsage: x\n";
        assert_eq!(
            line(usage),
            "these were not provided: --node <NODE> --run-dir <DIR>"
        );
        assert_eq!(line("--node is empty"), "--node is empty");
    }
}
