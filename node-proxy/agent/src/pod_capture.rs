//! A held pod in the words of capture.
//!
//! In: what the holder read inside the pod, its listeners, its namespace. Out: a [`PodCapture`] that borrows them.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use weft_agent::capture::PodCapture;
use weft_ebpf_abi::ListenerKind;
use weft_node_api::{Listeners, PodFacts};

/// Puts the parts together.
pub(crate) fn pod_capture<'a>(
    pod_id: u32,
    netns: BorrowedFd<'a>,
    facts: &PodFacts,
    listeners: &'a Listeners<Arc<OwnedFd>>,
) -> PodCapture<'a> {
    PodCapture {
        pod_id,
        netns,
        cookie: facts.netns_cookie,
        addresses: facts.addresses.clone(),
        listeners: vec![
            (ListenerKind::Outbound, listeners.outbound.as_fd()),
            (ListenerKind::Inbound, listeners.inbound.as_fd()),
            (ListenerKind::Hbone, listeners.hbone.as_fd()),
        ],
        local_ports: facts.local_ports,
    }
}
