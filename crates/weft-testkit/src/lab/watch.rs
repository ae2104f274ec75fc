//! The process that applies edits of the lab file and its resources while the lab runs.
//!
//! In: file-system events, and a look now and then. Out: the lab as the file says now; an edit that is wrong changes
//! nothing and is remembered for `status`. Not here: what an edit changes.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::lab::edit;
use crate::lab::file::LabFile;
use crate::lab::instance::Lab;

/// Editors write a file in several steps: wait until it has been quiet for so long.
const QUIET: Duration = Duration::from_millis(100);

/// The longest wait for quiet, as the controller's: somebody may write beside our files without end.
const BURST_MAX: Duration = Duration::from_millis(500);

/// How often the files are looked at without an event. A folder above ours that is replaced causes none.
const INTERVAL: Duration = Duration::from_secs(2);

/// What came of the files: anything but an access.
type Changed = notify::Result<notify::Event>;

/// What a look found: the state of the files, and when the lab file was saved. Saving it again tries a refused edit again.
type Look = (String, Option<SystemTime>);

/// Watches until the lab is gone.
pub fn run(name: &str) -> Result<()> {
    let mut lab = Lab::open(name, |text| eprintln!("{text}"))?;
    let Some(file_path) = lab.record().file_path.clone() else {
        return Ok(());
    };
    let (sender, events) = channel();
    let mut watcher = notify::recommended_watcher(move |event: Changed| {
        // Our own reading is an access as well: reacting to it would never end.
        if event.as_ref().is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // The receiver ends only with this process.
        let _ = sender.send(event);
    })
    .context("cannot watch files: is fs.inotify.max_user_instances used up?")?;
    let mut watched = Vec::new();
    let mut last = None;
    loop {
        renew(&mut watcher, &mut watched, folders(&lab, &file_path));
        // The first look comes right away: an edit may have come before we watched.
        apply(&mut lab, &file_path, &mut last)?;
        wait(&events)?;
    }
}

/// Watches the folders that are at these paths now: a watch stays with a folder that was moved away or removed.
fn renew(watcher: &mut RecommendedWatcher, watched: &mut Vec<PathBuf>, wanted: Vec<PathBuf>) {
    for folder in watched.drain(..) {
        // It may have ended with its folder.
        let _ = watcher.unwatch(&folder);
    }
    // A folder that is not there now is tried again at the next look.
    watched.extend(
        wanted
            .into_iter()
            .filter(|folder| watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()),
    );
}

/// Waits for a change and the quiet after it, but not for ever.
fn wait(events: &Receiver<Changed>) -> Result<()> {
    let mut limit = INTERVAL;
    let mut burst_end = None;
    loop {
        match events.recv_timeout(limit) {
            // Trouble with watching is a reason to look, too.
            Ok(_) => {
                let end = *burst_end.get_or_insert_with(|| Instant::now() + BURST_MAX);
                limit = QUIET.min(end.saturating_duration_since(Instant::now()));
                if limit.is_zero() {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("the watcher of files ended"),
        }
    }
}

/// What the last edit means for the lab; only trouble with the lab's own records is an error.
fn apply(lab: &mut Lab, file_path: &Path, last: &mut Option<Look>) -> Result<()> {
    let saved = || file_path.metadata().and_then(|file| file.modified()).ok();
    // Before the files are read: what changes meanwhile is another edit.
    let look = (edit::state(file_path, &lab.record().base), saved());
    if last.as_ref() == Some(&look) {
        return Ok(());
    }
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
    let seen = look.0.clone();
    *last = Some(look);
    lab.remember_edit(seen, outcome.err().map(|error| format!("{error:#}")))
}

/// The folders whose files matter. Editors replace files, so their folders are watched.
fn folders(lab: &Lab, file_path: &Path) -> Vec<PathBuf> {
    let base = &lab.record().base;
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let mut folders: Vec<PathBuf> = parent(file_path).into_iter().collect();
    for resource in &lab.record().file.resources {
        let path = base.join(resource);
        folders.extend(parent(&path));
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    folders.dedup();
    folders
}
