//! `cargo xtask lab`: a mesh of network namespaces on this machine.
//!
//! In: a lab file. Out: one JSON document on standard output, progress on standard error. Not
//! here: what a lab is (`weft_testkit::lab`).

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use weft_testkit::interrupt;
use weft_testkit::lab::file::LabFile;
use weft_testkit::lab::{Lab, Options, down, down_telling, report, upgrade, watch};

use crate::shell;

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring a lab up and print what it consists of
    Up {
        /// The lab file
        file: PathBuf,
        #[command(flatten)]
        name: Name,
    },
    /// Print what a lab consists of, with conditions of policies and the fate of the last edit
    Status {
        #[command(flatten)]
        name: Name,
    },
    /// Replace the programs of a lab's nodes with those of this checkout
    Upgrade {
        #[command(flatten)]
        name: Name,
        /// Only this node
        #[arg(long)]
        node: Option<String>,
    },
    /// Take a lab down, whatever state it is in
    Down {
        #[command(flatten)]
        name: Name,
    },
    /// Apply edits of a lab's file (started by `up`)
    #[command(hide = true)]
    Watch {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(clap::Args)]
struct Name {
    /// Name of the lab; several may run at once
    #[arg(long, default_value = "lab")]
    name: String,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    // Looking needs it as well: to others a program whose environment they may not read looks as if it had ended.
    shell::require_root("lab")?;
    match &args.verb {
        Verb::Up { file, name } => up(file, &name.name),
        Verb::Status { name } => {
            let lab = Lab::open(&name.name, shell::progress)?;
            let document = report::status(&lab);
            for line in report::ended(&document) {
                shell::warn(&line);
            }
            print(&document)
        }
        Verb::Upgrade { name, node } => {
            interrupt::watch(interrupt::Words {
                now: "ending the upgrade; a hand-over that is under way is finished first"
                    .to_owned(),
                by_hand: format!(
                    "`cargo xtask lab upgrade --name {0}` goes on, `cargo xtask lab down --name {0}` takes the lab away",
                    name.name
                ),
            })?;
            let mut lab = Lab::open(&name.name, shell::progress)?;
            let build = shell::build_programs()?;
            upgrade(&mut lab, &build, node.as_deref())?;
            print(&report::describe(&lab))
        }
        Verb::Down { name } => {
            interrupt::watch(interrupt::Words {
                now: format!("lab {} is being taken down already", name.name),
                by_hand: format!(
                    "`cargo xtask lab down --name {}` once more takes the rest",
                    name.name
                ),
            })?;
            down_telling(&name.name, shell::progress)
        }
        Verb::Watch { name } => watch::run(&name.name),
    }
}

fn up(path: &Path, name: &str) -> Result<()> {
    // What is wrong with the file is told before anything is built.
    let file = LabFile::read(path)?;
    let path = path
        .canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))?;
    let base = path.parent().expect("a file has a folder").to_owned();
    shell::take_down_on_signals(name)?;
    let options = Options {
        name: name.to_owned(),
        build: shell::build_programs()?,
        file_path: Some(path),
        base,
        progress: shell::progress,
    };
    let mut lab = Lab::up(&options, file)?;
    let outcome = start_watcher(&mut lab, name).map(|()| report::status(&lab));
    if let Ok(document) = &outcome {
        for warning in [report::ended(document), report::warnings(document)].concat() {
            shell::warn(&warning);
        }
    }
    let told = interrupt::check()
        .and(outcome)
        .and_then(|document| print(&document));
    if let Err(error) = told {
        down(name)?;
        return Err(error.context(format!("lab {name} was taken down again")));
    }
    Ok(())
}

fn start_watcher(lab: &mut Lab, name: &str) -> Result<()> {
    let words = ["lab", "watch", "--name", name].map(ToOwned::to_owned);
    lab.start_watcher(words.to_vec())
}

fn print(document: &serde_json::Value) -> Result<()> {
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::to_string_pretty(document)?
    )
    .context("cannot write the document")
}
