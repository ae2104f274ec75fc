//! When to read files again. In: file-system events. Out: one wake-up after each burst of them.
//!
//! Nothing rests on what an event says, only on that there was one; a wake-up at intervals finds what events missed.
//! The kernel watches a folder, not its name: where another has come to stand in its place, that one is watched from then on.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A burst of writes ends with this much quiet; long enough for an editor's sequence of write and rename, short enough not to be felt.
const QUIET: Duration = Duration::from_millis(50);
/// A burst without end is read anyway.
const BURST_MAX: Duration = Duration::from_millis(500);
/// Events can be lost (a full queue, a network file system): read anyway.
const INTERVAL: Duration = Duration::from_secs(30);
/// A folder that was taken away is looked for this often; one `stat` each time.
const MISSING_INTERVAL: Duration = Duration::from_millis(200);

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
    watcher: RecommendedWatcher,
    folders: Vec<Watched>,
}

/// A folder under watch.
#[derive(Debug)]
struct Watched {
    folder: PathBuf,
    mode: RecursiveMode,
    /// `None` while there is none that is watched.
    identity: Option<Identity>,
}

/// Device, inode and time of birth where the file system knows it: the number of an inode that is gone is soon given again.
type Identity = (u64, u64, Option<SystemTime>);

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
        let mut folders = Vec::new();
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
            // Looked at before: should another take its place in between, the next look sees the difference.
            let identity = identity(folder);
            watcher.watch(folder, mode).map_err(failed(root))?;
            folders.push(Watched {
                folder: folder.to_owned(),
                mode,
                identity,
            });
        }
        Ok(Self {
            events,
            watcher,
            folders,
        })
    }

    /// Returns after a burst of events, when a folder is there again, or after the interval.
    /// Cancel-safe in that the next call at an interval makes up for a lost event.
    pub(crate) async fn next(&mut self) {
        let end = Instant::now() + INTERVAL;
        loop {
            let is_missing = self.folders.iter().any(|of| of.identity.is_none());
            let look = if is_missing {
                end.min(Instant::now() + MISSING_INTERVAL)
            } else {
                end
            };
            tokio::select! {
                () = burst(&mut self.events) => {
                    self.watch_anew();
                    return;
                }
                () = sleep_until(look) => {
                    if self.watch_anew() || Instant::now() >= end {
                        return;
                    }
                }
            }
        }
    }

    /// Watches folders that stand where others did; says whether there are any. Who reads them afterwards misses nothing.
    fn watch_anew(&mut self) -> bool {
        let mut is_any = false;
        for watched in &mut self.folders {
            let now = identity(&watched.folder);
            if now == watched.identity {
                continue;
            }
            // The one before may be gone, and its watch with it.
            let _ = self.watcher.unwatch(&watched.folder);
            let is_watched =
                now.is_some() && self.watcher.watch(&watched.folder, watched.mode).is_ok();
            watched.identity = now.filter(|_| is_watched);
            is_any |= is_watched;
        }
        is_any
    }
}

fn identity(folder: &Path) -> Option<Identity> {
    let metadata = std::fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::{INTERVAL, Wake};

    /// Shorter than the interval, so that only an event or a look for the folder can be what woke.
    const SOON: Duration = INTERVAL.saturating_sub(Duration::from_secs(10));

    async fn woken(wake: &mut Wake) -> bool {
        timeout(SOON, wake.next()).await.is_ok()
    }

    #[tokio::test]
    async fn a_folder_in_the_place_of_another_is_watched_as_soon_as_it_is_there() {
        let base = tempfile::tempdir().unwrap();
        let (folder, old) = (base.path().join("source"), base.path().join("old"));
        fs::create_dir(&folder).unwrap();
        let mut wake = Wake::new(std::slice::from_ref(&folder)).unwrap();
        // Replaced between two looks.
        fs::rename(&folder, &old).unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(woken(&mut wake).await, "the folder went");
        fs::write(folder.join("a.yaml"), "a").unwrap();
        assert!(woken(&mut wake).await, "a file in the new folder");
        // The same inode again, as some file systems do it.
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(woken(&mut wake).await, "the folder was made anew");
        fs::write(folder.join("a.yaml"), "a").unwrap();
        assert!(woken(&mut wake).await, "a file in the folder made anew");
        // Away for a while.
        fs::remove_dir_all(&folder).unwrap();
        while wake.folders[0].identity.is_some() {
            assert!(woken(&mut wake).await, "the folder went again");
        }
        fs::create_dir(&folder).unwrap();
        assert!(woken(&mut wake).await, "the folder is there again");
        assert!(wake.folders[0].identity.is_some());
        fs::write(folder.join("b.yaml"), "b").unwrap();
        assert!(woken(&mut wake).await, "a file in the third folder");
    }
}
