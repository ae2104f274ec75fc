//! What the storage of a socket says about it.

use crate::address::{Endpoint, Ip16};

/// Value of the `SOCKETS` storage. A socket without one is nothing to the mesh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketValue {
    /// [`SocketKind`] as a number.
    pub kind: u8,
    /// [`SocketState`] as a number.
    pub state: u8,
    /// Port of [`Self::ip`], host byte order.
    pub port: u16,
    /// The address that belongs to the kind; empty if none.
    pub ip: Ip16,
    /// For [`SocketKind::Client`]: port that the connect was rewritten to, the other half of its [`CaptureKey`](crate::CaptureKey).
    pub rewritten: u16,
    /// Always 0.
    pub pad: u16,
    /// Pod of the socket, where the hooks wrote this value; else 0.
    pub pod_id: u32,
}

/// What a socket is to the mesh, and what the address in its storage means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SocketKind {
    /// Made for the proxy by the node: the hooks never capture it.
    /// Address: the client that the application shall see, written by the proxy before it connects.
    Proxy = 1,
    /// Captured socket of an application. Address: what it dialled, shown by `getpeername`.
    Client = 2,
    /// Accepted by the outbound listener. Address: the original destination, read by the proxy.
    Accepted = 3,
    /// Application's accepted socket. Address: the client, shown by `accept` and `getpeername`.
    Served = 4,
}

/// How far the client address of a [`SocketKind::Proxy`] socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SocketState {
    /// Nothing happened yet.
    Idle = 0,
    /// The address waits for, or has reached, the application's socket.
    Stored = 1,
    /// The map was full, or the pod is not enrolled: the proxy must reset the connection.
    Failed = 2,
}

const _: () = assert!(size_of::<SocketValue>() == 28);

// === impl SocketValue ===

impl SocketValue {
    /// A value with an address.
    #[inline(always)]
    pub const fn new(kind: SocketKind, endpoint: Endpoint) -> Self {
        Self {
            kind: kind as u8,
            state: SocketState::Idle as u8,
            port: endpoint.port,
            ip: endpoint.ip,
            rewritten: 0,
            pad: 0,
            pod_id: 0,
        }
    }

    /// The address, whatever it means.
    #[inline(always)]
    pub const fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.ip, self.port)
    }

    /// Whether this socket is of that kind.
    #[inline(always)]
    pub const fn is(&self, kind: SocketKind) -> bool {
        self.kind == kind as u8
    }
}
