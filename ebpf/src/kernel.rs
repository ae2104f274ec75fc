//! What aya-ebpf lacks: helpers and context fields with the types that Weft uses.
//!
//! Context fields are read by inline assembly with a constant offset, because the verifier refuses a load that the compiler
//! has merged, narrowed, or moved behind pointer arithmetic ("dereference of modified ctx ptr").

use core::arch::asm;
use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering, atomic_cxchg};
use core::ptr;

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::generated as helpers;
use weft_ebpf_abi::{Counter, PodValue, SocketValue};

use crate::maps::{COUNTERS, PODS, SOCKETS};

/// Reads one 32-bit field (or element of an array of them) of a context or socket.
macro_rules! read {
    ($pointer:expr, $type:ident.$field:ident $([$index:literal])?) => {
        // SAFETY: the pointer is the program's context or a socket that the verifier knows; it checks every offset.
        unsafe {
            $crate::kernel::load32::<{ core::mem::offset_of!($type, $field) $(+ 4 * $index)? }>($pointer.cast())
        }
    };
}

/// Writes one 32-bit field (or element of an array of them) of a context.
macro_rules! write {
    ($pointer:expr, $type:ident.$field:ident $([$index:literal])?, $value:expr) => {
        // SAFETY: the pointer is the program's context; the verifier checks every offset.
        unsafe {
            $crate::kernel::store32::<{ core::mem::offset_of!($type, $field) $(+ 4 * $index)? }>($pointer.cast(), $value)
        }
    };
}

/// Reads four neighbouring 32-bit fields: an IPv6 address.
macro_rules! read_ip6 {
    ($pointer:expr, $type:ident.$field:ident) => {
        weft_ebpf_abi::Ip16::v6_words([
            $crate::kernel::read!($pointer, $type.$field[0]),
            $crate::kernel::read!($pointer, $type.$field[1]),
            $crate::kernel::read!($pointer, $type.$field[2]),
            $crate::kernel::read!($pointer, $type.$field[3]),
        ])
    };
}

pub(crate) use {read, read_ip6, write};

/// # Safety
/// `pointer` must be a context or socket with a readable 32-bit field at `OFFSET`.
#[inline(always)]
pub(crate) unsafe fn load32<const OFFSET: usize>(pointer: *const c_void) -> u32 {
    let value: u64;
    // SAFETY: the caller's.
    unsafe {
        asm!("{value} = *(u32 *)({pointer} + {offset})", value = lateout(reg) value, pointer = in(reg) pointer,
            offset = const OFFSET, options(nostack, pure, readonly));
    }
    value as u32
}

/// # Safety
/// `pointer` must be a context with a readable 16-bit field at `OFFSET`.
#[inline(always)]
pub(crate) unsafe fn load16<const OFFSET: usize>(pointer: *const c_void) -> u16 {
    let value: u64;
    // SAFETY: the caller's.
    unsafe {
        asm!("{value} = *(u16 *)({pointer} + {offset})", value = lateout(reg) value, pointer = in(reg) pointer,
            offset = const OFFSET, options(nostack, pure, readonly));
    }
    value as u16
}

/// # Safety
/// `pointer` must be a context with a pointer to a socket at `OFFSET`.
#[inline(always)]
pub(crate) unsafe fn load_socket<const OFFSET: usize>(pointer: *const c_void) -> *mut bpf_sock {
    let value: *mut bpf_sock;
    // SAFETY: the caller's.
    unsafe {
        asm!("{value} = *(u64 *)({pointer} + {offset})", value = lateout(reg) value, pointer = in(reg) pointer,
            offset = const OFFSET, options(nostack, pure, readonly));
    }
    value
}

/// # Safety
/// `pointer` must be a context with a writable 32-bit field at `OFFSET`.
#[inline(always)]
pub(crate) unsafe fn store32<const OFFSET: usize>(pointer: *mut c_void, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("*(u32 *)({pointer} + {offset}) = {value}", pointer = in(reg) pointer, value = in(reg) u64::from(value),
            offset = const OFFSET, options(nostack));
    }
}

