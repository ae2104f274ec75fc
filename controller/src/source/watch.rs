//! The task that reads the directory whenever it changes. In: wake-ups. Out: [`Update`]s.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::sync::mpsc;
use weft_runtime::{Shutdown, spawn};

use super::directory::Directory;
use super::files::read_all;
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
    let mut directory = Directory::new(keep);
    for root in &roots {
        let path = root.clone();
        std::fs::metadata(root).map_err(|error| WatchError::Read { path, error })?;
    }
    // Watching starts before reading: what changes between the two is read twice, not missed.
    let wake = Wake::new(&roots)?;
    let files = read_all(&roots).map_err(|(path, error)| WatchError::Read { path, error })?;
    let first = directory.take(files);
    let (sender, receiver) = mpsc::channel(UPDATES_MAX);
    let reader = Reader {
        roots,
        directory,
        wake,
    };
    spawn(
        shutdown,
        "source",
        reader.run(shutdown.clone(), first, sender),
    );
    Ok(receiver)
}

struct Reader {
    roots: Vec<PathBuf>,
    directory: Directory,
    wake: Wake,
}

impl Reader {
    async fn run(mut self, shutdown: Shutdown, first: Update, updates: mpsc::Sender<Update>) {
        let mut known = first.problems.clone();
        tell(&[], &known);
        if updates.send(first).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.wake.next() => {}
            }
            let update = self.read();
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

    fn read(&mut self) -> Update {
        match read_all(&self.roots) {
            Ok(files) => self.directory.take(files),
            // The directory itself is away (unmounted, moved): everything stays as it was.
            Err((file, error)) => Update {
                changes: Vec::new(),
                problems: vec![SourceProblem {
                    file,
                    line: 0,
                    object: None,
                    field: String::new(),
                    message: format!("cannot be read: {error}"),
                    effect: "the last good state of all objects stays",
                }],
            },
        }
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
