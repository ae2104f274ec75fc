//! `cargo xtask bench`: the mesh beside no mesh and beside another proxy, in one run.
//!
//! In: how often and how long to measure. Out: one table and one JSON document with medians and
//! ratios. Not here: judgements; a number is never a pass or a fail, since absolutes drift with
//! the machine and only the ratios between columns of one run say something.

mod field;
mod haproxy;
mod latency;
mod measure;
mod process;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use weft_testkit::interrupt;
use weft_testkit::lab::down;

use crate::setup::{self, Purpose};
use crate::shell;
use field::Field;
use measure::Measure;
use report::Samples;

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// TCP through two node proxies: bulk, round trip, HTTP, processor time, memory
    L4(Lengths),
}

#[derive(clap::Args)]
struct Lengths {
    /// Rounds; in each, every measure visits every column once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where the JSON document goes
    #[arg(long, default_value = "target/bench/l4.json")]
    json: PathBuf,
    /// Measure only these (bulk-1, bulk-8, round-trip, keep-alive, new-connections)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Folder with programs to measure instead of building this checkout
    #[arg(long)]
    build: Option<PathBuf>,
}

/// Name of the lab in which everything runs.
const LAB: &str = "bench";

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let What::L4(lengths) = &args.what;
    shell::require_root("bench")?;
    shell::take_down_on_signals(LAB)?;
    setup::ensure(Purpose::Bench)?;
    let build = match &lengths.build {
        Some(folder) => folder.clone(),
        None => build_release()?,
    };
    let field = Field::up(LAB, build)?;
    let measured = measure_all(&field, lengths);
    let taken_down = down(LAB);
    let samples = measured?;
    taken_down?;
    let json = shell::root().join(&lengths.json);
    report::write_json(&json, &samples, lengths.rounds, lengths.seconds)?;
    print!("{}", report::table(&samples));
    shell::progress(&format!("written to {}", json.display()));
    Ok(())
}

/// The programs as users run them: the dev profile that the lab usually takes is half as fast.
fn build_release() -> Result<PathBuf> {
    let packages = [
        "weft-node",
        "weft-agent",
        "weft-proxy",
        "weft-controller",
        "weft-testkit",
    ];
    let mut command = shell::cargo();
    command.args(["build", "--quiet", "--release", "--bins"]);
    // Without what the testkit adds to the features of everything, such as a clock that can be stopped.
    command.arg("--no-default-features");
    for package in packages {
        command.args(["-p", package]);
    }
    shell::step("building the programs, release profile", &mut command)?;
    let this = std::env::current_exe().context("cannot find this program's own path")?;
    let folder = this.parent().and_then(|folder| folder.parent());
    Ok(folder
        .context("xtask does not lie in a target folder")?
        .join("release"))
}

/// Every column once for each measure of each round: what disturbs the machine disturbs all
/// columns alike.
fn measure_all(field: &Field, lengths: &Lengths) -> Result<Samples> {
    let mut samples = Samples::new(field.columns.iter().map(|column| column.name));
    for column in &field.columns {
        if let Some(memory) = process::memory_mib(&column.proxies()?) {
            samples.add(column.name, "memory idle, MiB", memory);
        }
    }
    let seconds = Duration::from_secs(lengths.seconds);
    let wanted = |measure: &&Measure| {
        lengths.only.is_empty() || lengths.only.iter().any(|name| name == measure.name())
    };
    for round in 1..=lengths.rounds {
        for measure in Measure::ALL.iter().filter(wanted) {
            shell::progress(&format!(
                "round {round} of {}: {}",
                lengths.rounds,
                measure.name()
            ));
            for column in &field.columns {
                interrupt::check()?;
                let values = measure
                    .take(column, seconds)
                    .with_context(|| format!("{} of {}", measure.name(), column.name))?;
                for (name, value) in values {
                    samples.add(column.name, name, value);
                }
            }
        }
    }
    for column in &field.columns {
        if let Some(memory) = process::memory_mib(&column.proxies()?) {
            samples.add(column.name, "memory after load, MiB", memory);
        }
    }
    Ok(samples)
}
