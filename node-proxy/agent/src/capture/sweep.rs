//! What nobody else removes: captures whose SYN never came, pods whose namespace is gone.

use std::os::fd::AsFd as _;

use rustix::time::{ClockId, clock_gettime};
use weft_bpf::{UpdateMode, link_netns_inode, object_get};
use weft_ebpf_abi::map_names;

use super::Capture;
use super::error::CaptureError;
use super::maps::named;

/// The SYN follows the connect hook in the same system call, microseconds later.
const UNFILLED_MAX_NS: u64 = 10_000_000_000;

/// What a sweep removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Captures that never saw their SYN.
    pub captures: usize,
    /// Pods whose network namespace is gone.
    pub pods: Vec<u32>,
}

pub(crate) fn run(capture: &Capture) -> Result<Swept, CaptureError> {
    let mut swept = Swept {
        captures: captures(capture)?,
        pods: Vec::new(),
    };
    for pod_id in capture.pins.pods()? {
        let link = object_get(&capture.pins.lookup(pod_id));
        let is_gone = link
            .and_then(|link| link_netns_inode(link.as_fd()))
            .is_ok_and(|inode| inode == 0);
        if is_gone {
            capture.remove_pod(pod_id)?;
            swept.pods.push(pod_id);
        }
    }
    Ok(swept)
}

fn captures(capture: &Capture) -> Result<usize, CaptureError> {
    let captures = &capture.maps.captures;
    let failed = named(map_names::CAPTURES);
    let now = now_ns();
    let mut count = 0;
    for key in captures.keys().map_err(&failed)? {
        let Some(seen) = captures.lookup(&key).map_err(&failed)? else {
            continue;
        };
        let is_unfilled = seen.source.port == 0;
        if !is_unfilled || now.saturating_sub(seen.created_ns) < UNFILLED_MAX_NS {
            continue;
        }
        match captures.take(&key).map_err(&failed)? {
            Some(taken) if taken == seen => count += 1,
            // It changed hands or saw its SYN in between: put it back. Whoever took the key meanwhile keeps it.
            Some(taken) => {
                let _ = captures.update(&key, &taken, UpdateMode::Create);
            }
            None => {}
        }
    }
    Ok(count)
}

/// The clock of `bpf_ktime_get_ns`.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
