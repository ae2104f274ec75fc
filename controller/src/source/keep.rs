//! The last good text of every file, on disk: a file that is broken while the controller restarts must not lose its objects,
//! among which a policy may be that denies something.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A folder of copies, named by the hash of the original's path.
#[derive(Debug)]
pub(super) struct Keep {
    folder: PathBuf,
}

impl Keep {
    /// Opens or makes the folder.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// The last good text of a file.
    pub(super) fn load(&self, file: &Path) -> Option<String> {
        std::fs::read_to_string(self.copy_of(file)).ok()
    }

    /// Keeps a good text. A failure is told in the log: the mesh goes on, only a restart would lose this state.
    pub(super) fn store(&self, file: &Path, text: &str) {
        let copy = self.copy_of(file);
        let beside = copy.with_extension("new");
        let stored = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &copy));
        if let Err(error) = stored {
            tracing::warn!(file = %file.display(), %error, "cannot keep a copy of a good file, check the state folder");
        }
    }

    /// Forgets a file that was removed.
    pub(super) fn remove(&self, file: &Path) {
        let _ = std::fs::remove_file(self.copy_of(file));
    }

    fn copy_of(&self, file: &Path) -> PathBuf {
        let hash = Sha256::digest(file.as_os_str().as_encoded_bytes());
        let mut name = String::with_capacity(2 * hash.len());
        for byte in hash {
            let _ = write!(name, "{byte:02x}");
        }
        self.folder.join(name).with_extension("yaml")
    }
}
