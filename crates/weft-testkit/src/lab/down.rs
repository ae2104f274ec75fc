//! Taking a lab down, whatever state it is in.
//!
//! In: its name. Out: nothing is left of it. Its records help but are not needed: programs are
//! found by their mark, namespaces by their names, pins by their mount. Not here: anything that
//! the lab only adopted.

use anyhow::{Context as _, Result, bail};

use crate::lab::instance::Progress;
use crate::lab::mount::unmount_bpffs;
use crate::lab::place::{Place, Turn};
use crate::lab::plan::{check_lab_name, netns_prefix};
use crate::lab::program::{end_all, kill_all, of_lab, of_run};
use crate::lab::topology::Topology;
use crate::lab::{programs, settings};
use crate::netns::{Netns, with_prefix};

/// How often programs are looked for again: one that is being started while its parent is killed
/// shows in the second look.
const KILL_ROUNDS: usize = 10;

/// Takes a lab down: every process, namespace, link, pin and file of it, whatever state it is in.
/// A lab that is not there is no error. Another command on the lab is waited for.
pub fn down(name: &str) -> Result<()> {
    down_telling(name, |_| ())
}

/// The same; says what is waited for, and when there was nothing to do.
pub fn down_telling(name: &str, say: Progress) -> Result<()> {
    check_lab_name(name)?;
    require_root()?;
    let place = Place::of(name);
    // First of all: what it applies is not worth waiting for.
    if let Some(watcher) = place.record().ok().and_then(|record| record.watcher) {
        kill_all(&[watcher])?;
    }
    let turn = place.turn_to_take_down(|| {
        say(&format!(
            "waiting for another command to be done with lab {name}"
        ));
    })?;
    if matches!(turn, Turn::TakenDown) {
        say(&format!("lab {name} was taken down by another command"));
        return Ok(());
    }
    let was_there = take_down(name, &place)?;
    if !was_there {
        say(&format!(
            "there is no lab named {name}: nothing to take down"
        ));
    }
    Ok(())
}

/// Whether there was anything of it.
fn take_down(name: &str, place: &Place) -> Result<bool> {
    let record = place.record().ok();
    let topology = Topology::of(name);
    // Programs run in the namespaces of nodes and controller; those of pods are the users'.
    let prefix = netns_prefix(name);
    let namespaces = with_prefix(&prefix);
    let mut was_there = place.root().exists() || !namespaces.is_empty();
    let own: Vec<u64> = namespaces
        .iter()
        .filter(|netns| !netns.name().starts_with(&format!("{prefix}pod.")))
        .filter_map(|netns| netns.inode().ok())
        .collect();
    for round in 0.. {
        let programs = of_lab(name, &own);
        if programs.is_empty() {
            break;
        }
        if round == KILL_ROUNDS {
            bail!("programs of lab {name} keep coming: {programs:?}");
        }
        was_there = true;
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
    programs::clean_up()?;
    Ok(was_there)
}

/// Ends what a run of the tests started and takes its labs down, when its tests were ended before they could.
pub fn down_of_run(run: &str) -> Result<()> {
    // First programs outside labs: a command that makes a lab undoes it by itself.
    end_all(&of_run(run))?;
    for lab in labs_of_run(run) {
        down(&lab)?;
    }
    Ok(())
}

/// What of a run of the tests is there: programs outside labs, by name and pid, and labs.
pub fn left_of_run(run: &str) -> Vec<String> {
    let programs = of_run(run).into_iter().map(|program| {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", program.pid));
        format!("{} ({})", name.unwrap_or_default().trim(), program.pid)
    });
    let labs = labs_of_run(run).into_iter().map(|lab| format!("lab {lab}"));
    programs.chain(labs).collect()
}

fn labs_of_run(run: &str) -> Vec<String> {
    let is_it = |name: &String| {
        let record = Place::of(name).record();
        record.is_ok_and(|record| record.test_run.as_deref() == Some(run))
    };
    Place::all().into_iter().filter(is_it).collect()
}

/// Namespaces and eBPF need root.
pub(crate) fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("a lab makes network namespaces and loads eBPF: run it as root")
}
