//! `sockops` (kernel 4.13; netns cookie 5.15): follows captured and delivered connections through their handshake.
//!
//! In: socket events. Out: the source of a capture, the original destination in the accepted socket's storage,
//! the client's address in the application socket's storage, and no entry left behind.

use core::mem::offset_of;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_ops};
use weft_ebpf_abi::{
    Capture, CaptureKey, ClientKey, ClientValue, Counter, Endpoint, Ip16, PodValue, SocketKind,
    SocketState, SocketValue,
};

use crate::kernel::{self, read, read_ip6};
use crate::maps::{CAPTURES, CLIENTS};

const TCP_CONNECT_CB: u32 = 3;
const PASSIVE_ESTABLISHED_CB: u32 = 5;
const STATE_CB: u32 = 10;
const STATE_CB_FLAG: u32 = 1 << 2;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;
const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// The result is ignored for the events handled here.
const DONE: u32 = 1;

pub(crate) fn run(ctx: *mut bpf_sock_ops) -> u32 {
    match read!(ctx, bpf_sock_ops.op) {
        TCP_CONNECT_CB => connecting(ctx),
        PASSIVE_ESTABLISHED_CB => accepted(ctx),
        STATE_CB if read!(ctx, bpf_sock_ops.__bindgen_anon_1[1]) == TCP_CLOSE => closed(ctx),
        _ => {}
    }
    DONE
}

/// The source port is known and the SYN is not sent yet.
#[inline(always)]
fn connecting(ctx: *mut bpf_sock_ops) {
    let Some(sk) = socket(ctx) else { return };
    let Some(value) = kernel::storage(sk) else {
        return;
    };
    if value.is(SocketKind::Client) {
        fill_capture(ctx, value);
    } else if value.is(SocketKind::Proxy) && value.port != 0 {
        store_client(ctx, value);
    }
}

#[inline(always)]
fn fill_capture(ctx: *mut bpf_sock_ops, value: &SocketValue) {
    let source = local(ctx);
    let cookie = kernel::socket_cookie(ctx.cast());
    let key = CaptureKey::new(value.pod_id, value.rewritten);
    watch_state(ctx);
    if let Some(entry) = CAPTURES.get_ptr_mut(&key) {
        // SAFETY: preallocated entries stay valid; nobody else writes the source of an entry with our cookie.
        unsafe {
            if (*entry).cookie == cookie {
                (*entry).source = source;
                return;
            }
        }
    }
    // Swept before its SYN (a deferred fast-open connect): take the port again if nobody has it.
    let entry = Capture {
        cookie,
        created_ns: kernel::now_ns(),
        original: value.endpoint(),
        source,
    };
    if CAPTURES.insert(&key, &entry, BPF_NOEXIST).is_err() {
        kernel::count(Counter::CaptureLost);
    }
}

#[inline(always)]
fn store_client(ctx: *mut bpf_sock_ops, value: &mut SocketValue) {
    let Some(pod) = kernel::pod_of(ctx.cast()) else {
        value.state = SocketState::Failed as u8;
        return;
    };
    value.pod_id = pod.pod_id;
    let key = ClientKey {
        pod_id: pod.pod_id,
        source: local(ctx),
        destination: remote(ctx),
    };
    let entry = ClientValue {
        cookie: kernel::socket_cookie(ctx.cast()),
        client: value.endpoint(),
        pad: 0,
    };
    if CLIENTS.insert(&key, &entry, BPF_ANY).is_ok() {
        value.state = SocketState::Stored as u8;
        watch_state(ctx);
        kernel::count(Counter::ClientStored);
    } else {
        value.state = SocketState::Failed as u8;
        kernel::count(Counter::ClientFull);
    }
}

/// The handshake is complete, and `accept` has not returned the socket yet.
#[inline(always)]
fn accepted(ctx: *mut bpf_sock_ops) {
    let Some(pod) = kernel::pod_of(ctx.cast()) else {
        return;
    };
    let Some(sk) = socket(ctx) else { return };
    let peer = remote(ctx);
    if !take_capture(ctx, pod, sk, &peer) {
        take_client(ctx, pod, sk, peer);
    }
}

