//! `cgroup/getpeername4`, `cgroup/getpeername6` (kernel 5.8): tells an application the peer that it means.
//!
//! In: a socket's storage. Out: for a captured socket the address it dialled, for an accepted one its client.
//! `accept` asks the same hook for the address that it returns.

use core::mem::offset_of;

use aya_ebpf::bindings::bpf_sock_addr;
use weft_ebpf_abi::{SocketKind, SocketValue};

use crate::kernel::{self, write};

const GO_ON: i32 = 1;

pub(crate) fn v4(ctx: *mut bpf_sock_addr) -> i32 {
    if let Some(value) = peer(ctx)
        && value.ip.is_v4()
    {
        let [_, _, _, v4] = value.ip.words();
        write!(ctx, bpf_sock_addr.user_ip4, v4);
        write!(ctx, bpf_sock_addr.user_port, u32::from(value.port.to_be()));
    }
    GO_ON
}

pub(crate) fn v6(ctx: *mut bpf_sock_addr) -> i32 {
    if let Some(value) = peer(ctx) {
        let [a, b, c, d] = value.ip.words();
        write!(ctx, bpf_sock_addr.user_ip6[0], a);
        write!(ctx, bpf_sock_addr.user_ip6[1], b);
        write!(ctx, bpf_sock_addr.user_ip6[2], c);
        write!(ctx, bpf_sock_addr.user_ip6[3], d);
        write!(ctx, bpf_sock_addr.user_port, u32::from(value.port.to_be()));
    }
    GO_ON
}

#[inline(always)]
fn peer(ctx: *mut bpf_sock_addr) -> Option<&'static SocketValue> {
    // SAFETY: the program's own context; the verifier checks the offset.
    let sk = unsafe {
        kernel::load_socket::<{ offset_of!(bpf_sock_addr, __bindgen_anon_1) }>(ctx.cast())
    };
    let value = kernel::storage(sk)?;
    (value.is(SocketKind::Client) || value.is(SocketKind::Served)).then_some(value)
}
