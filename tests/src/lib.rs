//! What the system tests share: labs that take themselves down, and how a test is skipped.
//!
//! In: a few lines that say which pods there are. Out: a running lab. Not here: claims.

pub mod lab;

use std::io::Write as _;

/// File to which skipped tests write why; set by `cargo xtask test`.
const SKIPS_VARIABLE: &str = "WEFT_TEST_SKIPS";

/// Notes that the calling test does not run here, and why.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    println!("{name} is skipped: {reason}");
    note(SKIPS_VARIABLE, &format!("{name}\t{reason}"));
}

/// Adds a line to the file that a variable names, if it names one.
fn note(variable: &str, line: &str) {
    let Some(path) = std::env::var_os(variable) else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    if let Ok(mut file) = file {
        // A line in one write, as several tests may write at once.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// Whether we are root; a test that is not is skipped.
pub fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    skip("network namespaces and eBPF need root");
    false
}

/// Whether a program is installed; a test that needs it is skipped without it.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).exists());
    if !found {
        skip(&format!("{name} is not installed"));
    }
    found
}
