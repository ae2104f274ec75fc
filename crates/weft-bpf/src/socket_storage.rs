//! What proxy and node tell the hooks about a socket, and the hooks tell them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use weft_ebpf_abi::{Endpoint, SocketKind, SocketState, SocketValue};
use weft_types::{ClientAddr, OrigDst};

use crate::error::BpfError;
use crate::map::{Map, UpdateMode};

/// The map `SOCKETS`: storage that lives and dies with a socket, reached by the socket's descriptor.
///
/// Usable by a process without capabilities. Cheap: one system call for each method.
#[derive(Debug)]
pub struct SocketStorage {
    map: Map<i32, SocketValue>,
}

/// How far the client address of a connection to an application has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// The application sees, or will see, the client: payload may flow.
    Stored,
    /// No client was set, or the connect has not begun.
    Idle,
    /// It could not be stored, or the socket is unknown: reset the connection before the first byte.
    Failed,
}

// === impl SocketStorage ===

impl SocketStorage {
    /// Takes the descriptor of the map `SOCKETS`.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, BpfError> {
        Map::from_fd(fd).map(|map| Self { map })
    }

    /// Marks a socket as the proxy's own, before it connects: the hooks never capture it.
    pub fn flag(&self, socket: BorrowedFd<'_>) -> Result<(), BpfError> {
        let value = SocketValue::new(SocketKind::Proxy, Endpoint::default());
        self.map.update(&key(socket), &value, UpdateMode::Any)
    }

    /// Whether a socket carries the mark of [`Self::flag`].
    pub fn flagged(&self, socket: BorrowedFd<'_>) -> Result<bool, BpfError> {
        Ok(self
            .value(socket)?
            .is_some_and(|value| value.is(SocketKind::Proxy)))
    }

    /// Says whom the application shall see as its peer. To be called on a flagged socket before it connects to an application.
    pub fn set_client(&self, socket: BorrowedFd<'_>, client: ClientAddr) -> Result<(), BpfError> {
        let value = SocketValue::new(SocketKind::Proxy, client.0.into());
        self.map.update(&key(socket), &value, UpdateMode::Any)
    }

    /// How far [`Self::set_client`] has come. To be read after connect has returned: anything but
    /// [`ClientState::Stored`] means that the application would see the proxy as its peer.
    pub fn client_state(&self, socket: BorrowedFd<'_>) -> Result<ClientState, BpfError> {
        let Some(value) = self
            .value(socket)?
            .filter(|value| value.is(SocketKind::Proxy))
        else {
            return Ok(ClientState::Failed);
        };
        Ok(match value.state {
            state if state == SocketState::Stored as u8 => ClientState::Stored,
            state if state == SocketState::Idle as u8 => ClientState::Idle,
            _ => ClientState::Failed,
        })
    }

    /// Whether the application sees the client that [`Self::set_client`] named.
    pub fn stored(&self, socket: BorrowedFd<'_>) -> Result<bool, BpfError> {
        Ok(self.client_state(socket)? == ClientState::Stored)
    }

    /// What the application dialled, for a socket that the outbound listener accepted.
    ///
    /// `None` means that the hooks do not know this connection: it must be closed, there is no safe guess.
    pub fn original_destination(
        &self,
        accepted: BorrowedFd<'_>,
    ) -> Result<Option<OrigDst>, BpfError> {
        let value = self.value(accepted)?;
        Ok(value
            .filter(|value| value.is(SocketKind::Accepted))
            .map(|value| OrigDst(value.endpoint().into())))
    }

    /// The raw value, for tests and diagnosis.
    pub fn value(&self, socket: BorrowedFd<'_>) -> Result<Option<SocketValue>, BpfError> {
        self.map.lookup(&key(socket))
    }
}

impl AsFd for SocketStorage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

fn key(socket: BorrowedFd<'_>) -> i32 {
    socket.as_raw_fd()
}
