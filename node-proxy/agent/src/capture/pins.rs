//! The folders of the pins, and the lock that keeps a second agent out.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::error::CaptureError;

/// The pins of one node and generation.
#[derive(Debug)]
pub(crate) struct Pins {
    node: PathBuf,
    folder: PathBuf,
    /// Held while this exists: an flock on the node's folder, which ends with the process however it ends.
    lock: OwnedFd,
}

impl Pins {
    /// Makes the folders and locks them.
    pub(crate) fn lock(bpffs: &Path, node: &str, generation: u32) -> Result<Self, CaptureError> {
        if !is_folder_name(node) {
            return Err(CaptureError::NodeName(node.to_owned()));
        }
        // bpffs keeps names with a dot to itself; no node name has an underscore, so no two nodes meet.
        let node = bpffs.join("weft").join(node.replace('.', "_"));
        make(&node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock =
            open(&node, flags, Mode::empty()).map_err(|error| failed(&node, error.into()))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => CaptureError::Locked { path: node.clone() },
            error => failed(&node, error.into()),
        })?;
        let folder = node.join(generation.to_string());
        for part in ["maps", "links", "pods"] {
            make(&folder.join(part))?;
        }
        Ok(Self { node, folder, lock })
    }

    pub(crate) fn node_folder(&self) -> &Path {
        &self.node
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.folder.join("maps").join(name)
    }

    pub(crate) fn link(&self, program: &str) -> PathBuf {
        self.folder.join("links").join(program)
    }

    pub(crate) fn lookup(&self, pod_id: u32) -> PathBuf {
        self.pod(pod_id).join("lookup")
    }

    /// Pods that have a folder, whether whole or half made.
    pub(crate) fn pods(&self) -> Result<Vec<u32>, CaptureError> {
        let folder = self.folder.join("pods");
        let mut pods = Vec::new();
        for name in names(&folder)? {
            if let Ok(pod_id) = name.parse() {
                pods.push(pod_id);
            }
        }
        pods.sort_unstable();
        Ok(pods)
    }

    pub(crate) fn make_pod(&self, pod_id: u32) -> Result<(), CaptureError> {
        make(&self.pod(pod_id))
    }

    pub(crate) fn remove_pod(&self, pod_id: u32) -> Result<(), CaptureError> {
        remove_tree(&self.pod(pod_id))
    }

    /// Folders of other generations of this node.
    pub(crate) fn others(&self) -> Result<Vec<PathBuf>, CaptureError> {
        let own = self.folder.file_name();
        let others = names(&self.node)?
            .into_iter()
            .filter(|name| name.parse::<u32>().is_ok() && own != Some(name.as_ref()))
            .map(|name| self.node.join(name))
            .collect();
        Ok(others)
    }

    /// Folders of all generations of this node, this one last.
    pub(crate) fn generations(&self) -> Result<Vec<PathBuf>, CaptureError> {
        let mut all = self.others()?;
        all.push(self.folder.clone());
        Ok(all)
    }

    /// Removes the node's folders with all that is pinned in them; links detach with their pins, a moment later.
    pub(crate) fn remove(self) -> Result<(), CaptureError> {
        remove_tree(&self.node)?;
        // The folder above goes with the last node.
        if let Some(above) = self.node.parent() {
            let _ = fs::remove_dir(above);
        }
        Ok(())
    }

    fn pod(&self, pod_id: u32) -> PathBuf {
        self.folder.join("pods").join(pod_id.to_string())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Closing would do, but for a child between fork and exec, which has a copy.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// Removes a pin; one that is gone is no error.
pub(crate) fn unlink(path: &Path) -> Result<(), CaptureError> {
    ignore_missing(fs::remove_file(path)).map_err(|source| failed(path, source))
}

/// Removes a folder and all below it; one that is gone is no error.
pub(crate) fn remove_tree(path: &Path) -> Result<(), CaptureError> {
    for name in names(path)? {
        let below = path.join(name);
        if below.is_dir() {
            remove_tree(&below)?;
        } else {
            unlink(&below)?;
        }
    }
    ignore_missing(fs::remove_dir(path)).map_err(|source| failed(path, source))
}

fn names(folder: &Path) -> Result<Vec<String>, CaptureError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| failed(folder, source))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn make(folder: &Path) -> Result<(), CaptureError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| failed(folder, source))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(crate) fn failed(path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Pins {
        path: path.to_owned(),
        source,
    }
}

fn is_folder_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}
