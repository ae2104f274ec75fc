//! Replacing a node's programs with those of another build while connections live on.
//!
//! In: the lab, the build, which nodes. Out: new programs that took over every listener from the
//! old ones, as a DaemonSet with `maxSurge: 1` would do it. Not here: what is handed over.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use crate::lab::instance::Lab;
use crate::lab::program::tail;
use crate::lab::{programs, ready, report, start};
use crate::wait::{LONG, until};

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
    let (place, record) = (&lab.place, &mut lab.record);
    programs::keep(build, |folder| {
        folder.clone_into(&mut record.programs);
        place.remember(record)
    })?;
    for name in names {
        lab.say(&format!("upgrading {name}"));
        upgrade_node(lab, &name)?;
    }
    ready::wait(lab)?;
    programs::clean_up()
}

fn upgrade_node(lab: &mut Lab, name: &str) -> Result<()> {
    let old_proxy = report::program_of_node(lab, name, "weft-proxy");
    let old_agent = report::program_of_node(lab, name, "weft-agent");
    let successor = start::successor(lab, name)?;
    let log = lab.place().log(&format!("{name}.node"));
    until(&format!("the new programs of {name}"), LONG, || {
        ensure!(successor.alive(), "weft-node ended: {}", tail(&log, 5));
        for (program, old) in [("weft-proxy", old_proxy), ("weft-agent", old_agent)] {
            let now = report::program_of_node(lab, name, program);
            ensure!(
                now.is_some() && now != old,
                "{program} is still the old one"
            );
        }
        Ok(())
    })?;
    lab.record.nodes.insert(name.to_owned(), successor);
    lab.remember()
}
