//! Opens a pod's network namespace by path.
//!
//! In: the path that the controller or the CNI plugin gave. Out: its descriptor.
//! Not here: entering it, and whether it holds the pod's addresses; that is `weft-node`'s part.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstatfs, open};

/// Magic number of the file system of namespaces (`NSFS_MAGIC`, linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Opens the namespace at `path`; anything else at that path is an error.
pub(crate) fn open_netns(path: &Path) -> io::Result<OwnedFd> {
    // NONBLOCK: a FIFO planted at the path must not stop the agent.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = open(path, flags, Mode::empty())?;
    if fstatfs(&fd)?.f_type != NSFS_MAGIC {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a network namespace",
        ));
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::open_netns;

    #[test]
    fn a_namespace_opens_and_another_file_does_not() {
        assert!(open_netns("/proc/self/ns/net".as_ref()).is_ok());
        assert!(open_netns("/dev/null".as_ref()).is_err());
        assert!(open_netns("/nowhere".as_ref()).is_err());
    }
}
