//! One holder for one run directory.
//!
//! In: the run directory. Out: a descriptor that keeps the lock; it may be passed to a successor,
//! because flock(2) belongs to the open file and not to the process.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Takes the lock, or says who has it.
pub(crate) fn take(run_dir: &Path) -> Result<OwnedFd, String> {
    let path = run_dir.join("node.lock");
    let file: File = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        format!(
            "another weft-node holds {} ({error}): stop it, or start this one with --takeover",
            path.display()
        )
    })?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::take;

    #[test]
    fn a_second_holder_is_refused_until_the_last_copy_of_the_lock_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        let passed_on = first.try_clone().unwrap();
        assert!(take(dir.path()).unwrap_err().contains("--takeover"));
        drop(first);
        assert!(take(dir.path()).is_err());
        drop(passed_on);
        assert!(take(dir.path()).is_ok());
    }
}
