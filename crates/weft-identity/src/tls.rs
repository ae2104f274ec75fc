//! Mutually authenticated TLS 1.3 over any byte stream.
//!
//! In: a stream, our [`Credentials`], and (client) the identities that may answer. Out: a [`TlsStream`] that knows its peer.
//! TLS 1.3 only, ALPN exactly `h2`, no SNI, no resumption, no early data: the wire form of HBONE.
//! Not here: dialling, pooling, and what is spoken inside.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_types::SpiffeId;

use crate::credentials::Credentials;
use crate::san;
use crate::verify::ChainError;

mod bounded;
mod stream;

pub use crate::credentials::ALPN;
use bounded::Bounded;
pub use stream::TlsStream;

/// Longest handshake. Istio's and Envoy's limit is the same; a healthy one takes a millisecond.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes that a peer may send before it is known: a hello with a hybrid key share (2 KB), a chain of
/// [`CHAIN_MAX`](crate::verify::CHAIN_MAX) RSA-4096 certificates (2 KB each), signature and record overhead, doubled.
pub const HANDSHAKE_BYTES_MAX: usize = 40 * 1024;

/// Why no authenticated stream came about.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The handshake took longer than [`HANDSHAKE_TIMEOUT`].
    #[error("no TLS handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// The peer's certificate does not prove a workload that may be there.
    #[error("peer refused: {0}")]
    Peer(ChainError),
    /// The peer's certificate is outside its time; the clocks may differ.
    #[error("peer refused: its certificate is expired or not yet valid")]
    PeerValidity,
    /// The peer's certificate does not chain to a root of ours.
    #[error("peer refused: its certificate comes from an unknown authority")]
    PeerAuthority,
    /// The peer sent an alert: it refused us, or what we offered.
    #[error("the peer ended the handshake with alert {0}")]
    Alert(String),
    /// The peer speaks TLS, but not `h2` inside.
    #[error("the peer did not agree on ALPN h2")]
    Alpn,
    /// The peer does not speak TLS 1.3 properly, or sends more than [`HANDSHAKE_BYTES_MAX`] before it is known.
    #[error("bad TLS from the peer: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("connection lost during the handshake: {0}")]
    Io(io::Error),
    /// Our own credentials cannot be used.
    #[error("own credentials cannot be used: {0}")]
    Own(rustls::Error),
}

/// Secures an outgoing connection; only one of `expected` may answer.
///
/// In TLS 1.3 the client is done before the server has judged its certificate: when the server refuses us, that shows as
/// an error of the first read. Cancel safe: dropping the future closes the connection.
pub async fn connect<IO>(
    credentials: &Credentials,
    expected: &[SpiffeId],
    io: IO,
) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connect_with(client_config(credentials, expected)?, io).await
}

/// Like [`connect`], with a configuration from [`client_config`].
pub async fn connect_with<IO>(config: Arc<ClientConfig>, io: IO) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // Never sent (SNI is off) and never compared (the verifier looks at the URI name only).
    let name = ServerName::try_from("peer.invalid").expect("a legal literal");
    let handshake = TlsConnector::from(config).connect(name, Bounded::new(io, HANDSHAKE_BYTES_MAX));
    let done = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let stream = done.map_err(|_| TlsError::Timeout)?.map_err(explain)?;
    authenticated(stream.into())
}

/// Secures an incoming connection; any workload of the trust domain may come.
///
/// Cancel safe: dropping the future closes the connection.
pub async fn accept<IO>(credentials: &Credentials, io: IO) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    accept_with(server_config(credentials)?, io).await
}

/// Like [`accept`], with a configuration from [`server_config`].
pub async fn accept_with<IO>(config: Arc<ServerConfig>, io: IO) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(config).accept(Bounded::new(io, HANDSHAKE_BYTES_MAX));
    let done = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let stream = done.map_err(|_| TlsError::Timeout)?.map_err(explain)?;
    authenticated(stream.into())
}

/// The client configuration for these credentials and expected identities; made once for each pair, then shared.
pub fn client_config(
    credentials: &Credentials,
    expected: &[SpiffeId],
) -> Result<Arc<ClientConfig>, TlsError> {
    credentials.client_config(expected).map_err(TlsError::Own)
}

/// The server configuration for these credentials; made once, then shared.
pub fn server_config(credentials: &Credentials) -> Result<Arc<ServerConfig>, TlsError> {
    credentials.server_config().map_err(TlsError::Own)
}

fn authenticated<IO>(
    mut stream: tokio_rustls::TlsStream<Bounded<IO>>,
) -> Result<TlsStream<IO>, TlsError> {
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        return Err(TlsError::Alpn);
    }
    // Both verifiers have accepted this very leaf; it is read again because rustls has no place to put their answer.
    let peer = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or(ChainError::Length(0))
        .and_then(|leaf| Ok(san::identity_of(&san::parse(leaf)?)?))
        .map_err(TlsError::Peer)?;
    match &mut stream {
        tokio_rustls::TlsStream::Client(stream) => stream.get_mut().0.lift(),
        tokio_rustls::TlsStream::Server(stream) => stream.get_mut().0.lift(),
    }
    Ok(TlsStream::new(stream, peer))
}

/// Finds who is to blame in what tokio-rustls wraps into an I/O error.
fn explain(error: io::Error) -> TlsError {
    use rustls::{CertificateError, Error as Tls};
    let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Tls>())
    else {
        if bounded::is_excess(&error) {
            return TlsError::Protocol(error.to_string());
        }
        return TlsError::Io(error);
    };
    match tls {
        Tls::InvalidCertificate(CertificateError::Other(other)) => {
            match other.0.downcast_ref::<ChainError>() {
                Some(reason) => TlsError::Peer(reason.clone()),
                None => TlsError::Protocol(tls.to_string()),
            }
        }
        Tls::InvalidCertificate(CertificateError::Expired | CertificateError::NotValidYet) => {
            TlsError::PeerValidity
        }
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => TlsError::PeerAuthority,
        Tls::NoCertificatesPresented => TlsError::Peer(ChainError::Length(0)),
        Tls::NoApplicationProtocol => TlsError::Alpn,
        Tls::AlertReceived(alert) => TlsError::Alert(format!("{alert:?}")),
        other => TlsError::Protocol(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
