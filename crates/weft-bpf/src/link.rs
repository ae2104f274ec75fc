//! Links: a program's attachment, made, found again and replaced in place.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::error::BpfError;
use crate::syscall;

/// Where a program of Weft attaches (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// sockops of a cgroup.
    CgroupSockOps = 3,
    /// `connect` of IPv4 sockets of a cgroup.
    CgroupConnect4 = 10,
    /// `connect` of IPv6 sockets of a cgroup.
    CgroupConnect6 = 11,
    /// `getpeername` of IPv4 sockets of a cgroup.
    CgroupGetpeername4 = 29,
    /// `getpeername` of IPv6 sockets of a cgroup.
    CgroupGetpeername6 = 30,
    /// Listener lookup of a network namespace.
    SkLookup = 36,
}

/// Attaches `program` to a cgroup or network namespace, beside the ones that are there.
///
/// It detaches a moment after the last descriptor and pin of the link are gone, or at once by [`link_detach`].
pub fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    at: AttachType,
) -> Result<OwnedFd, BpfError> {
    syscall::link_create(program, target, at as u32)
        .map_err(|error| BpfError::kernel("link create", error))
}

/// Makes `link` run `program` instead of the one it runs, without a moment in which neither runs
/// (cgroup links since kernel 5.7, netns links since 5.9).
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), BpfError> {
    syscall::link_update(link, program).map_err(|error| BpfError::kernel("link update", error))
}

/// Takes `link` off its hook before it returns, whoever else holds the link (kernel 5.9). One that is off already is no error.
///
/// Removing the last pin detaches as well, but later: the kernel leaves that to a worker. A program that runs at this moment
/// may not have ended when this returns.
pub fn link_detach(link: BorrowedFd<'_>) -> Result<(), BpfError> {
    syscall::link_detach(link).map_err(|error| BpfError::kernel("link detach", error))
}

/// Inode of the network namespace that a netns link hangs on; 0 once the namespace is gone or the link detached.
///
/// Only meaningful for links of that type.
pub fn link_netns_inode(link: BorrowedFd<'_>) -> Result<u32, BpfError> {
    Ok(target(link)? as u32)
}

/// Id of the cgroup that a cgroup link hangs on, which is the inode of its folder; 0 once the cgroup is gone or the link detached.
///
/// Only meaningful for links of that type.
pub fn link_cgroup_id(link: BorrowedFd<'_>) -> Result<u64, BpfError> {
    target(link)
}

fn target(link: BorrowedFd<'_>) -> Result<u64, BpfError> {
    let head = syscall::link_info(link).map_err(|error| BpfError::kernel("link info", error))?;
    // A netns link's inode is the first half; both halves come first on a little-endian machine.
    Ok(head.target)
}
