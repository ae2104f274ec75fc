//! `cargo xtask check`: everything that must hold before a commit.
//!
//! In: the workspace. Out: findings on standard error and an exit code. All checks run, so that
//! one call tells everything. Not here: tests.

use std::process::Stdio;

use anyhow::{Result, bail};
use weft_testkit::repo::{cycles, edges, features, sizes};

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
    note("one graph of features", none(features::findings(&root)));
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

/// Licences, sources and duplicates, and advisories where their database can be had; all where `cargo deny` is installed.
fn deny() -> Result<()> {
    if !succeeds(&["deny", "--version"]) {
        eprintln!("skipped: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
        return Ok(());
    }
    let check = ["deny", "--offline", "check", "--hide-inclusion-graph"];
    let always = ["bans", "licenses", "sources"];
    shell::run(shell::cargo().args(check).args(always))?;
    if !succeeds(&["deny", "fetch", "db"]) {
        eprintln!("skipped: advisories, as their database cannot be fetched");
        return Ok(());
    }
    shell::run(shell::cargo().args(check).arg("advisories"))
}

/// Whether a subcommand of cargo runs and is content; what it says is not shown.
fn succeeds(arguments: &[&str]) -> bool {
    let mut command = shell::cargo();
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
