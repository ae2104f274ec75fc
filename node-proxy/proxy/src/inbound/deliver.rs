//! Connects to the application over the pod's own loopback, so that it sees the client as its peer.
//!
//! In: a socket of the pod's stock, the client's address. Out: a connected stream whose peer has taken the client's
//! address over, or a failure. Never a stream that the application would take for somebody else's.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::Instant;
use weft_bpf::{ClientState, SocketStorage};
use weft_runtime::Backoff;
use weft_types::ClientAddr;

use crate::failure::Failure;
use crate::pods::Pod;
use crate::shared::Shared;
use crate::socket::{self, Undecided};
use crate::tunnel::family_of;

/// How long a delivery waits for others of its port and pod; a connect may take as long.
const TURN_WAIT: Duration = Duration::from_secs(10);
/// How long the hooks may not know a pod that this proxy serves already. Proxy and agent are told at once that its sockets are
/// ready; the agent's next step makes it known, within a millisecond on a node with a processor to spare.
const UNKNOWN_MAX: Duration = Duration::from_secs(2);
/// First and longest wait between two tries: each may be seen by the application, as a connection without a byte.
const UNKNOWN_WAIT_MIN: Duration = Duration::from_millis(5);
const UNKNOWN_WAIT_MAX: Duration = Duration::from_millis(200);
/// What the hook says of a pod that it does not know, and of one of too many.
const NOT_STORED: &str = "the hook could not store it";

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
    let _turn = pod.deliveries.turn(to.port(), TURN_WAIT).await?;
    let mut waits = Backoff::random(UNKNOWN_WAIT_MIN, UNKNOWN_WAIT_MAX);
    let end = Instant::now() + UNKNOWN_MAX;
    loop {
        match try_deliver(&storage, pod, to, client).await {
            Err(Failure::ClientNotStored(NOT_STORED)) if Instant::now() < end => {
                tracing::debug!(%to, "the hooks do not know the pod yet, trying again");
                tokio::time::sleep(waits.next_wait()).await;
            }
            done => return done,
        }
    }
}

async fn try_deliver(
    storage: &SocketStorage,
    pod: &Pod,
    to: SocketAddr,
    client: ClientAddr,
) -> Result<Undecided, Failure> {
    let socket = pod.stock.take(family_of(to.ip())).await?;
    socket::reset_when_killed(&socket);
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
        Ok(ClientState::Failed) => Err(Failure::ClientNotStored(NOT_STORED)),
        Err(error) => Err(Failure::Local {
            what: "read back the client's address",
            source: std::io::Error::other(error),
        }),
    }
}
