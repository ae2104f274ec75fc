//! Which cgroup the hooks hang on.
//!
//! A hook sees the sockets of processes below its cgroup. It must hold the pods and the node program, whose listeners accept
//! captured connections. Below `kubepods` our hooks run before those of the root, where socket load balancers sit.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstatfs, open};

use super::error::CaptureError;

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Inode of the first cgroup namespace (`PROC_CGROUP_INIT_INO`): only there is `/proc/self/cgroup` the whole path.
const INITIAL_CGROUP_NAMESPACE: u64 = 0xefff_fffb;

/// The kubelet's cgroup, under the cgroupfs and the systemd driver.
const KUBEPODS: [&str; 2] = ["kubepods", "kubepods.slice"];

/// Opens the cgroup that is given, or finds one.
pub(crate) fn find(given: Option<&Path>) -> Result<OwnedFd, CaptureError> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let root = cgroup2_mount(&mounts);
    let own = own_cgroup();
    let path = match (given, &root) {
        (Some(path), _) => path.to_owned(),
        (None, Some(root)) => choose(root, own.as_deref()),
        (None, None) => return Err(CaptureError::NoCgroup2),
    };
    let folder = open_cgroup(&path).map_err(|source| CaptureError::Cgroup {
        path: path.clone(),
        source,
    })?;
    // Only where both are known; a bind mount of the hierarchy elsewhere cannot be compared.
    if let (Some(root), Some(own)) = (root, own)
        && path.starts_with(&root)
        && !root.join(own).starts_with(&path)
    {
        return Err(CaptureError::OutsideCgroup { path });
    }
    Ok(folder)
}

fn open_cgroup(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(path, flags, Mode::empty())?;
    if fstatfs(&folder)?.f_type as u64 != CGROUP2_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is on another file system",
        ));
    }
    Ok(folder)
}

fn choose(root: &Path, own: Option<&Path>) -> PathBuf {
    match own {
        Some(own) => kubepods_above(own).map_or_else(|| root.to_owned(), |below| root.join(below)),
        // In a namespace of our own, our path says nothing: take what is mounted.
        None => KUBEPODS
            .iter()
            .map(|name| root.join(name))
            .find(|path| path.is_dir())
            .unwrap_or_else(|| root.to_owned()),
    }
}

/// Our cgroup below the root, if we can know it.
fn own_cgroup() -> Option<PathBuf> {
    let namespace = fs::metadata("/proc/self/ns/cgroup").ok()?;
    if std::os::unix::fs::MetadataExt::ino(&namespace) != INITIAL_CGROUP_NAMESPACE {
        return None;
    }
    cgroup2_path(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn cgroup2_path(own: &str) -> Option<PathBuf> {
    own.lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .map(PathBuf::from)
}

fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| {
            fields
                .get(1)
                .map(|path| PathBuf::from(path.replace("\\040", " ")))
        })
}

/// The kubepods cgroup that we are in, relative to the root. A `kubepods` that we are not in belongs to another life of this machine.
fn kubepods_above(own: &Path) -> Option<PathBuf> {
    own.ancestors()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| KUBEPODS.iter().any(|of| *of == name))
        })
        .last()
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{cgroup2_mount, cgroup2_path, kubepods_above};
    use std::path::PathBuf;

    #[test]
    fn the_cgroup2_mount_is_found_among_others() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            cgroup2_mount(hybrid),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn the_kubelets_cgroup_is_taken_only_by_who_is_in_it() {
        let check = |own: &str, want: Option<&str>| {
            let own = cgroup2_path(own).unwrap();
            assert_eq!(kubepods_above(&own), want.map(PathBuf::from));
        };
        check(
            "0::/kubepods.slice/kubepods-burstable.slice/pod1\n",
            Some("kubepods.slice"),
        );
        check(
            "1:cpu:/x\n0::/node1/kubepods/pod1\n",
            Some("node1/kubepods"),
        );
        check("0::/user.slice\n", None);
        check("0::/\n", None);
    }
}
