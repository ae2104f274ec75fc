//! Replacing a node's programs with those of another build while connections live on.
//!
//! In: the lab, the build, which nodes. Out: new programs that took over every listener from the
//! old ones, as a DaemonSet with `maxSurge: 1` would do it. A signal ends it between two nodes,
//! never within a hand-over; nodes done stay done. Not here: what is handed over.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::interrupt;
use crate::lab::instance::Lab;
use crate::lab::{programs, ready, report, start};
use crate::wait::{LONG, until_done};

/// Upgrades one node, or all of them one after the other.
pub fn run(lab: &mut Lab, build: &Path, node: Option<&str>) -> Result<()> {
    let names: Vec<String> = lab
        .record()
        .plan
        .nodes
        .iter()
        .filter(|other| !other.external && node.is_none_or(|node| node == other.name))
        .map(|node| node.name.clone())
        .collect();
    if names.is_empty() {
        bail!("no such node with programs of the mesh; see `cargo xtask lab status`");
    }
    let _lock = lab.place().lock()?;
    lab.reload()?;
    let before = lab.record.programs.clone();
    let (place, record) = (&lab.place, &mut lab.record);
    programs::keep(build, |folder| {
        folder.clone_into(&mut record.programs);
        place.remember(record)
    })?;
    for (done, name) in names.iter().enumerate() {
        lab.say(&format!("upgrading {name}"));
        let outcome = interrupt::check().and_then(|()| upgrade_node(lab, name));
        if let Err(error) = outcome {
            if done == 0 {
                // What is started from now on is of the build that runs.
                lab.record.programs = before;
                lab.remember()?;
            }
            return Err(error.context(so_far(&names, done)));
        }
    }
    ready::wait(lab).context("every node was upgraded")?;
    programs::clean_up()
}

/// How far an upgrade came that ended early.
fn so_far(names: &[String], done: usize) -> String {
    match names.split_at(done) {
        ([], _) => "no node was upgraded".to_owned(),
        (new, old) => format!(
            "{} upgraded, {} not (`cargo xtask lab upgrade` goes on)",
            new.join(", "),
            old.join(", ")
        ),
    }
}

fn upgrade_node(lab: &mut Lab, name: &str) -> Result<()> {
    let old_proxy = report::program_of_node(lab, name, "weft-proxy");
    let old_agent = report::program_of_node(lab, name, "weft-agent");
    let successor = start::successor(lab, name)?;
    let log = lab.place().log(&format!("{name}.node"));
    until_done(&format!("the new programs of {name}"), LONG, || {
        if !successor.alive() {
            return Err(ready::ended(&format!("the new weft-node of {name}"), &log));
        }
        for (program, old) in [("weft-proxy", old_proxy), ("weft-agent", old_agent)] {
            let now = report::program_of_node(lab, name, program);
            ensure!(
                now.is_some() && now != old,
                "{program} is still the old one; see {}",
                log.display()
            );
        }
        Ok(())
    })?;
    lab.record.nodes.insert(name.to_owned(), successor);
    lab.remember()?;
    // The hand-over is over when they serve: only then may the next one begin.
    ready::wait_for_holder(lab, name)
}
