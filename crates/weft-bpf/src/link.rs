//! Links: a program's attachment, replaced in place.

use std::os::fd::BorrowedFd;

use crate::error::BpfError;
use crate::syscall;

/// Makes `link` run `program` instead of the one it runs, without a moment in which neither runs
/// (cgroup links since kernel 5.7, netns links since 5.9).
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), BpfError> {
    syscall::link_update(link, program).map_err(|error| BpfError::kernel("link update", error))
}

/// Inode of the network namespace that a netns link hangs on; 0 once the namespace is gone.
///
/// Only meaningful for links of that type.
pub fn link_netns_inode(link: BorrowedFd<'_>) -> Result<u32, BpfError> {
    syscall::link_info(link)
        .map(|head| head.netns_ino)
        .map_err(|error| BpfError::kernel("link info", error))
}
