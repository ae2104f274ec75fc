//! Whether this machine can carry capture at all, said before anything is changed.
//!
//! The features themselves (`bpf_set_retval` in connect, the netns cookie in sockops, and others) are probed by the verifier:
//! it refuses the program that needs a missing one, and the error names program and reason.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use super::error::CaptureError;

/// First kernel that the programs are tested on.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// `BPF_FS_MAGIC`.
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

pub(crate) fn check_kernel() -> Result<(), CaptureError> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if version(&release).is_some_and(|version| version >= KERNEL_MIN) {
        return Ok(());
    }
    Err(CaptureError::KernelTooOld { release })
}

/// CAP_BPF to make maps, CAP_PERFMON for pointer arithmetic in the programs, CAP_NET_ADMIN to attach to network hooks.
pub(crate) fn check_capabilities() -> Result<(), CaptureError> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let missing = missing_capabilities(effective(&status));
    if missing.is_empty() {
        Ok(())
    } else {
        Err(CaptureError::Capabilities(missing))
    }
}

/// Whether the kernel has MPTCP (CONFIG_MPTCP): the connect hooks then use a helper that only such a kernel knows.
pub(crate) fn has_mptcp() -> bool {
    Path::new("/proc/sys/net/mptcp").exists()
}

/// Mounts a bpf file system where there is none, as systemd does at boot.
pub(crate) fn ensure_bpffs(path: &Path) -> Result<(), CaptureError> {
    if is_bpffs(path) {
        return Ok(());
    }
    let failed = |source: io::Error| CaptureError::NoBpffs {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path).map_err(failed)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", path, "bpf", flags, Some(c"mode=0700")).map_err(|error| failed(error.into()))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.f_type as u64 == BPFFS_MAGIC)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective >> capability & 1 == 1;
    let mut missing = Vec::new();
    // CAP_SYS_ADMIN implies the two that were split off from it in 5.8.
    for (capability, name) in [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")] {
        if !has(capability) && !has(CAP_SYS_ADMIN) {
            missing.push(name);
        }
    }
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::{KERNEL_MIN, effective, missing_capabilities, version};

    #[test]
    fn kernel_releases_of_all_shapes_compare() {
        let ok = |release: &str| version(release).is_some_and(|version| version >= KERNEL_MIN);
        assert!(ok("6.1.0-40-amd64") && ok("6.18.44") && ok("10.0-rc1"));
        assert!(!ok("5.15.0-generic") && !ok("6.0.12") && !ok("unknown"));
    }

    #[test]
    fn missing_capabilities_are_named_and_sys_admin_stands_for_the_bpf_ones() {
        let check =
            |line: &str, want: &[&str]| assert_eq!(missing_capabilities(effective(line)), want);
        check("Name:\tx\nCapEff:\t000001ffffffffff\n", &[]);
        check("CapEff:\t0000000000201000\n", &[]);
        check("CapEff:\t000000c000000000\n", &["CAP_NET_ADMIN"]);
        check(
            "CapEff:\t0000000000000000\n",
            &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
        );
    }
}
