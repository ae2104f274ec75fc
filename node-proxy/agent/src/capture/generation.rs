//! Pins of another ABI generation: what is taken over from them, and how they go.
//!
//! The new generation attaches beside the old one first. Of two connect hooks the older runs first and captures; the newer sees a
//! rewritten destination and leaves it alone. Both lookups choose the same listeners, which the node holds. The socket storage
//! is one map for both, so that sockets in a backlog and open connections keep what is known about them.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use rustix::thread::{MembarrierCommand, membarrier};
use weft_bpf::{BpfError, SocketStorage, count_entries, link_detach, object_get, object_pin};
use weft_ebpf_abi::{map_names, program_names};

use super::DRAIN_MAX;
use super::error::CaptureError;
use super::maps::named;
use super::pins::{Pins, failed, remove_tree, unlink};

/// How often a drain looks again.
const DRAIN_PERIOD: std::time::Duration = std::time::Duration::from_millis(2);

/// Takes over another generation's socket storage, if it has the layout that we know.
pub(crate) fn adopt_sockets(pins: &Pins) -> Result<(), CaptureError> {
    let own = pins.map(map_names::SOCKETS);
    if own.exists() {
        return Ok(());
    }
    for other in pins.others()? {
        let storage = object_get(&other.join("maps").join(map_names::SOCKETS))
            .and_then(SocketStorage::from_fd);
        // One of another layout is of no use: its sockets keep working, but tell the proxy's address to who asks.
        if let Ok(storage) = storage {
            return object_pin(storage.as_fd(), &own).map_err(named(map_names::SOCKETS));
        }
    }
    Ok(())
}

/// Removes other generations: no new capture, then the end of those in flight, then the rest.
pub(crate) fn remove_others(pins: &Pins) -> Result<(), CaptureError> {
    for other in pins.others()? {
        detach_connect_hooks(&other)?;
        wait_for_running_programs();
        let captures = other.join("maps").join(map_names::CAPTURES);
        drain(|| is_empty(&captures));
        remove_tree(&other)?;
    }
    Ok(())
}

/// Removes everything of this node. Writers before readers, so that nothing is captured that nobody steers.
pub(crate) fn remove_all(pins: Pins) -> Result<(), CaptureError> {
    for generation in pins.generations()? {
        detach_connect_hooks(&generation)?;
    }
    wait_for_running_programs();
    pins.remove()
}

/// Takes a generation's connect hooks off at once, and removes their pins: it captures nothing more, but for what runs at this
/// moment.
fn detach_connect_hooks(generation: &Path) -> Result<(), CaptureError> {
    for name in [program_names::CONNECT4, program_names::CONNECT6] {
        detach(&generation.join("links").join(name))?;
    }
    Ok(())
}

/// Takes a pinned link off its hook, and removes the pin. Without the first the hook would go on for a moment, when what it needs
/// may be gone: the kernel detaches links without pins by a worker.
pub(crate) fn detach(pin: &Path) -> Result<(), CaptureError> {
    let refused = |error: BpfError| failed(pin, io::Error::other(error));
    match object_get(pin) {
        Ok(link) => {
            link_detach(link.as_fd()).map_err(refused)?;
            unlink(pin)
        }
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(refused(error)),
    }
}

fn is_empty(map: &Path) -> bool {
    match object_get(map).and_then(|map| count_entries(map.as_fd())) {
        Ok((entries, _)) => entries == 0,
        // What cannot be read cannot be waited for.
        Err(_) => true,
    }
}

/// Waits until `done`, for at most [`DRAIN_MAX`]. Blocks.
pub(crate) fn drain(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DRAIN_MAX;
    while !done() && Instant::now() < end {
        std::thread::sleep(DRAIN_PERIOD);
    }
}

/// Waits until no program runs any more that started before (a grace period of RCU, under which hooks run).
pub(crate) fn wait_for_running_programs() {
    // Refused only where CPUs are isolated (nohz_full); then the drain that follows gives them time as well.
    let _ = membarrier(MembarrierCommand::Global);
}
