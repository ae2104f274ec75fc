//! Kernel settings of adopted namespaces that the mesh changes: noted before, put back after.
//!
//! In: a namespace. Out: what it said. `weft-node` restores them itself when a pod leaves the mesh;
//! this is for labs whose programs were killed.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;

use crate::netns::Netns;

/// What the mesh changes inside a pod.
const CHANGED: [&str; 1] = ["/proc/sys/net/ipv4/tcp_tw_reuse"];

/// Values by path.
pub(crate) type Noted = BTreeMap<String, String>;

/// Reads the settings.
pub(crate) fn note(netns: &Netns) -> Result<Noted> {
    netns.enter(|| {
        Ok(CHANGED
            .iter()
            .filter_map(|path| Some(((*path).to_owned(), fs::read_to_string(path).ok()?)))
            .collect())
    })
}

/// Writes them back; a namespace that is gone needs none.
pub(crate) fn restore(netns: &Netns, noted: &Noted) -> Result<()> {
    if !netns.exists() {
        return Ok(());
    }
    netns.enter(|| {
        for (path, value) in noted {
            if fs::read_to_string(path).is_ok_and(|now| now != *value) {
                fs::write(path, value)?;
            }
        }
        Ok(())
    })
}
