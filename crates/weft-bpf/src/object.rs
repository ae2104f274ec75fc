//! Pins: eBPF objects by path.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::BpfError;
use crate::syscall;

/// Opens a pinned map, program or link.
pub fn object_get(path: &Path) -> Result<OwnedFd, BpfError> {
    syscall::obj_get(&c_path(path)?).map_err(|error| BpfError::kernel("open pin", error))
}

/// Pins a map, program or link at a path on a bpffs where nothing is yet.
pub fn object_pin(fd: BorrowedFd<'_>, path: &Path) -> Result<(), BpfError> {
    syscall::obj_pin(fd, &c_path(path)?).map_err(|error| BpfError::kernel("pin", error))
}

fn c_path(path: &Path) -> Result<CString, BpfError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| BpfError::Path(path.to_owned()))
}
