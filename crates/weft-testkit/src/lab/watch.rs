//! The process that applies edits of the lab file and its resources while the lab runs.
//!
//! In: file-system events. Out: the lab as the file says now; an edit that is wrong changes
//! nothing and is remembered for `status`. Not here: what an edit changes.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::{RecursiveMode, Watcher as _};

use crate::lab::file::LabFile;
use crate::lab::instance::Lab;

/// Editors write a file in several steps: wait until it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(100);

/// Watches until the lab is gone.
pub fn run(name: &str) -> Result<()> {
    let mut lab = Lab::open(name, |text| eprintln!("{text}"))?;
    let Some(file_path) = lab.record().file_path.clone() else {
        return Ok(());
    };
    let (sender, events) = channel();
    let mut watcher = notify::recommended_watcher(move |event| {
        // The receiver ends only with this process.
        let _ = sender.send(event);
    })
    .context("cannot watch files: is fs.inotify.max_user_instances used up?")?;
    let mut watched: Vec<PathBuf> = Vec::new();
    loop {
        for folder in folders(&lab, &file_path) {
            if !watched.contains(&folder)
                && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok()
            {
                watched.push(folder);
            }
        }
        // The first look comes right away: an edit may have come before we watched.
        apply(&mut lab, &file_path)?;
        events.recv().context("the watcher of files ended")??;
        while !matches!(events.recv_timeout(QUIET), Err(RecvTimeoutError::Timeout)) {}
    }
}

/// What the last edit means for the lab; only trouble with the lab's own records is an error.
fn apply(lab: &mut Lab, file_path: &Path) -> Result<()> {
    let outcome = LabFile::read(file_path).and_then(|file| {
        if lab.differs_from(&file)? {
            lab.apply(file)
        } else {
            Ok(())
        }
    });
    if let Err(error) = &outcome {
        eprintln!("the edit is not applied: {error:#}");
    }
    lab.remember_edit(outcome.err().map(|error| format!("{error:#}")))
}

/// The folders whose files matter. Editors replace files, so their folders are watched.
fn folders(lab: &Lab, file_path: &Path) -> Vec<PathBuf> {
    let base = &lab.record().base;
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let mut folders: Vec<PathBuf> = parent(file_path).into_iter().collect();
    for resource in &lab.record().file.resources {
        let path = base.join(resource);
        folders.extend(if path.is_dir() {
            Some(path)
        } else {
            parent(&path)
        });
    }
    folders.sort();
    folders.dedup();
    folders
}
