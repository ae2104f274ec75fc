//! Plain-old-data shared by kernel and user space: map keys, values, names, ABI version.
//!
//! In: nothing. Out: the exact bytes of every eBPF map of Weft, and the names they are pinned under.
//! Who writes and reads each map, how large it is and what happens when it is full stands in `ebpf/src/maps.rs`.
//! Deliberately not here: any access to a map (`weft-bpf`, the agent, the eBPF programs).
//!
//! Every type is `repr(C)` with explicit padding, because the kernel compares keys byte by byte.
//! A change of any size, meaning or name here is a new [`ABI_VERSION`].

#![no_std]
#![expect(
    clippy::inline_always,
    reason = "the eBPF programs have no calls: what they use must be inlined"
)]

mod address;
mod counter;
mod flow;
mod pod;
mod socket;

pub use address::{Endpoint, Ip16};
pub use counter::Counter;
pub use flow::{Capture, CaptureKey, ClientKey, ClientValue, FlowKey, RefusalKey};
pub use pod::{ListenerKey, ListenerKind, PodAddressKey, PodValue, pod_flags};
pub use socket::{SocketKind, SocketState, SocketValue};

/// Version of the layout of all maps together; names the folder that they are pinned in.
pub const ABI_VERSION: u32 = 1;

/// Port of the HBONE listener, the only destination port that inbound steering knows by number.
pub const HBONE_PORT: u16 = 15008;

/// Captures that one pod may have in flight: as many as there are ports that stand for them, so that no counter can go wrong.
///
/// A capture is in flight for microseconds, unless the queue of the outbound listener is full (4096 by default) and SYNs are
/// repeated; on kernels that leave the loopback's work to ksoftirqd, a burst of connects adds some hundred.
pub const POD_CAPTURES_MAX: u32 = 1_024;

/// Deliveries to applications that one pod may have in handshake; the proxy keeps to it. In handshake for microseconds,
/// unless the application's queue is full.
pub const POD_CLIENTS_MAX: u32 = 256;

/// Pods that can all be at these bounds at once: more than the 110 that a kubelet runs by default.
const PODS_AT_BOUND: u32 = 128;

/// Entries of `CAPTURES`.
pub const CAPTURES_MAX: u32 = PODS_AT_BOUND * POD_CAPTURES_MAX;

/// Entries of `CLIENTS`.
pub const CLIENTS_MAX: u32 = PODS_AT_BOUND * POD_CLIENTS_MAX;

/// Names of the maps, in the object and as pins.
pub mod map_names {
    /// In-flight captures of outbound connections.
    pub const CAPTURES: &str = "CAPTURES";
    /// In-flight client addresses on their way to an application's accepted socket.
    pub const CLIENTS: &str = "CLIENTS";
    /// Socket storage: what a socket is to the mesh.
    pub const SOCKETS: &str = "SOCKETS";
    /// Enrolled pods by network namespace cookie.
    pub const PODS: &str = "PODS";
    /// All addresses of enrolled pods.
    pub const POD_ADDRESSES: &str = "POD_ADDRESSES";
    /// The proxy's listeners.
    pub const LISTENERS: &str = "LISTENERS";
    /// Destinations whose connect fails at once.
    pub const REFUSALS: &str = "REFUSALS";
    /// Inbound flows that pass to the application.
    pub const GRANTS: &str = "GRANTS";
    /// Event counters.
    pub const COUNTERS: &str = "COUNTERS";
    /// All of them.
    pub const ALL: [&str; 9] = [
        CAPTURES,
        CLIENTS,
        SOCKETS,
        PODS,
        POD_ADDRESSES,
        LISTENERS,
        REFUSALS,
        GRANTS,
        COUNTERS,
    ];
}

/// Names of the programs in the object.
pub mod program_names {
    /// `cgroup/connect4`.
    pub const CONNECT4: &str = "connect4";
    /// `cgroup/connect6`.
    pub const CONNECT6: &str = "connect6";
    /// `cgroup/getpeername4`.
    pub const GETPEERNAME4: &str = "getpeername4";
    /// `cgroup/getpeername6`.
    pub const GETPEERNAME6: &str = "getpeername6";
    /// `sockops`; a function must not carry the name of its section.
    pub const SOCK_OPS: &str = "sock_ops";
    /// `sk_lookup`, one instance for each pod.
    pub const LOOKUP: &str = "lookup";
    /// Read-only variable of [`LOOKUP`]: the pod id of this instance.
    pub const POD_ID_GLOBAL: &str = "POD_ID";
    /// Read-only variable of [`LOOKUP`]: 1 for a pod that leaves the mesh, of which only tunnels go to the proxy.
    pub const TUNNELS_ONLY_GLOBAL: &str = "TUNNELS_ONLY";
    /// Read-only variable of the connect hooks: 1 on a kernel with MPTCP.
    pub const HAS_MPTCP_GLOBAL: &str = "HAS_MPTCP";
}

/// What stands before the 64 hex digits of the source hash inside the object.
pub const SOURCE_HASH_MARK: &str = "weft-ebpf-sources-sha256:";

/// A type whose bytes may cross the border to the kernel as they are.
///
/// # Safety
/// `repr(C)`, no implicit padding, no pointers, valid for every bit pattern.
#[expect(
    unsafe_code,
    reason = "the trait is the promise that makes byte copies sound"
)]
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: repr(C) with explicit padding (the size assert beside the type proves it), integers only.
            #[expect(unsafe_code, reason = "see SAFETY")]
            unsafe impl Plain for $type {}
        )+
    };
}

plain!(
    Ip16,
    Endpoint,
    Capture,
    CaptureKey,
    ClientKey,
    ClientValue,
    FlowKey,
    RefusalKey,
    ListenerKey,
    PodAddressKey,
    PodValue,
    SocketValue,
);

macro_rules! plain_integer {
    ($($type:ty),+) => {
        $(
            // SAFETY: an integer.
            #[expect(unsafe_code, reason = "see SAFETY")]
            unsafe impl Plain for $type {}
        )+
    };
}

plain_integer!(i32, u32, u64);
