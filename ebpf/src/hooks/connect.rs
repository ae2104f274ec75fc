//! `cgroup/connect4`, `cgroup/connect6` (kernel 4.17): rewrites the destination of an enrolled pod's TCP connect.
//!
//! In: the dialled address. Out: the pod's own address and a port that stands for the capture, an entry in `CAPTURES`,
//! the dialled address in the socket's storage; or an error for the application.

use core::mem::offset_of;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use weft_ebpf::ports;
use weft_ebpf::verdict::{Outbound, outbound};
use weft_ebpf_abi::{
    Capture, CaptureKey, Counter, Endpoint, Ip16, PodAddressKey, PodValue, RefusalKey, SocketKind,
    SocketValue,
};

use crate::kernel::{self, read, read_ip6, write};
use crate::maps::{CAPTURES, POD_ADDRESSES, REFUSALS};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;
const BPF_NOEXIST: u64 = 1;
/// What an insert returns when a map is full.
const E2BIG: i32 = -7;

/// Lets the connect go on.
const GO_ON: i32 = 1;

/// What a connect became.
enum Outcome {
    GoOn,
    Rewrite(Endpoint),
    Fail(i32),
}

pub(crate) fn v4(ctx: *mut bpf_sock_addr) -> i32 {
    if read!(ctx, bpf_sock_addr.user_family) != AF_INET {
        return GO_ON;
    }
    let ip = Ip16::v4_word(read!(ctx, bpf_sock_addr.user_ip4));
    match connect(ctx, ip) {
        Outcome::GoOn => GO_ON,
        Outcome::Fail(errno) => kernel::fail(errno),
        Outcome::Rewrite(to) => {
            let [_, _, _, v4] = to.ip.words();
            write!(ctx, bpf_sock_addr.user_ip4, v4);
            write!(ctx, bpf_sock_addr.user_port, u32::from(to.port.to_be()));
            GO_ON
        }
    }
}

