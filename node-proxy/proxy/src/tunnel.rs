//! Making a tunnel connection from a pod to a peer's port 15008, for the pool of a worker.
//!
//! In: who speaks, from where, to whom, and who may answer. Out: an HTTP/2 connection whose peer has proven its identity,
//! and tunnels that outlast the death of the peer's proxy as long as nothing was sent through them.
//! Not here: when a new one is needed (`weft-hbone`'s pool), what goes through it (`outbound`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_hbone::{
    ClientLimits, ConnectRequest, Connection, ConnectionError, Connector, HandshakeError,
    OpenError, Pool, PoolError, Tunnel,
};
use weft_identity::TlsError;
use weft_node_api::Family;
use weft_runtime::spawn;
use weft_types::{PodUid, SpiffeId};

use crate::failure::TunnelConnectError;
use crate::pods::NoSocket;
use crate::shared::Shared;
use crate::socket;

/// What connections may be shared by: two pods never share one, even of one service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TunnelKey {
    /// The pod that speaks.
    pub(crate) pod: PodUid,
    /// Its identity.
    pub(crate) identity: SpiffeId,
    /// Its address that the tunnel comes from, so that NetworkPolicy sees pod to pod.
    pub(crate) source: IpAddr,
    /// Only one of these may answer.
    pub(crate) expected: Arc<[SpiffeId]>,
    /// Address and HBONE port of the peer.
    pub(crate) to: SocketAddr,
}

/// The connector of one worker's pool.
pub(crate) struct TunnelConnector(pub(crate) Arc<Shared>);

/// The tunnels of one worker.
pub(crate) type Tunnels = Pool<TunnelKey, TunnelConnector>;

impl Connector<TunnelKey> for TunnelConnector {
    type Error = TunnelConnectError;

    async fn connect(&self, key: TunnelKey) -> Result<Connection, TunnelConnectError> {
        let shared = &self.0;
        let pod = shared.pods.table().by_uid(&key.pod).cloned();
        let pod = pod.ok_or(NoSocket::PodLeft)?;
        let credentials = shared.identities.credentials(&key.identity).await?;
        let socket = pod.stock.take(family_of(key.to.ip())).await?;
        let to = key.to;
        let stream = socket::connect(socket, Some(key.source), to)
            .await
            .map_err(|source| TunnelConnectError::Connect { to, source })?;
        let stream = weft_identity::connect(&credentials, &key.expected, stream)
            .await
            .map_err(|source| TunnelConnectError::Tls { to, source })?;
        let (connection, driver) = weft_hbone::handshake(stream, ClientLimits::default()).await?;
        spawn(&shared.background, "tunnel", async move {
            tokio::select! {
                // Its sockets would keep a deleted network namespace alive.
                () = pod.life.stopped() => {}
                end = driver => {
                    if let Err(error) = end {
                        tracing::debug!(%error, %to, "tunnel connection ended");
                    }
                }
            }
        });
        Ok(connection)
    }
}

/// Tries of one connection to get a tunnel from a peer whose proxy goes away: each connection that this worker still has to
/// the dead one, rarely more than two, costs a try, and so does one that it accepted while it died.
const TRIES_MAX: usize = 4;

/// Opens a tunnel. Where the peer's proxy dies before it has answered, its successor is asked: the application's bytes are
/// sent after the answer only, so the destination can have seen a connection without a byte at most.
///
/// Cancel safety: as [`Pool::open`].
pub(crate) async fn open(
    tunnels: &Tunnels,
    key: &TunnelKey,
    request: &ConnectRequest,
) -> Result<Tunnel, PoolError<TunnelConnectError>> {
    for _ in 1..TRIES_MAX {
        match tunnels.open(key, request).await {
            Err(error) if is_loss(&error) => {
                tracing::debug!(%error, to = %key.to, "the peer went away before it answered, trying again");
            }
            done => return done,
        }
    }
    tunnels.open(key, request).await
}

/// Whether the connection broke before an answer. A peer that refuses, answers nothing in time, or is not who it should be
/// has not gone away.
fn is_loss(error: &PoolError<TunnelConnectError>) -> bool {
    match error {
        PoolError::Open(OpenError::Connection(ConnectionError::Io(_))) => true,
        PoolError::Connect(error) => matches!(
            **error,
            TunnelConnectError::Tls {
                source: TlsError::Io(_),
                ..
            } | TunnelConnectError::Http(HandshakeError(ConnectionError::Io(_)))
        ),
        PoolError::Open(_) | PoolError::Full(_) => false,
    }
}

/// The family of an address.
pub(crate) fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}
