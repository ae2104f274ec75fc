//! The YAML files below the given paths: which there are, whether one may have changed, and the text of one.
//!
//! Hidden files and folders are passed over: editors and Kubernetes' own volume updates keep half-made copies there.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Largest file that is read: far above any by hand, far below what would hurt.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Deepest folder: a loop of links ends here.
const FOLDER_DEPTH_MAX: usize = 16;
/// A file that was written this short a time before it was looked at may be written again without looking different:
/// the coarsest clock of a file system that we know of (FAT) counts in steps of it.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// The files, each as it looks from outside.
pub(super) type Found = BTreeMap<PathBuf, Look>;

/// The text of a file, or why it cannot be read.
pub(super) type Text = Result<String, String>;

/// What tells that a file may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Of the inode; nobody can set it back.
    changed: (i64, i64),
}

impl Look {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a file that looks like this at this time and later is the same then.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        let settled = u64::try_from(self.changed.0)
            .ok()
            .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds + 1) + CLOCK_STEP);
        settled.is_some_and(|settled| settled < now)
    }
}

/// Finds everything below the paths. An error is about one of the paths themselves: nothing can be said about its files.
pub(super) fn find(roots: &[PathBuf]) -> Result<Found, (PathBuf, io::Error)> {
    let mut found = Found::new();
    for root in roots {
        let named = |error| (root.clone(), error);
        let metadata = std::fs::metadata(root).map_err(named)?;
        if metadata.is_dir() {
            folder(root, FOLDER_DEPTH_MAX, &mut found).map_err(named)?;
        } else {
            found.insert(root.clone(), Look::of(&metadata));
        }
    }
    Ok(found)
}

fn folder(path: &Path, depth: usize, found: &mut Found) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
        if path.file_name().is_none_or(hidden) {
            continue;
        }
        // Follows links, as mounted ConfigMaps are made of them. A file that is gone again is no file.
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            if depth == 0 {
                let text = format!("{} is nested too deeply", path.display());
                return Err(io::Error::other(text));
            }
            folder(&path, depth - 1, found)?;
        } else if is_yaml(&path) {
            found.insert(path, Look::of(&metadata));
        }
    }
    Ok(())
}

fn is_yaml(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Text {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{CLOCK_STEP, find};
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_file_looks_another_when_it_was_written_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let roots = [folder.path().to_owned()];
        let path = folder.path().join("a.yaml");
        let look = || find(&roots).unwrap()[&path];
        std::fs::write(&path, "one").unwrap();
        let first = look();
        assert_eq!(look(), first);
        std::fs::write(&path, "three").unwrap();
        let second = look();
        assert_ne!(second, first);
        let beside = folder.path().join("b");
        std::fs::write(&beside, "three").unwrap();
        std::fs::rename(&beside, &path).unwrap();
        assert_ne!(look(), second, "the same size, another file");
    }

    #[test]
    fn a_file_is_not_settled_before_the_clock_has_moved_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "one").unwrap();
        let look = find(&[folder.path().to_owned()]).unwrap()[&path];
        let now = SystemTime::now();
        assert!(!look.is_settled(now));
        assert!(look.is_settled(now + CLOCK_STEP + Duration::from_secs(2)));
    }
}
