//! The BPF file system for the agent's pins, mounted here because the agent has no CAP_SYS_ADMIN.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Mounts one where there is none, as systemd does at boot.
pub(crate) fn ensure(path: &Path) -> io::Result<()> {
    if is_bpffs(path) {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("bpf", path, "bpf", flags, Some(c"mode=0700"))?)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type as u64 == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_file_system_is_not_taken_for_one() {
        assert!(!super::is_bpffs("/proc".as_ref()));
    }
}