pub(crate) fn v6(ctx: *mut bpf_sock_addr) -> i32 {
    // An IPv6 socket may be handed an IPv4 address: the kernel refuses that by itself.
    if read!(ctx, bpf_sock_addr.user_family) != AF_INET6 {
        return GO_ON;
    }
    let ip = read_ip6!(ctx, bpf_sock_addr.user_ip6);
    match connect(ctx, ip) {
        Outcome::GoOn => GO_ON,
        Outcome::Fail(errno) => kernel::fail(errno),
        Outcome::Rewrite(to) => {
            // A v4-mapped destination gets a v4-mapped address, which is what Ip16 holds.
            let [a, b, c, d] = to.ip.words();
            write!(ctx, bpf_sock_addr.user_ip6[0], a);
            write!(ctx, bpf_sock_addr.user_ip6[1], b);
            write!(ctx, bpf_sock_addr.user_ip6[2], c);
            write!(ctx, bpf_sock_addr.user_ip6[3], d);
            write!(ctx, bpf_sock_addr.user_port, u32::from(to.port.to_be()));
            GO_ON
        }
    }
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_addr, ip: Ip16) -> Outcome {
    let protocol = read!(ctx, bpf_sock_addr.protocol);
    if read!(ctx, bpf_sock_addr.type_) != SOCK_STREAM
        || (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
    {
        return Outcome::GoOn;
    }
    let Some(pod) = kernel::pod_of(ctx.cast()) else {
        return Outcome::GoOn;
    };
    // SAFETY: the program's own context; the verifier checks the offset.
    let sk = unsafe {
        kernel::load_socket::<{ offset_of!(bpf_sock_addr, __bindgen_anon_1) }>(ctx.cast())
    };
    let stored = kernel::storage(sk);
    if stored
        .as_ref()
        .is_some_and(|stored| stored.is(SocketKind::Proxy))
    {
        return Outcome::GoOn;
    }
    let original = Endpoint::new(ip, u16::from_be(read!(ctx, bpf_sock_addr.user_port) as u16));
    let cookie = kernel::socket_cookie(ctx.cast());
    if let Some(stored) = stored {
        if stored.is(SocketKind::Client) && is_rewritten(pod, stored, &original) {
            // During an upgrade the hook of the older generation runs first, and has captured this very connect.
            return Outcome::GoOn;
        }
        // The same socket connects again: what its last connect left is of no use any more.
        forget(stored, cookie);
        kernel::storage_delete(sk);
    }
    let mptcp = kernel::mptcp_of(sk);
    if let Some(mptcp) = mptcp {
        kernel::storage_delete(mptcp);
    }
    let to = match outbound(pod, &original) {
        Outbound::Pass => return Outcome::GoOn,
        Outbound::CaptureUnlessOwn(_) if is_own(pod, ip) => return Outcome::GoOn,
        Outbound::CaptureUnlessOwn(to) | Outbound::Capture(to) => to,
        Outbound::Unreachable => {
            kernel::count(Counter::RefusedFamily);
            return Outcome::Fail(ENETUNREACH);
        }
    };
    if is_refused(&original) {
        kernel::count(Counter::RefusedKnown);
        return Outcome::Fail(ECONNREFUSED);
    }
    match capture(pod, sk, cookie, original) {
        Ok(port) => {
            if let Some(mptcp) = mptcp {
                // Only for getpeername: without room the address is the pod's own, and nothing else is wrong.
                kernel::storage_put(mptcp, SocketValue::new(SocketKind::Client, original));
            }
            kernel::count(Counter::Captured);
            Outcome::Rewrite(Endpoint::new(to, port))
        }
        Err(full) => {
            kernel::count(full);
            Outcome::Fail(ECONNREFUSED)
        }
    }
}

/// Reserves a port for this connect and notes the dialled address at its socket; or tells what is full.
#[inline(always)]
fn capture(
    pod: &PodValue,
    sk: *mut bpf_sock,
    cookie: u64,
    original: Endpoint,
) -> Result<u16, Counter> {
    let bound = read!(sk, bpf_sock.src_port) as u16;
    let seed = ports::seed(&original, cookie);
    let entry = Capture {
        cookie,
        created_ns: kernel::now_ns(),
        original,
        source: Endpoint::default(),
    };
    for attempt in 0..ports::TRIES {
        let port = ports::pick(seed, attempt, pod.local_ports_min, pod.local_ports_max);
        if port == bound {
            // Own address to own address with equal ports: the socket would connect to itself.
            continue;
        }
        let key = CaptureKey::new(pod.pod_id, port);
        match CAPTURES.insert(&key, &entry, BPF_NOEXIST) {
            Ok(()) => {}
            Err(E2BIG) => return Err(Counter::RefusedFull),
            // In flight already.
            Err(_) => continue,
        }
        let mut value = SocketValue::new(SocketKind::Client, original);
        value.rewritten = port;
        value.pod_id = pod.pod_id;
        if kernel::storage_put(sk, value) {
            return Ok(port);
        }
        forget(&value, cookie);
        return Err(Counter::RefusedStorage);
    }
    Err(Counter::RefusedPod)
}

/// Removes the capture that a storage speaks of, if it is still this socket's.
#[inline(always)]
fn forget(stored: &SocketValue, cookie: u64) {
    if !stored.is(SocketKind::Client) {
        return;
    }
    let key = CaptureKey::new(stored.pod_id, stored.rewritten);
    if let Some(entry) = CAPTURES.get_ptr_mut(&key) {
        // SAFETY: preallocated entries stay valid; the exchange tells whether it is still ours.
        kernel::release(&CAPTURES, &key, unsafe { &raw mut (*entry).cookie }, cookie);
    }
}

/// Whether this is the address that the capture in a storage was rewritten to.
#[inline(always)]
fn is_rewritten(pod: &PodValue, stored: &SocketValue, destination: &Endpoint) -> bool {
    let own = if destination.ip.is_v4() {
        pod.v4
    } else {
        pod.v6
    };
    stored.rewritten == destination.port && own == destination.ip
}

#[inline(always)]
fn is_own(pod: &PodValue, ip: Ip16) -> bool {
    POD_ADDRESSES
        .get_ptr(PodAddressKey {
            pod_id: pod.pod_id,
            ip,
        })
        .is_some()
}

#[inline(always)]
fn is_refused(original: &Endpoint) -> bool {
    REFUSALS
        .get_ptr(RefusalKey::new(original.ip, original.port))
        .is_some()
        || REFUSALS.get_ptr(RefusalKey::new(original.ip, 0)).is_some()
}
