//! When to read files again. In: file-system events. Out: one wake-up after each burst of them.
//!
//! Nothing rests on what an event says, only on that there was one; a wake-up at intervals finds what events missed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// A burst of writes ends with this much quiet; long enough for an editor's sequence of write and rename, short enough not to be felt.
const QUIET: Duration = Duration::from_millis(50);
/// A burst without end is read anyway.
const BURST_MAX: Duration = Duration::from_millis(500);
/// Events can be lost (a full queue, a network file system): read anyway.
const INTERVAL: Duration = Duration::from_secs(30);

/// The kernel refuses to watch.
#[derive(Debug, Error)]
#[error("{path} cannot be watched: {error}; check that it exists, and fs.inotify.max_user_watches")]
pub(crate) struct WakeError {
    path: PathBuf,
    error: notify::Error,
}

/// Watches paths.
#[derive(Debug)]
pub(crate) struct Wake {
    events: mpsc::Receiver<()>,
    /// Dropped, it stops watching.
    _watcher: RecommendedWatcher,
}

impl Wake {
    /// Watches folders with all below them, and files.
    pub(crate) fn new(roots: &[PathBuf]) -> Result<Self, WakeError> {
        let (woken, events) = mpsc::channel(1);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| WakeError { path, error }
        };
        let wake = move |event: notify::Result<notify::Event>| {
            // Our own reading is an access as well: reacting to it would never end.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // Full means that a wake-up is on its way already.
            let _ = woken.try_send(());
        };
        let mut watcher = notify::recommended_watcher(wake).map_err(failed(Path::new("")))?;
        for root in roots {
            // A file is often replaced by renaming: only its folder sees that.
            let (folder, mode) = if root.is_dir() {
                (root.as_path(), RecursiveMode::Recursive)
            } else {
                (root.parent().unwrap_or(root), RecursiveMode::NonRecursive)
            };
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            watcher.watch(folder, mode).map_err(failed(root))?;
        }
        Ok(Self {
            events,
            _watcher: watcher,
        })
    }

    /// Returns after a burst of events, or after the interval. Cancel-safe in that the next call at an interval makes up for a lost event.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            () = burst(&mut self.events) => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Returns after the first event and the quiet that follows it.
async fn burst(events: &mut mpsc::Receiver<()>) {
    if events.recv().await.is_none() {
        // The watcher is gone; the interval goes on.
        std::future::pending::<()>().await;
    }
    let end = Instant::now() + BURST_MAX;
    loop {
        let quiet = (Instant::now() + QUIET).min(end);
        match timeout_at(quiet, events.recv()).await {
            Ok(Some(())) => {}
            Ok(None) | Err(_) => return,
        }
    }
}
