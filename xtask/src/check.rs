//! `cargo xtask check`: everything that must hold before a commit.
//!
//! In: the workspace. Out: findings on standard error and an exit code. All checks run, so that
//! one call tells everything. Not here: tests.

use anyhow::{Result, bail};
use weft_testkit::repo::{cycles, edges, sizes};

use crate::{ebpf, shell};

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out what compiles: format, drift, edges, sizes and cycles take two seconds
    #[arg(long)]
    fast: bool,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = shell::root();
    let mut failed = Vec::new();
    let mut note = |what: &str, outcome: Result<()>| {
        shell::progress(what);
        if let Err(error) = outcome {
            eprintln!("{error:#}");
            failed.push(what.to_owned());
        }
    };
    note(
        "format",
        shell::run(shell::cargo().args(["fmt", "--all", "--check"])),
    );
    note("eBPF object", ebpf::verify());
    note("dependency edges", none(edges::findings(&root)));
    note("sizes and heads", none(sizes::findings(&root)));
    note("module cycles", none(cycles::findings(&root)));
    if !args.fast {
        note(
            "lints",
            shell::run(shell::cargo().args([
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ])),
        );
        note("dependencies", deny());
    }
    if failed.is_empty() {
        shell::progress("all checks hold");
        return Ok(());
    }
    bail!("these do not hold: {}", failed.join(", "))
}

fn none(findings: Result<Vec<String>>) -> Result<()> {
    let findings = findings?;
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{}", findings.join("\n"))
}

/// Licences, sources and advisories, where `cargo deny` is installed.
fn deny() -> Result<()> {
    let mut command = shell::cargo();
    command.args(["deny", "--version"]);
    command.stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    if !command.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
        return Ok(());
    }
    shell::run(shell::cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))
}
