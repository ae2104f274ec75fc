//! The end of a program that was started with a configuration it cannot use.

use std::fmt::Display;

/// Exit code for a bad configuration (`EX_USAGE` of sysexits.h): restarting without a change is pointless.
pub const EXIT_CONFIG: i32 = 64;

/// Prints one line that says what to fix, and exits with [`EXIT_CONFIG`].
///
/// Only for `main`, before anything runs: no destructor runs after it.
pub fn exit_config(message: impl Display) -> ! {
    let line = message.to_string().replace('\n', " ");
    eprintln!("configuration error: {line}");
    std::process::exit(EXIT_CONFIG)
}
