//! Network namespaces made by others: one belongs to one lab at a time.
//!
//! In: names. Out: claims in the lab's own record, taken under a lock that all labs share; a namespace that another lab has
//! is refused by that lab's name. A claim ends with its lab, or with the edit that lets the namespace go. Not here: what is
//! done in them.

use std::collections::BTreeMap;
use std::fs::File;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::instance::Lab;
use crate::lab::place::{Place, wait_for_lock};
use crate::lab::plan::netns_prefix;
use crate::netns::Netns;

/// Namespaces by name, each with the inode that tells it from others whatever they are called.
pub(crate) type Adopted = BTreeMap<String, u64>;

/// Looks at the namespaces that a file adopts; those that are not there are left out.
pub(crate) fn look<'a>(lab: &str, names: impl Iterator<Item = &'a str>) -> Result<Adopted> {
    let mut found = Adopted::new();
    let labs = Place::all();
    for name in names {
        let netns = Netns::named(name);
        if !netns.exists() {
            continue;
        }
        let owner = labs.iter().map(String::as_str).chain([lab]);
        if let Some(owner) = owner
            .into_iter()
            .find(|owner| name.starts_with(&netns_prefix(owner)))
        {
            bail!(
                "network namespace {name} was made by lab {owner}: a pod adopts only what no lab has made"
            );
        }
        let inode = netns.inode()?;
        let other = found.iter().find(|(_, known)| **known == inode);
        ensure!(
            other.is_none() || found.contains_key(name),
            "{name} and {} are names of one network namespace: two pods cannot share it",
            other.map_or("", |(other, _)| other)
        );
        found.insert(name.to_owned(), inode);
    }
    refuse_taken(lab, &found)?;
    Ok(found)
}

// === impl Lab ===

impl Lab {
    /// Claims namespaces for this lab, besides those that it has.
    pub(crate) fn adopt(&mut self, wanted: &Adopted) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let labs = self
            .place
            .root()
            .parent()
            .context("a lab has a parent folder")?;
        let labs = File::open(labs).context("cannot open the folder of all labs")?;
        wait_for_lock(&labs, "another lab to adopt its network namespaces")?;
        refuse_taken(self.place.name(), wanted)?;
        self.record.adopted.extend(wanted.clone());
        self.remember()
    }
}

fn refuse_taken(lab: &str, wanted: &Adopted) -> Result<()> {
    for other in Place::all().iter().filter(|other| *other != lab) {
        let Ok(record) = Place::of(other).record() else {
            continue; // just made, or just taken down
        };
        for (name, inode) in wanted {
            ensure!(
                !record.adopted.values().any(|taken| taken == inode),
                "network namespace {name} belongs to lab {other} already; take its pod out of that lab, or end it: `cargo xtask lab down --name {other}`"
            );
        }
    }
    Ok(())
}
