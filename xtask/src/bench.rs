//! `cargo xtask bench`: the mesh beside no mesh and beside another proxy, in one run.
//!
//! In: how often and how long to measure. Out: two tables and one JSON document with figures and
//! ratios. Not here: judgements; a number is never a pass or a fail, since absolutes drift with
//! the machine and only the ratios between columns of one run say something.

mod field;
mod haproxy;
mod latency;
mod measure;
mod process;
mod report;
mod samples;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use weft_testkit::interrupt;
use weft_testkit::lab::down;

use crate::setup::{self, Purpose};
use crate::shell;
use field::Field;
use measure::{Measure, Taken};
use samples::{RoundTrips, Samples};

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
    shell::refuse_lab_in_use(LAB, "bench")?;
    shell::take_down_on_signals(LAB)?;
    setup::ensure(Purpose::Bench)?;
    let build = match &lengths.build {
        Some(folder) => folder.clone(),
        None => build_release()?,
    };
    shell::claim_lab_name(LAB, "bench")?;
    let before = report::load();
    let field = Field::up(LAB, build)?;
    let measured = measure_all(&field, lengths);
    let taken_down = down(LAB);
    let samples = measured?;
    taken_down?;
    let json = shell::root().join(&lengths.json);
    let conditions = serde_json::json!({
        "rounds": lengths.rounds,
        "seconds": lengths.seconds,
        "loadBefore": before,
        "loadAfter": report::load(),
    });
    report::write_json(&json, &samples, &conditions)?;
    println!("{}\n{}", report::table(&samples), report::goals(&samples));
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

/// Every column once for each visit of a measure in each round: what disturbs the machine disturbs all
/// columns alike. Each visit begins with another column, so that none always follows the same one.
fn measure_all(field: &Field, lengths: &Lengths) -> Result<Samples> {
    let mut samples = Samples::new(field.columns.iter().map(|column| column.name));
    let mut trips = RoundTrips::new();
    let idle = ["memory idle, MiB", "memory idle without files, MiB"];
    add_memory(field, &mut samples, idle)?;
    let wanted = |measure: &&Measure| {
        lengths.only.is_empty() || lengths.only.iter().any(|name| name == measure.name())
    };
    for round in 0..lengths.rounds {
        for measure in Measure::ALL.iter().filter(wanted) {
            let (number, rounds, name) = (round + 1, lengths.rounds, measure.name());
            shell::progress(&format!("round {number} of {rounds}: {name}"));
            let length = Duration::from_secs(lengths.seconds) / measure.visits();
            for visit in 0..measure.visits() as usize {
                let mut columns: Vec<_> = field.columns.iter().collect();
                columns.rotate_left((round + visit) % field.columns.len());
                for column in columns {
                    interrupt::check()?;
                    let taken = measure
                        .take(column, length)
                        .with_context(|| format!("{name} of {}", column.name))?;
                    match taken {
                        Taken::Numbers(numbers) => numbers
                            .into_iter()
                            .for_each(|(name, value)| samples.add(column.name, name, value)),
                        Taken::RoundTrips(times) => trips.add(&mut samples, column.name, times),
                    }
                }
            }
        }
    }
    let loaded = [
        "memory after load, MiB",
        "memory after load without files, MiB",
    ];
    add_memory(field, &mut samples, loaded)?;
    Ok(samples)
}

/// Resident memory of every column that has proxies: all of it, and the part that is no file.
fn add_memory(field: &Field, samples: &mut Samples, names: [&'static str; 2]) -> Result<()> {
    for column in &field.columns {
        if let Some(memory) = process::memory(&column.proxies()?) {
            samples.add(column.name, names[0], memory.all);
            samples.add(column.name, names[1], memory.anonymous);
        }
    }
    Ok(())
}
