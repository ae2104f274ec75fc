//! Taking a lab down, whatever state it is in.
//!
//! In: its name. Out: nothing is left of it. Its records help but are not needed: programs are
//! found by their mark, namespaces by their names, pins by their mount. Not here: anything that
//! the lab only adopted.

use anyhow::{Context as _, Result, bail};

use crate::lab::mount::unmount_bpffs;
use crate::lab::place::Place;
use crate::lab::plan::{check_lab_name, netns_prefix};
use crate::lab::program::{kill_all, of_lab};
use crate::lab::topology::Topology;
use crate::lab::{programs, settings};
use crate::netns::{Netns, with_prefix};

/// How often programs are looked for again: one that is being started while its parent is killed
/// shows in the second look.
const KILL_ROUNDS: usize = 10;

/// Takes a lab down: every process, namespace, link, pin and file of it, whatever state it is in.
/// A lab that is not there is no error.
pub fn down(name: &str) -> Result<()> {
    check_lab_name(name)?;
    require_root()?;
    let place = Place::of(name);
    let record = place.record().ok();
    let topology = Topology::of(name);
    // Programs run in the namespaces of nodes and controller; those of pods are the users'.
    let prefix = netns_prefix(name);
    let own: Vec<u64> = with_prefix(&prefix)
        .iter()
        .filter(|netns| !netns.name().starts_with(&format!("{prefix}pod.")))
        .filter_map(|netns| netns.inode().ok())
        .collect();
    if let Some(watcher) = record.as_ref().and_then(|record| record.watcher) {
        kill_all(&[watcher])?;
    }
    for round in 0.. {
        let programs = of_lab(name, &own);
        if programs.is_empty() {
            break;
        }
        if round == KILL_ROUNDS {
            bail!("programs of lab {name} keep coming: {programs:?}");
        }
        kill_all(&programs)?;
    }
    unmount_bpffs(&place.bpffs())?;
    for (netns, noted) in record.iter().flat_map(|record| &record.adopted_settings) {
        settings::restore(&Netns::named(netns.clone()), noted)?;
    }
    topology.remove_all()?;
    if place.root().exists() {
        std::fs::remove_dir_all(place.root())
            .with_context(|| format!("cannot remove {}", place.root().display()))?;
    }
    // The parent goes with the last lab.
    let _ = place.root().parent().map(std::fs::remove_dir);
    programs::clean_up()
}

/// Namespaces and eBPF need root.
pub(crate) fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("a lab makes network namespaces and loads eBPF: run it as root")
}
