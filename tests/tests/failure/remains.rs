//! What a node's programs and the kernel hold for them: to be counted before and after.
//!
//! In: a lab and a node. Out: a [`Census`]. Not here: what may differ.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use weft_bpf::{count_entries, object_get};
use weft_ebpf_abi::{ABI_VERSION, map_names};
use weft_testkit::admin;
use weft_tests::lab::TestLab;

use super::{files, program};

/// The programs of a node and their metrics ports.
const PROGRAMS: [(&str, u16); 3] = [
    ("weft-node", 15023),
    ("weft-agent", 15025),
    ("weft-proxy", 15020),
];

/// Maps that have a number of entries.
const MAPS: [&str; 7] = [
    map_names::CAPTURES,
    map_names::CLIENTS,
    map_names::PODS,
    map_names::POD_ADDRESSES,
    map_names::LISTENERS,
    map_names::REFUSALS,
    map_names::GRANTS,
];

/// What a pool or an idle timer may hold more of at one moment than at another. Far below one for each of a hundred rounds.
const TOLERANCE: usize = 5;
/// What must be as before exactly.
const EXACT: [&str; 5] = ["bpf", "net", "entries", "pins", "files in /run/netns"];

/// Counts by name: descriptors of each kind, threads, tasks, entries of maps, pins, sockets in the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Census(BTreeMap<String, usize>);

// === impl Census ===

impl Census {
    /// Counts on one node.
    pub(super) fn take(lab: &TestLab, node: &str) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for (name, port) in PROGRAMS {
            let pid = program(lab, node, name).pid;
            for kind in descriptors(pid)? {
                *counts.entry(format!("{name}: {kind}")).or_default() += 1;
            }
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.count();
            counts.insert(format!("{name}: threads"), threads);
            counts.insert(format!("{name}: tasks"), tasks(lab, node, port)?);
        }
        let bpffs = lab.lab().place().bpffs().join("weft").join(node);
        counts.insert("pins".to_owned(), files(&bpffs).len());
        let maps = bpffs.join(ABI_VERSION.to_string()).join("maps");
        for name in MAPS {
            let map = object_get(&maps.join(name)).with_context(|| name.to_owned())?;
            let (entries, _) = count_entries(std::os::fd::AsFd::as_fd(&map))?;
            counts.insert(format!("entries of {name}"), entries);
        }
        Ok(Self(counts))
    }

    /// An error that names everything of which there is more than before, by more than pools and timers explain.
    pub(super) fn is_no_more_than(&self, before: &Self) -> Result<()> {
        let more: Vec<String> = self
            .0
            .iter()
            .filter_map(|(what, now)| {
                let then = before.0.get(what).copied().unwrap_or(0);
                let exact = EXACT.iter().any(|word| what.contains(word));
                let tolerance = if exact { 0 } else { TOLERANCE };
                (*now > then + tolerance).then(|| format!("{what}: {then} before, {now} now"))
            })
            .collect();
        ensure!(more.is_empty(), "{}", more.join("; "));
        Ok(())
    }

    /// Descriptors of all programs together.
    pub(super) fn descriptors(&self) -> usize {
        let is_descriptor = |what: &str| {
            what.contains(": ") && !["threads", "tasks"].iter().any(|k| what.ends_with(k))
        };
        let of_programs = self.0.iter().filter(|(what, _)| is_descriptor(what));
        of_programs.map(|(_, count)| count).sum()
    }

    /// How many there are of something.
    pub(super) fn of(&self, what: &str) -> usize {
        self.0.get(what).copied().unwrap_or(0)
    }
}

/// The kind of each open descriptor: `socket`, `net` for a namespace, `anon_inode` by name, files by folder.
fn descriptors(pid: i32) -> Result<Vec<String>> {
    let folder = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.clone())?;
    let mut kinds = Vec::new();
    for entry in entries.flatten() {
        // One may be closed between the listing and the look.
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let text = target.to_string_lossy().into_owned();
        kinds.push(if text.starts_with('/') {
            let folder = target.parent().unwrap_or(Path::new("/"));
            format!("files in {}", folder.display())
        } else {
            text.split(":[").next().unwrap_or(&text).to_owned()
        });
    }
    Ok(kinds)
}

/// Tasks of a program, as its metrics tell.
fn tasks(lab: &TestLab, node: &str, port: u16) -> Result<usize> {
    let netns = lab.lab().topology().node(node);
    let text = admin::get_tcp(&netns, ([127, 0, 0, 1], port).into(), "/metrics")?;
    text.lines()
        .find_map(|line| line.strip_prefix("weft_tasks "))
        .context("no metric weft_tasks")?
        .trim()
        .parse()
        .context("weft_tasks is no number")
}
