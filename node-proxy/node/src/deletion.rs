//! Notices that a pod's network namespace was deleted.
//!
//! In: paths of namespaces and descriptors of them. Out: a wake-up when something was removed beside one, and the check.
//! A held socket keeps a deleted namespace and its veth alive, so nobody else would ever notice.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tracing::{debug, warn};
use weft_runtime::async_fd;
use weft_types::PodUid;

type Fd = std::sync::Arc<OwnedFd>;

/// The watch on all directories that hold namespaces of pods.
#[derive(Debug)]
pub(crate) struct Deletions {
    inotify: AsyncFd<OwnedFd>,
    pods: BTreeMap<PodUid, (PathBuf, Fd)>,
}

impl Deletions {
    /// Watches nothing yet. Must be called inside a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify: async_fd(fd)?,
            pods: BTreeMap::new(),
        })
    }

    /// Watches a pod's namespace. Where inotify does not work (`/proc`), [`Deletions::gone`] by the clock must do.
    pub(crate) fn watch(&mut self, uid: PodUid, path: PathBuf, netns: Fd) {
        let parent = path.parent().unwrap_or(Path::new("/"));
        // IN_DELETE: the name is removed. IN_MOVED_FROM: it is renamed away. Unmounting alone shows in the inode.
        let events = inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE_SELF;
        if let Err(error) = inotify::add_watch(self.inotify.get_ref(), parent, events) {
            warn!(%error, path = %parent.display(), "cannot watch for deleted namespaces, looking every two seconds instead");
        }
        self.pods.insert(uid, (path, netns));
    }

    /// Stops watching a pod. The directory stays watched, other pods live there.
    pub(crate) fn forget(&mut self, uid: &PodUid) {
        self.pods.remove(uid);
    }

    /// Ready when something was deleted in a watched directory. Cancel-safe.
    pub(crate) async fn changed(&self) {
        let Ok(mut guard) = self.inotify.readable().await else {
            return std::future::pending().await;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
        while let Ok(event) = reader.next() {
            debug!(name = ?event.file_name(), "something was removed beside a namespace");
        }
        guard.clear_ready();
    }

    /// Pods whose path does not lead to their namespace any more.
    pub(crate) fn gone(&self) -> Vec<PodUid> {
        self.pods
            .iter()
            .filter(|(_, (path, netns))| !leads_to(path, netns))
            .map(|(uid, _)| uid.clone())
            .collect()
    }
}

/// Whether the path leads to this namespace: a deleted or replaced one must not be enrolled.
pub(crate) fn leads_to(path: &Path, netns: &Fd) -> bool {
    let (Ok(at_path), Ok(held)) = (rustix::fs::stat(path), rustix::fs::fstat(netns)) else {
        return false;
    };
    (at_path.st_dev, at_path.st_ino) == (held.st_dev, held.st_ino)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use weft_types::PodUid;

    use super::Deletions;

    #[tokio::test]
    async fn a_deleted_and_a_replaced_path_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut deletions = Deletions::new().unwrap();
        for name in ["kept", "deleted", "replaced"] {
            let path = dir.path().join(name);
            let file = std::fs::File::create(&path).unwrap();
            deletions.watch(PodUid::from(name), path, Arc::new(file.into()));
        }
        assert_eq!(deletions.gone(), []);
        std::fs::remove_file(dir.path().join("deleted")).unwrap();
        std::fs::remove_file(dir.path().join("replaced")).unwrap();
        std::fs::File::create(dir.path().join("replaced")).unwrap();
        tokio::time::timeout(Duration::from_secs(10), deletions.changed())
            .await
            .unwrap();
        assert_eq!(
            deletions.gone(),
            [PodUid::from("deleted"), PodUid::from("replaced")]
        );
        deletions.forget(&PodUid::from("deleted"));
        deletions.forget(&PodUid::from("replaced"));
        assert_eq!(deletions.gone(), []);
    }
}
