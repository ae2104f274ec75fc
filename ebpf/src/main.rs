//! The programs: entry points, licence, and the hash of the sources that this object was built from.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "compare-exchange, see kernel.rs")]
#![expect(
    unsafe_code,
    reason = "eBPF programs speak to the kernel through raw contexts and helpers"
)]

mod hooks;
mod kernel;
mod maps;

use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    hooks::connect::v4(ctx.sock_addr)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    hooks::connect::v6(ctx.sock_addr)
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    hooks::peername::v4(ctx.sock_addr)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    hooks::peername::v6(ctx.sock_addr)
}

#[sock_ops]
fn sock_ops(ctx: SockOpsContext) -> u32 {
    hooks::sock_ops::run(ctx.ops)
}

#[sk_lookup]
fn lookup(ctx: SkLookupContext) -> u32 {
    hooks::lookup::run(&ctx)
}

// `bpf_set_retval` and the socket helpers are GPL-only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

/// Read back by `cargo xtask check`, which sets the variable when it builds.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = "weft.sources")]
static SOURCE_HASH: [u8; 89] = source_hash();

const fn source_hash() -> [u8; 89] {
    let text = concat!("weft-ebpf-sources-sha256:", env!("WEFT_EBPF_SOURCE_HASH")).as_bytes();
    assert!(text.len() == 89);
    let mut bytes = [0; 89];
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] = text[index];
        index += 1;
    }
    bytes
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier would refuse a program that can get here.
    loop {}
}
