//! Keys and values that describe an enrolled pod.

use crate::address::Ip16;

/// An enrolled pod. Key: the cookie of its network namespace (`SO_NETNS_COOKIE`, kernel 5.14), `u64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodValue {
    /// Names the pod in every other key; unique on this node while it is enrolled.
    pub pod_id: u32,
    /// [`pod_flags`].
    pub flags: u32,
    /// Address that a captured IPv4 connect is rewritten to; empty if the pod has none.
    pub v4: Ip16,
    /// The same for IPv6.
    pub v6: Ip16,
    /// First port of `ip_local_port_range`: rewritten ports stay outside of it, so that no connection meets itself.
    pub local_ports_min: u16,
    /// Last port of that range.
    pub local_ports_max: u16,
    /// Always 0.
    pub pad: u32,
}

/// Bits of [`PodValue::flags`].
pub mod pod_flags {
    /// It leaves the mesh, or is about to join: no new capture begins, those in flight come to their end.
    pub const DRAINING: u32 = 1;
    /// It has addresses besides `v4` and `v6`; they stand in `POD_ADDRESSES`.
    pub const MORE_ADDRESSES: u32 = 2;
}

/// Key of one address of a pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodAddressKey {
    /// The pod.
    pub pod_id: u32,
    /// One of its addresses.
    pub ip: Ip16,
}

/// Key of one of the proxy's listeners inside a pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    /// The pod.
    pub pod_id: u32,
    /// [`ListenerKind`] as a number.
    pub kind: u32,
}

/// What a listener inside a pod is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum ListenerKind {
    /// Accepts captured connections of the pod's own applications.
    Outbound = 1,
    /// Accepts plain connections from elsewhere to the pod's applications.
    Inbound = 2,
    /// Accepts tunnels from peers (port 15008).
    Hbone = 3,
}

const _: () = assert!(size_of::<PodValue>() == 48);
const _: () = assert!(size_of::<PodAddressKey>() == 20);
const _: () = assert!(size_of::<ListenerKey>() == 8);

impl ListenerKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Inbound, Self::Hbone];
}

impl ListenerKey {
    /// Puts the parts together.
    #[inline(always)]
    pub const fn new(pod_id: u32, kind: ListenerKind) -> Self {
        Self {
            pod_id,
            kind: kind as u32,
        }
    }
}
