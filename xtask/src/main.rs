//! `cargo xtask VERB`: the project's automation, one file a verb.
//!
//! In: the command line. Out: the verb's own output and exit code. What the verbs share
//! (running programs, finding the workspace, progress lines) is in `shell.rs`.

mod shell;

mod bench;
mod check;
mod demo;
mod ebpf;
mod lab;
mod setup;
mod test;

use std::io::Write as _;

use clap::{Parser, Subcommand};
use weft_testkit::interrupt;

/// Automation of the Weft workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building, testing or measuring needs on Debian 12 or 13
    Setup(setup::Args),
    /// Everything that must hold before a commit: format, lints, drift, edges, sizes
    Check(check::Args),
    /// Build the eBPF object anew and put it into the repository
    Ebpf(ebpf::Args),
    /// Show the mesh on real traffic, in a page
    Demo(demo::Args),
    /// A mesh of network namespaces on this machine
    Lab(lab::Args),
    /// Run the tests
    Test(test::Args),
    /// Measure the mesh beside no mesh and other proxies
    Bench(bench::Args),
}

fn main() -> std::process::ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Ebpf(args) => ebpf::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Lab(args) => lab::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // Not `eprintln!`, which panics when nobody reads any more.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            match interrupt::came() {
                Some(signal) => signal.exit_code().into(),
                None => std::process::ExitCode::FAILURE,
            }
        }
    }
}
