//! Copies of the node's token and of the root certificates that the proxy may read.
//!
//! In: files for root only, replaced now and then by whoever rotates them. Out: files for the proxy's user.
//! The bytes are copied unseen.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;
use weft_runtime::{Shutdown, spawn};

/// How often the originals are looked at. A projected token is replaced at 80 % of its life of an hour or more.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// One file and its copy.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
    pub(crate) owner: u32,
}

impl Copy {
    /// Brings the copy up to date.
    pub(crate) fn refresh(&self) -> io::Result<()> {
        let bytes = fs::read(&self.from)?;
        if fs::read(&self.to).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let beside = self.to.with_extension("new");
        write_new(&beside, &bytes, self.owner)?;
        fs::rename(&beside, &self.to)
    }
}

/// Keeps copies up to date until the end.
pub(crate) fn keep_fresh(shutdown: &Shutdown, copies: Vec<Copy>) {
    let stop = shutdown.clone();
    spawn(shutdown, "token-copies", async move {
        loop {
            tokio::select! {
                () = stop.draining() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            for copy in &copies {
                if let Err(error) = copy.refresh() {
                    warn!(%error, from = %copy.from.display(), "cannot refresh the proxy's copy");
                }
            }
        }
    });
}

fn write_new(path: &Path, bytes: &[u8], owner: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o400)
        .open(path)?;
    file.write_all(bytes)?;
    chown(path, Some(owner), Some(owner))
}
