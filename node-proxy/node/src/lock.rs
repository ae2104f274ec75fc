//! One holder for one run directory.
//!
//! In: the run directory. Out: a descriptor that keeps the lock; it may be passed to a successor,
//! because flock(2) belongs to the open file and not to the process.
//! A holder that was just killed may keep the lock for a moment, until its last thread has ended.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;

/// How long a killed holder may take to go; its threads end within milliseconds.
const WAIT: Duration = Duration::from_secs(2);

/// How often the lock is tried meanwhile.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Takes the lock, or says who has it. Cancel-safe.
pub(crate) async fn take(run_dir: &Path) -> Result<OwnedFd, String> {
    let limit = Instant::now() + WAIT;
    loop {
        match take_now(run_dir) {
            Err(_) if Instant::now() < limit => tokio::time::sleep(TRY_EVERY).await,
            outcome => return outcome,
        }
    }
}

fn take_now(run_dir: &Path) -> Result<OwnedFd, String> {
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
    use super::take_now;

    #[test]
    fn a_second_holder_is_refused_until_the_last_copy_of_the_lock_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let first = take_now(dir.path()).unwrap();
        let passed_on = first.try_clone().unwrap();
        assert!(take_now(dir.path()).unwrap_err().contains("--takeover"));
        drop(first);
        assert!(take_now(dir.path()).is_err());
        drop(passed_on);
        assert!(take_now(dir.path()).is_ok());
    }
}
