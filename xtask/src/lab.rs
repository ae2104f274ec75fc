//! `cargo xtask lab`: a mesh of network namespaces on this machine.
//!
//! In: a lab file. Out: one JSON document on standard output, progress on standard error. Not
//! here: what a lab is (`weft_testkit::lab`).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use weft_testkit::lab::file::LabFile;
use weft_testkit::lab::program::keep_descriptors_here;
use weft_testkit::lab::{Lab, Options, down, report, upgrade, watch};

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
    match &args.verb {
        Verb::Up { file, name } => up(file, &name.name),
        Verb::Status { name } => {
            let lab = Lab::open(&name.name, shell::progress)?;
            print(&report::status(&lab))
        }
        Verb::Upgrade { name, node } => {
            shell::require_root("lab")?;
            let mut lab = Lab::open(&name.name, shell::progress)?;
            let build = shell::build_programs()?;
            keep_descriptors_here();
            upgrade(&mut lab, &build, node.as_deref())?;
            print(&report::describe(&lab))
        }
        Verb::Down { name } => {
            shell::require_root("lab")?;
            down(&name.name)
        }
        Verb::Watch { name } => watch::run(&name.name),
    }
}

fn up(path: &Path, name: &str) -> Result<()> {
    shell::require_root("lab")?;
    // What is wrong with the file is told before anything is built.
    let file = LabFile::read(path)?;
    let path = path
        .canonicalize()
        .with_context(|| format!("cannot find {}", path.display()))?;
    let base = path.parent().expect("a file has a folder").to_owned();
    let options = Options {
        name: name.to_owned(),
        build: shell::build_programs()?,
        file_path: Some(path),
        base,
        progress: shell::progress,
    };
    keep_descriptors_here();
    let mut lab = Lab::up(&options, file)?;
    let outcome = start_watcher(&mut lab, name).map(|()| report::describe(&lab));
    match outcome {
        Ok(document) => print(&document),
        Err(error) => {
            down(name)?;
            Err(error)
        }
    }
}

fn start_watcher(lab: &mut Lab, name: &str) -> Result<()> {
    let words = ["lab", "watch", "--name", name].map(ToOwned::to_owned);
    lab.start_watcher(words.to_vec())
}

fn print(document: &serde_json::Value) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(document)?);
    Ok(())
}