/// The enrolled pod whose network namespace the context's socket is in (sock_addr since 5.7, sockops since 5.15).
#[inline(always)]
pub(crate) fn pod_of(ctx: *mut c_void) -> Option<&'static PodValue> {
    // SAFETY: `ctx` is the program's context, and entries of PODS are changed by the agent only, as a whole.
    unsafe {
        let cookie = helpers::bpf_get_netns_cookie(ctx);
        PODS.get(cookie)
    }
}

/// The socket's cookie: unique while the kernel runs.
#[inline(always)]
pub(crate) fn socket_cookie(ctx: *mut c_void) -> u64 {
    // SAFETY: `ctx` is the program's context.
    unsafe { helpers::bpf_get_socket_cookie(ctx) }
}

#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// Set by the agent: whether this kernel has MPTCP. Read-only when the program is loaded, so that on one without it the verifier
/// never sees the helper below, which it would refuse.
#[unsafe(no_mangle)]
static HAS_MPTCP: u32 = 0;

/// The MPTCP socket that this one is the first subflow of (kernel 5.19). The connect hook sees the subflow,
/// `getpeername` the MPTCP socket.
#[inline(always)]
pub(crate) fn mptcp_of(sk: *mut bpf_sock) -> Option<*mut bpf_sock> {
    // SAFETY: volatile, because the compiler would otherwise fold the 0 that stands here.
    if unsafe { ptr::read_volatile(&raw const HAS_MPTCP) } == 0 {
        return None;
    }
    // SAFETY: the verifier knows `sk` as a socket; the result is null for any other than a subflow.
    let mptcp = unsafe { helpers::bpf_skc_to_mptcp_sock(sk.cast()) };
    (!mptcp.is_null()).then_some(mptcp.cast())
}

/// The storage of a socket that the verifier knows to be a full one.
#[inline(always)]
pub(crate) fn storage(sk: *mut bpf_sock) -> Option<&'static mut SocketValue> {
    storage_get(sk, ptr::null_mut(), 0)
}

/// Writes the storage of a socket. `false` if its option memory is used up.
#[inline(always)]
pub(crate) fn storage_put(sk: *mut bpf_sock, mut value: SocketValue) -> bool {
    match storage_get(sk, &raw mut value, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) {
        Some(stored) => {
            // The initial value only counts where there was none before.
            *stored = value;
            true
        }
        None => false,
    }
}

#[inline(always)]
pub(crate) fn storage_delete(sk: *mut bpf_sock) {
    // SAFETY: the map is a socket storage, the socket a full one.
    unsafe { helpers::bpf_sk_storage_delete(sockets(), sk.cast()) };
}

#[inline(always)]
fn storage_get(
    sk: *mut bpf_sock,
    init: *mut SocketValue,
    flags: u64,
) -> Option<&'static mut SocketValue> {
    // SAFETY: the map is a socket storage of SocketValue; the verifier checks `sk`, and that the result is not used when null.
    unsafe {
        helpers::bpf_sk_storage_get(sockets(), sk.cast(), init.cast(), flags)
            .cast::<SocketValue>()
            .as_mut()
    }
}

#[inline(always)]
fn sockets() -> *mut c_void {
    (&raw const SOCKETS).cast_mut().cast()
}

/// Removes an entry of `CAPTURES` or `CLIENTS` if it is still this socket's; see `maps.rs`, "who deletes".
///
/// `cookie_field` points into the entry. Returns whether this call removed it.
#[inline(always)]
pub(crate) fn release<K, V, const N: usize>(
    map: &HashMap<K, V, N>,
    key: &K,
    cookie_field: *mut u64,
    cookie: u64,
) -> bool {
    // `AtomicU64` has no compare-exchange for this target, although the instruction exists (instruction set v3, kernel 5.12).
    // SAFETY: aligned (first field of a value), and valid for the rest of the program: preallocated entries are never freed.
    let (_, won) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            cookie_field,
            cookie,
            0,
        )
    };
    if won {
        let _ = map.remove(key);
    }
    won
}

/// Fails the connect with this error; what the hook must return.
#[inline(always)]
pub(crate) fn fail(errno: i32) -> i32 {
    // SAFETY: no pointers (kernel 5.18 in cgroup hooks).
    unsafe { helpers::bpf_set_retval(-errno) };
    0
}

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a slot of this CPU; a lost increment by preemption is a lost increment of a metric.
        unsafe { *slot += 1 };
    }
}
