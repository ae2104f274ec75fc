//! The system call itself: one function for each command that Weft uses.
//!
//! Attribute layouts: `union bpf_attr` in `include/uapi/linux/bpf.h`; the kernel takes shorter ones and reads the rest as zero.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper without aya")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_LOOKUP_AND_DELETE_ELEM: i32 = 21;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value_or_next_key: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct LinkDetachAttr {
    link_fd: u32,
}

/// The head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct MapHead {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// The head of `struct bpf_link_info`. The union after it begins with `cgroup_id` (u64) for a cgroup link,
/// and with `netns_ino` (u32) for a netns link.
#[repr(C)]
#[derive(Default)]
pub(crate) struct LinkHead {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) prog_id: u32,
    pub(crate) pad: u32,
    pub(crate) target: u64,
}

/// Which element operation [`element`] does.
#[derive(Clone, Copy)]
pub(crate) enum ElementOp {
    Lookup,
    LookupAndDelete,
    NextKey,
}

impl ElementOp {
    fn command(self) -> i32 {
        match self {
            Self::Lookup => MAP_LOOKUP_ELEM,
            Self::LookupAndDelete => MAP_LOOKUP_AND_DELETE_ELEM,
            Self::NextKey => MAP_GET_NEXT_KEY,
        }
    }
}

/// Reads into `out`. Returns `false` where there is no such element.
///
/// # Safety
/// `key` (if not null) must be readable for the map's key size, and `out` writable for its value size
/// (its key size for [`ElementOp::NextKey`]).
pub(crate) unsafe fn element(
    op: ElementOp,
    map: BorrowedFd<'_>,
    key: *const u8,
    out: *mut u8,
) -> io::Result<bool> {
    let attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: key as u64,
        value_or_next_key: out as u64,
        ..ElemAttr::default()
    };
    // SAFETY: the caller vouches for the two pointers, the attribute lives across the call.
    match unsafe { bpf(op.command(), &attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes an element.
///
/// # Safety
/// `key` and `value` must be readable for the map's key and value size.
pub(crate) unsafe fn update(
    map: BorrowedFd<'_>,
    key: *const u8,
    value: *const u8,
    flags: u64,
) -> io::Result<()> {
    let attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: key as u64,
        value_or_next_key: value as u64,
        flags,
        ..ElemAttr::default()
    };
    // SAFETY: the caller vouches for the two pointers, the attribute lives across the call.
    unsafe { bpf(MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Deletes an element. Returns `false` where there was none.
///
/// # Safety
/// `key` must be readable for the map's key size.
pub(crate) unsafe fn delete(map: BorrowedFd<'_>, key: *const u8) -> io::Result<bool> {
    let attr = ElemAttr {
        map_fd: map.as_raw_fd() as u32,
        key: key as u64,
        ..ElemAttr::default()
    };
    // SAFETY: the caller vouches for the pointer, the attribute lives across the call.
    match unsafe { bpf(MAP_DELETE_ELEM, &attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn obj_get(path: &CStr) -> io::Result<OwnedFd> {
    let attr = ObjAttr {
        pathname: path.as_ptr() as u64,
        ..ObjAttr::default()
    };
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &attr) }?;
    // SAFETY: the kernel has just made this descriptor for us; OBJ_GET sets close-on-exec itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn obj_pin(fd: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let attr = ObjAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: fd.as_raw_fd() as u32,
        ..ObjAttr::default()
    };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf(OBJ_PIN, &attr) }.map(drop)
}

pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attr = LinkCreateAttr {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: target.as_raw_fd() as u32,
        attach_type,
        ..LinkCreateAttr::default()
    };
    // SAFETY: the attribute holds no pointers and lives across the call.
    let fd = unsafe { bpf(LINK_CREATE, &attr) }?;
    // SAFETY: the kernel has just made this descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        ..LinkUpdateAttr::default()
    };
    // SAFETY: the attribute holds no pointers and lives across the call.
    unsafe { bpf(LINK_UPDATE, &attr) }.map(drop)
}

pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let attr = LinkDetachAttr {
        link_fd: link.as_raw_fd() as u32,
    };
    // SAFETY: the attribute holds no pointers and lives across the call.
    unsafe { bpf(LINK_DETACH, &attr) }.map(drop)
}

pub(crate) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapHead> {
    info(fd)
}

pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkHead> {
    info(fd)
}

fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut head = T::default();
    let attr = InfoAttr {
        bpf_fd: fd.as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: (&raw mut head) as u64,
    };
    // SAFETY: the kernel writes at most info_len bytes into `head`, which is made of integers only.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &attr) }?;
    Ok(head)
}

/// # Safety
/// Every pointer that `attr` holds must be valid for what `command` does with it.
unsafe fn bpf<T>(command: i32, attr: &T) -> io::Result<i32> {
    // SAFETY: `attr` is valid for its size, the caller vouches for what it points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}
