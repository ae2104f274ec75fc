//! `sk_lookup` (kernel 5.9), one instance for each pod: finds the listener of a segment that belongs to no connection.
//!
//! In: addresses and ports. Out: one of the proxy's listeners, or nothing, then the kernel looks as ever.
//! The helper for the netns cookie is refused here, so the pod's id stands in read-only data.

use core::mem::offset_of;

use aya_ebpf::bindings::{bpf_sk_lookup, sk_action};
use aya_ebpf::programs::SkLookupContext;
use weft_ebpf::verdict::{Inbound, inbound};
use weft_ebpf_abi::{
    CaptureKey, Counter, Endpoint, FlowKey, Ip16, ListenerKey, ListenerKind, PodAddressKey,
};

use crate::kernel::{self, read, read_ip6};
use crate::maps::{CAPTURES, GRANTS, LISTENERS, POD_ADDRESSES};

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

/// Set by the agent for each instance.
#[unsafe(no_mangle)]
static POD_ID: u32 = 0;

/// Set by the agent for the instance of a pod that leaves the mesh: only tunnels of peers that have not heard of it go to the
/// proxy any more, everything else to the application as if there were no mesh.
#[unsafe(no_mangle)]
static TUNNELS_ONLY: u32 = 0;

pub(crate) fn run(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    if read!(lookup, bpf_sk_lookup.protocol) != IPPROTO_TCP {
        return sk_action::SK_PASS;
    }
    // SAFETY: volatile, because the compiler would otherwise fold the 0 that stands here.
    let pod_id = unsafe { core::ptr::read_volatile(&raw const POD_ID) };
    let source = remote(lookup);
    let destination = local(lookup);
    let own = || {
        POD_ADDRESSES
            .get_ptr(PodAddressKey {
                pod_id,
                ip: source.ip,
            })
            .is_some()
    };
    match inbound(&source, &destination, own) {
        Inbound::Local if is_captured(pod_id, &source, &destination) => steer(
            ctx,
            pod_id,
            ListenerKind::Outbound,
            Counter::SteeredOutbound,
        ),
        Inbound::Local => sk_action::SK_PASS,
        Inbound::Remote(ListenerKind::Hbone) => {
            steer(ctx, pod_id, ListenerKind::Hbone, Counter::SteeredHbone)
        }
        Inbound::Remote(_) => {
            // SAFETY: as above.
            if unsafe { core::ptr::read_volatile(&raw const TUNNELS_ONLY) } != 0 {
                return sk_action::SK_PASS;
            }
            if GRANTS
                .get_ptr(FlowKey {
                    pod_id,
                    source,
                    destination,
                })
                .is_some()
            {
                kernel::count(Counter::Granted);
                return sk_action::SK_PASS;
            }
            steer(ctx, pod_id, ListenerKind::Inbound, Counter::SteeredInbound)
        }
    }
}

/// Whether a connect hook of this pod made this very connection. Not enough to act on in IPv6, where a neighbour may forge
/// a local source: its handshake still cannot complete, because the SYN-ACK goes to the real owner of that source.
#[inline(always)]
fn is_captured(pod_id: u32, source: &Endpoint, destination: &Endpoint) -> bool {
    let Some(entry) = CAPTURES.get_ptr(CaptureKey::new(pod_id, destination.port)) else {
        return false;
    };
    // SAFETY: preallocated entries stay valid.
    unsafe { (*entry).source == *source }
}

#[inline(always)]
fn steer(ctx: &SkLookupContext, pod_id: u32, kind: ListenerKind, counter: Counter) -> u32 {
    match LISTENERS.redirect_sk_lookup(ctx, ListenerKey::new(pod_id, kind), 0) {
        Ok(()) => {
            kernel::count(counter);
            sk_action::SK_PASS
        }
        Err(_) => {
            // Fail closed: neither the application nor the rewritten port may answer in the proxy's place.
            kernel::count(Counter::DroppedNoListener);
            sk_action::SK_DROP
        }
    }
}

#[inline(always)]
fn remote(lookup: *mut bpf_sk_lookup) -> Endpoint {
    let ip = if read!(lookup, bpf_sk_lookup.family) == AF_INET {
        Ip16::v4_word(read!(lookup, bpf_sk_lookup.remote_ip4))
    } else {
        read_ip6!(lookup, bpf_sk_lookup.remote_ip6)
    };
    // SAFETY: the program's own context. Two bytes in network order since kernel 5.18, not four.
    let port =
        unsafe { kernel::load16::<{ offset_of!(bpf_sk_lookup, remote_port) }>(lookup.cast()) };
    Endpoint::new(ip, u16::from_be(port))
}

#[inline(always)]
fn local(lookup: *mut bpf_sk_lookup) -> Endpoint {
    let ip = if read!(lookup, bpf_sk_lookup.family) == AF_INET {
        Ip16::v4_word(read!(lookup, bpf_sk_lookup.local_ip4))
    } else {
        read_ip6!(lookup, bpf_sk_lookup.local_ip6)
    };
    Endpoint::new(ip, read!(lookup, bpf_sk_lookup.local_port) as u16)
}
