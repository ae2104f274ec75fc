//! Connects to the application over the pod's own loopback, so that it sees the client as its peer.
//!
//! In: a socket of the pod's stock, the client's address. Out: a connected stream whose peer has taken the client's
//! address over, or a failure. Never a stream that the application would take for somebody else's.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use weft_bpf::ClientState;
use weft_types::ClientAddr;

use crate::failure::Failure;
use crate::pods::Pod;
use crate::shared::Shared;
use crate::socket::{self, Undecided};
use crate::tunnel::family_of;

/// Connects to `to`, an address of the pod's own.
///
/// The source is left to the kernel, which takes the pod's own address for it: never loopback, so that a client address
/// that was not taken over could at least not pass for a local one.
pub(crate) async fn deliver(
    shared: &Shared,
    pod: &Pod,
    to: SocketAddr,
    client: ClientAddr,
) -> Result<Undecided, Failure> {
    let storage = shared.storage().ok_or(Failure::ClientNotStored(
        "the agent has not given its map yet",
    ))?;
    let socket = pod
        .stock
        .take(family_of(to.ip()))
        .await
        .map_err(Failure::NoSocket)?;
    storage
        .set_client(socket.as_fd(), client)
        .map_err(|error| Failure::Local {
            what: "tell the application who is calling",
            source: std::io::Error::other(error),
        })?;
    let stream = socket::connect(socket, None, to)
        .await
        .map_err(|source| Failure::Connect { to, source })?;
    let stream = Undecided::new(stream);
    match storage.client_state(stream.stream().as_fd()) {
        Ok(ClientState::Stored) => Ok(stream),
        Ok(ClientState::Idle) => Err(Failure::ClientNotStored("no hook saw the connect")),
        Ok(ClientState::Failed) => Err(Failure::ClientNotStored("the hook could not store it")),
        Err(error) => Err(Failure::Local {
            what: "read back the client's address",
            source: std::io::Error::other(error),
        }),
    }
}
