//! The task that reads the directory whenever it changes. In: wake-ups. Out: [`Update`]s.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;
use tokio::sync::mpsc;
use weft_runtime::{Shutdown, off_runtime, spawn};

use super::directory::Directory;
use super::files::{Look, find, read};
use super::keep::Keep;
use super::{SourceProblem, Update};
use crate::wake::{Wake, WakeError};

/// Updates on their way; a reader that is behind holds up nothing but the next reading.
const UPDATES_MAX: usize = 4;

/// Why a directory cannot be watched. The operator is to blame.
#[derive(Debug, Error)]
pub(crate) enum WatchError {
    /// It cannot be read.
    #[error("source {path} cannot be read: {error}; check --source")]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder for copies cannot be made.
    #[error("state folder {path} cannot be used: {error}; check --state-dir")]
    State {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It cannot be watched.
    #[error("source: {0}")]
    Watch(#[from] WakeError),
}

/// Reads the paths, and again whenever something changes below them, until shutdown. The first update is the state at the call.
pub(crate) fn watch(
    shutdown: &Shutdown,
    roots: Vec<PathBuf>,
    state_folder: &Path,
) -> Result<mpsc::Receiver<Update>, WatchError> {
    let folder = state_folder.join("last-good");
    let keep = Keep::open(folder.clone()).map_err(|error| WatchError::State {
        path: folder,
        error,
    })?;
    for root in &roots {
        let path = root.clone();
        std::fs::metadata(root).map_err(|error| WatchError::Read { path, error })?;
    }
    // Watching starts before reading: what changes between the two is read twice, not missed.
    let wake = Wake::new(&roots)?;
    let mut files = Files {
        roots,
        directory: Directory::new(keep),
        seen: Seen::new(),
    };
    let first = files.read();
    let first = first.map_err(|(path, error)| WatchError::Read { path, error })?;
    let (sender, receiver) = mpsc::channel(UPDATES_MAX);
    let reader = Reader { files, wake };
    spawn(
        shutdown,
        "source",
        reader.run(shutdown.clone(), first, sender),
    );
    Ok(receiver)
}

struct Reader {
    files: Files,
    wake: Wake,
}

struct Files {
    roots: Vec<PathBuf>,
    directory: Directory,
    seen: Seen,
}

/// Files as they looked when they were read, unless they may change without looking different.
type Seen = BTreeMap<PathBuf, Look>;

impl Reader {
    async fn run(self, shutdown: Shutdown, first: Update, updates: mpsc::Sender<Update>) {
        let Self {
            mut files,
            mut wake,
        } = self;
        let mut known = first.problems.clone();
        tell(&[], &known);
        if updates.send(first).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = wake.next() => {}
            }
            let update;
            // A large source takes seconds to parse.
            (files, update) = off_runtime(move || {
                let update = files.read();
                (files, update)
            })
            .await;
            let update = update.unwrap_or_else(|(path, error)| away(path, &error));
            if update.changes.is_empty() && update.problems == known {
                continue;
            }
            tell(&known, &update.problems);
            known.clone_from(&update.problems);
            if updates.send(update).await.is_err() {
                return;
            }
        }
    }
}

impl Files {
    /// Reads the files that may have changed since the last time. An error is about one of the roots.
    fn read(&mut self) -> Result<Update, (PathBuf, io::Error)> {
        let now = SystemTime::now();
        let found = find(&self.roots)?;
        let changed = found
            .iter()
            .filter(|(path, look)| self.seen.get(*path) != Some(look));
        let texts = changed
            .map(|(path, _)| (path.clone(), read(path)))
            .collect();
        let update = self.directory.take(|path| found.contains_key(path), texts);
        self.seen = found;
        self.seen.retain(|_, look| look.is_settled(now));
        Ok(update)
    }
}

/// The directory itself is away (unmounted, moved): everything stays as it was.
fn away(file: PathBuf, error: &io::Error) -> Update {
    Update {
        changes: Vec::new(),
        problems: vec![SourceProblem {
            file,
            line: 0,
            object: None,
            field: String::new(),
            message: format!("cannot be read: {error}"),
            effect: "the last good state of all objects stays",
        }],
    }
}

/// Logs what is new; the rest was told before and is at the admin socket.
fn tell(known: &[SourceProblem], problems: &[SourceProblem]) {
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        let SourceProblem {
            file,
            line,
            object,
            field,
            message,
            effect,
        } = problem;
        let file = file.display();
        tracing::warn!(%file, line, object, field, effect, "{message}");
    }
}
