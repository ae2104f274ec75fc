//! A lab's own BPF file system.
//!
//! In: a folder. Out: a mount whose end removes every pin at once. Not here: what the programs pin.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Mounts a BPF file system of its own on a folder, for root alone as `weft-node` does: by default anybody may make folders in it.
pub(crate) fn mount_bpffs(folder: &Path) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", folder, "bpf", flags, Some(c"mode=0700"))
        .with_context(|| format!("cannot mount a BPF file system on {}", folder.display()))
}

/// Takes every mount off a folder; what was pinned there is gone then.
pub(crate) fn unmount_bpffs(folder: &Path) -> Result<()> {
    while is_mounted(folder) {
        unmount(folder, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", folder.display()))?;
    }
    Ok(())
}

fn is_mounted(folder: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.to_string_lossy();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(folder.as_ref()))
}
