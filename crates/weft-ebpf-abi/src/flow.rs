//! Keys and values that describe one connection.

use crate::address::{Endpoint, Ip16};

/// Key of an in-flight capture: a rewritten destination port of one pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CaptureKey {
    /// Pod that connects.
    pub pod_id: u32,
    /// Port that the connect was rewritten to, host byte order.
    pub port: u16,
    /// Always 0.
    pub pad: u16,
}

/// An in-flight capture: from the connect hook until the accepted socket has the original destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Cookie of the connecting socket; 0 once somebody has won the right to delete the entry.
    pub cookie: u64,
    /// When the connect hook made the entry, `CLOCK_MONOTONIC` nanoseconds.
    pub created_ns: u64,
    /// What the application dialled.
    pub original: Endpoint,
    /// Source of the connection; port 0 until `TCP_CONNECT_CB` has filled it in.
    pub source: Endpoint,
}

/// Key of a client address on its way: the 4-tuple of the proxy's connection to the application.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// Pod of the application.
    pub pod_id: u32,
    /// The proxy's end.
    pub source: Endpoint,
    /// The application's end.
    pub destination: Endpoint,
}

/// A client address on its way to the application's accepted socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientValue {
    /// Cookie of the proxy's socket; 0 once somebody has won the right to delete the entry.
    pub cookie: u64,
    /// Whom the application shall see as its peer.
    pub client: Endpoint,
    /// Always 0.
    pub pad: u32,
}

/// Key of a grant: an inbound flow that passes to the application.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Pod that is connected to.
    pub pod_id: u32,
    /// The remote end.
    pub source: Endpoint,
    /// The pod's end.
    pub destination: Endpoint,
}

/// Key of a destination whose connect is refused at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RefusalKey {
    /// Destination address.
    pub ip: Ip16,
    /// Destination port in host byte order, 0 for all ports.
    pub port: u16,
    /// Always 0.
    pub pad: u16,
}

const _: () = assert!(size_of::<CaptureKey>() == 8);
const _: () = assert!(size_of::<Capture>() == 56);
const _: () = assert!(size_of::<ClientKey>() == 44);
const _: () = assert!(size_of::<ClientValue>() == 32);
const _: () = assert!(size_of::<FlowKey>() == 44);
const _: () = assert!(size_of::<RefusalKey>() == 20);

impl CaptureKey {
    /// Puts the parts together.
    #[inline(always)]
    pub const fn new(pod_id: u32, port: u16) -> Self {
        Self {
            pod_id,
            port,
            pad: 0,
        }
    }
}

impl RefusalKey {
    /// Puts the parts together.
    #[inline(always)]
    pub const fn new(ip: Ip16, port: u16) -> Self {
        Self { ip, port, pad: 0 }
    }
}
