//! The number of each pod in eBPF keys.
//!
//! In: pod uids. Out: numbers that stay the same over restarts of the agent, because pinned programs carry them.
//! Not here: the maps themselves (`capture`).

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;
use weft_types::PodUid;

/// File name within the state directory.
const FILE: &str = "pod-ids.json";

/// Numbers given out, kept on disk.
#[derive(Debug)]
pub(crate) struct PodIds {
    path: PathBuf,
    table: Table,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Table {
    /// The last number given out. Numbers are not reused until all 2^32 have been, so that an entry of a pod that is
    /// gone can never be taken for one of its successor's.
    last: u32,
    ids: BTreeMap<String, u32>,
}

impl PodIds {
    /// Reads the table; a missing one is empty, one that cannot be read is reported and starts anew.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let table = match read(&path) {
            Ok(table) => table,
            Err(error) => {
                warn!(%error, path = %path.display(), "pod numbers are unreadable: pods are enrolled anew");
                Table::default()
            }
        };
        Self { path, table }
    }

    /// The pod's number; a new pod gets one.
    pub(crate) fn of(&mut self, uid: &PodUid) -> u32 {
        if let Some(id) = self.table.ids.get(uid.as_str()) {
            return *id;
        }
        let mut id = self.table.last.wrapping_add(1).max(1);
        while self.table.ids.values().any(|taken| *taken == id) {
            id = id.wrapping_add(1).max(1);
        }
        self.table.last = id;
        self.table.ids.insert(uid.as_str().to_owned(), id);
        self.write();
        id
    }

    /// Forgets the number of a pod that is gone.
    pub(crate) fn forget(&mut self, uid: &PodUid) {
        if self.table.ids.remove(uid.as_str()).is_some() {
            self.write();
        }
    }

    /// Forgets every pod that `keep` does not know.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let before = self.table.ids.len();
        self.table.ids.retain(|uid, _| keep(uid));
        if self.table.ids.len() != before {
            self.write();
        }
    }

    /// A full disk costs a re-enrolment at the next start, nothing else: it is reported, not fatal.
    fn write(&self) {
        if let Err(error) = write(&self.path, &self.table) {
            warn!(%error, path = %self.path.display(), "pod numbers could not be written; check the disk");
        }
    }
}

fn read(path: &Path) -> io::Result<Table> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Table::default()),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, table: &Table) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(table).map_err(io::Error::other)?)?;
    file.sync_data()?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::PodIds;

    #[test]
    fn a_number_survives_a_restart_and_is_not_given_to_a_successor() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, c) = ("a".into(), "b".into(), "c".into());
        let mut ids = PodIds::open(dir.path());
        let (first, second) = (ids.of(&a), ids.of(&b));
        assert_ne!(first, second);
        ids.forget(&b);
        let mut ids = PodIds::open(dir.path());
        assert_eq!(ids.of(&a), first);
        assert!(![first, second].contains(&ids.of(&c)));
    }

    #[test]
    fn a_broken_file_starts_an_empty_table() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(super::FILE), "{").unwrap();
        assert_eq!(PodIds::open(dir.path()).of(&"a".into()), 1);
    }
}
