//! The links of the cgroup: made once, then replaced in place.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use rustix::fs::fstat;
use weft_bpf::{
    AttachType, BpfError, link_cgroup_id, link_create, link_update, object_get, object_pin,
};
use weft_ebpf_abi::program_names;

use super::error::CaptureError;
use super::object;
use super::pins::{Pins, unlink};

/// Readers before writers: a new sockops understands what an old connect hook leaves, not the other way round.
const ORDER: [(&str, AttachType); 5] = [
    (program_names::SOCK_OPS, AttachType::CgroupSockOps),
    (program_names::GETPEERNAME4, AttachType::CgroupGetpeername4),
    (program_names::GETPEERNAME6, AttachType::CgroupGetpeername6),
    (program_names::CONNECT4, AttachType::CgroupConnect4),
    (program_names::CONNECT6, AttachType::CgroupConnect6),
];

/// Loads and attaches the programs of the cgroup, in place of pinned ones where there are any.
pub(crate) fn attach(object: &mut Ebpf, pins: &Pins, cgroup: &OwnedFd) -> Result<(), CaptureError> {
    // All are loaded before the first is attached: a kernel that refuses one gets none.
    let mut loaded = Vec::with_capacity(ORDER.len());
    for (name, at) in ORDER {
        loaded.push((name, at, object::load_program(object, name)?));
    }
    let cgroup_id = fstat(cgroup).map(|stat| stat.st_ino).unwrap_or_default();
    for (name, at, program) in loaded {
        let failed = |source: BpfError| CaptureError::Attach {
            program: name,
            source,
        };
        let pin = pins.link(name);
        if let Ok(link) = object_get(&pin) {
            if link_cgroup_id(link.as_fd()).map_err(failed)? == cgroup_id {
                link_update(link.as_fd(), program.as_fd()).map_err(failed)?;
                continue;
            }
            // Another cgroup than before, or one that was removed. `link` keeps the old attachment until the new one is there.
            let new = link_create(program.as_fd(), cgroup.as_fd(), at).map_err(failed)?;
            unlink(&pin)?;
            object_pin(new.as_fd(), &pin).map_err(failed)?;
            continue;
        }
        let link = link_create(program.as_fd(), cgroup.as_fd(), at).map_err(failed)?;
        object_pin(link.as_fd(), &pin).map_err(failed)?;
    }
    Ok(())
}