/// Moves the original destination into the accepted socket. `false` if this is not a captured connection.
#[inline(always)]
fn take_capture(
    ctx: *mut bpf_sock_ops,
    pod: &PodValue,
    sk: *mut bpf_sock,
    peer: &Endpoint,
) -> bool {
    let key = CaptureKey::new(pod.pod_id, read!(ctx, bpf_sock_ops.local_port) as u16);
    let Some(entry) = CAPTURES.get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: preallocated entries stay valid. The copy may be torn if the entry changes hands meanwhile;
    // the exchange below fails then, because a cookie is never used twice.
    let copy = unsafe { *entry };
    if copy.source != *peer {
        return false;
    }
    // SAFETY: as above.
    let is_ours = kernel::release(
        &CAPTURES,
        &key,
        unsafe { &raw mut (*entry).cookie },
        copy.cookie,
    );
    let mut value = SocketValue::new(SocketKind::Accepted, copy.original);
    value.pod_id = pod.pod_id;
    let moved = is_ours && kernel::storage_put(sk, value);
    kernel::count(if moved {
        Counter::DestinationMoved
    } else {
        Counter::DestinationLost
    });
    true
}

/// Moves the client's address into the application's socket.
#[inline(always)]
fn take_client(ctx: *mut bpf_sock_ops, pod: &PodValue, sk: *mut bpf_sock, peer: Endpoint) {
    let key = ClientKey {
        pod_id: pod.pod_id,
        source: peer,
        destination: local(ctx),
    };
    let Some(entry) = CLIENTS.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: as in `take_capture`.
    let copy = unsafe { *entry };
    // SAFETY: as in `take_capture`.
    if kernel::release(
        &CLIENTS,
        &key,
        unsafe { &raw mut (*entry).cookie },
        copy.cookie,
    ) {
        let mut value = SocketValue::new(SocketKind::Served, copy.client);
        value.pod_id = pod.pod_id;
        if kernel::storage_put(sk, value) {
            kernel::count(Counter::ClientMoved);
        }
    }
}

/// A watched socket died: what it left in flight goes with it.
#[inline(always)]
fn closed(ctx: *mut bpf_sock_ops) {
    let Some(sk) = socket(ctx) else { return };
    let Some(value) = kernel::storage(sk) else {
        return;
    };
    let cookie = kernel::socket_cookie(ctx.cast());
    if value.is(SocketKind::Client) {
        let key = CaptureKey::new(value.pod_id, value.rewritten);
        if let Some(entry) = CAPTURES.get_ptr_mut(&key) {
            // SAFETY: as in `take_capture`.
            kernel::release(&CAPTURES, &key, unsafe { &raw mut (*entry).cookie }, cookie);
        }
    } else if value.is(SocketKind::Proxy) && value.state == SocketState::Stored as u8 {
        let key = ClientKey {
            pod_id: value.pod_id,
            source: local(ctx),
            destination: remote(ctx),
        };
        if let Some(entry) = CLIENTS.get_ptr_mut(&key) {
            // SAFETY: as in `take_capture`.
            kernel::release(&CLIENTS, &key, unsafe { &raw mut (*entry).cookie }, cookie);
        }
    }
}

/// Asks for state events, and keeps those that other programs asked for.
#[inline(always)]
fn watch_state(ctx: *mut bpf_sock_ops) {
    let flags = read!(ctx, bpf_sock_ops.bpf_sock_ops_cb_flags) | STATE_CB_FLAG;
    // SAFETY: the program's own context.
    unsafe { aya_ebpf::helpers::generated::bpf_sock_ops_cb_flags_set(ctx, flags as i32) };
}

#[inline(always)]
fn socket(ctx: *mut bpf_sock_ops) -> Option<*mut bpf_sock> {
    // SAFETY: the program's own context; the verifier checks the offset.
    let sk = unsafe {
        kernel::load_socket::<{ offset_of!(bpf_sock_ops, __bindgen_anon_2) }>(ctx.cast())
    };
    (!sk.is_null()).then_some(sk)
}

#[inline(always)]
fn local(ctx: *mut bpf_sock_ops) -> Endpoint {
    let ip = if read!(ctx, bpf_sock_ops.family) == AF_INET {
        Ip16::v4_word(read!(ctx, bpf_sock_ops.local_ip4))
    } else {
        read_ip6!(ctx, bpf_sock_ops.local_ip6)
    };
    Endpoint::new(ip, read!(ctx, bpf_sock_ops.local_port) as u16)
}

#[inline(always)]
fn remote(ctx: *mut bpf_sock_ops) -> Endpoint {
    let ip = if read!(ctx, bpf_sock_ops.family) == AF_INET {
        Ip16::v4_word(read!(ctx, bpf_sock_ops.remote_ip4))
    } else {
        read_ip6!(ctx, bpf_sock_ops.remote_ip6)
    };
    // Unlike the local one, this port is in network order, in the upper half of the word on a little-endian machine.
    Endpoint::new(
        ip,
        u32::from_be(read!(ctx, bpf_sock_ops.remote_port)) as u16,
    )
}
