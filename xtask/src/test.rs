//! `cargo xtask test`: sets up what it needs, builds once, runs every test, counts.
//!
//! In: groups to run. Out: progress on standard error, one closing line on standard output
//! (`N passed, N failed, N skipped`), reasons of skips above it, exit code non-zero on a failure.
//! Not here: the tests; and lints, which are `cargo xtask check`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use weft_testkit::interrupt;

mod binary;
mod cleanup;
mod reader;
mod report;
mod transcript;
mod words;

use crate::{setup, shell};
use binary::{Binary, Terms};
use report::Tally;

/// The package of the system tests.
const SYSTEM_TESTS: &str = "weft-tests";
/// Bound of one test program: kernels that run without /dev/kvm's help take most of it, all others
/// a few minutes.
const BINARY_LIMIT: Duration = Duration::from_mins(55);

/// From a test program's end until nothing of its own can be under way any more: ten times what programs take to end.
const GRACE: Duration = Duration::from_secs(10);
/// Failed tests of which the words are shown; of all others the reason in a line. A log of a run may be cut.
const SECTIONS_MAX: usize = 3;

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these groups
    #[arg(long, value_enum)]
    only: Vec<Group>,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// What a test needs, in the order in which groups run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Group {
    /// Nothing: tests beside the code, and those of the repository
    Unit,
    /// No root: the controller over its own sockets, policies against a second evaluator
    Control,
    /// Root: the whole chain in network namespaces
    Netns,
    /// Root and /dev/kvm: the eBPF object on other kernels
    Kernel,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |group: Group| args.only.is_empty() || args.only.contains(&group);
    let run = cleanup::Run::begin()?;
    setup::ensure(setup::Purpose::Test)?;
    if wanted(Group::Netns) {
        setup::fetch_envoy();
    }
    shell::build_programs()?;
    let binaries: Vec<Binary> = build()?
        .into_iter()
        .filter(|binary| wanted(binary.group))
        .collect();
    ensure!(!binaries.is_empty(), "no test belongs to these groups");
    let started = Instant::now();
    let mut tally = Tally::default();
    let logs = shell::own_folder()?.join("test-logs");
    let terms = Terms {
        run: run.name(),
        filter: args.filter.as_deref(),
        limit: BINARY_LIMIT,
        grace: GRACE,
        logs: &logs,
    };
    let count = binaries.len();
    let mut sections = SECTIONS_MAX;
    for (index, binary) in binaries.iter().enumerate() {
        let Binary { group, name, .. } = binary;
        shell::progress(&format!("[{}/{count}] {group:?}: {name}", index + 1));
        let result = binary.run(&terms, &mut sections)?;
        if let Err(interrupted) = interrupt::check() {
            return Err(run.take_down(interrupted));
        }
        tally.add(result);
    }
    let seconds = started.elapsed().as_secs();
    shell::progress(&format!("{count} test programs in {seconds} s"));
    tally.print();
    if let (Some(filter), true) = (&args.filter, tally.is_empty()) {
        bail!("no test's name contains {filter:?}");
    }
    if tally.failed > 0 {
        let (failed, logs) = (tally.failed, logs.display());
        bail!("{failed} tests failed; all that was said is in {logs}");
    }
    Ok(())
}

/// Builds every test program and says which group it belongs to.
fn build() -> Result<Vec<Binary>> {
    let what = "building the tests";
    shell::progress(what);
    let started = Instant::now();
    let mut command = shell::cargo();
    command.arg("test").args(shell::quiet()).args([
        "--workspace",
        "--lib",
        "--bins",
        "--tests",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let messages = {
        let _alive = shell::Heartbeat::begin(what);
        shell::output(&mut command)?
    };
    let seconds = started.elapsed().as_secs();
    shell::progress(&format!("{what}: done in {seconds} s"));
    let mut found = BTreeMap::new();
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            continue;
        }
        let Some(executable) = message["executable"].as_str() else {
            continue;
        };
        let target = message["target"]["name"].as_str().unwrap_or_default();
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest
            .parent()
            .context("a manifest has a folder")?
            .to_owned();
        let package = package_of(message["package_id"].as_str().unwrap_or_default());
        let group = group_of(package, target);
        let binary = Binary {
            group,
            name: if package == target {
                target.to_owned()
            } else {
                format!("{package}/{target}")
            },
            executable: executable.into(),
            folder,
            // Labs measure time and share two cores: one after the other.
            one_by_one: package == SYSTEM_TESTS && group >= Group::Netns,
        };
        found.insert((group, binary.name.clone(), executable.to_owned()), binary);
    }
    Ok(found.into_values().collect())
}

/// `path+file:///x/crates/weft-types#0.1.0` or `path+file:///x/tests#weft-tests@0.1.0`.
fn package_of(id: &str) -> &str {
    let (path, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

fn group_of(package: &str, target: &str) -> Group {
    if package != SYSTEM_TESTS {
        return Group::Unit;
    }
    match target {
        "weft_tests" | "repo" => Group::Unit,
        name if name.starts_with("control") || name.starts_with("policy") => Group::Control,
        name if name.starts_with("kernel") => Group::Kernel,
        _ => Group::Netns,
    }
}
