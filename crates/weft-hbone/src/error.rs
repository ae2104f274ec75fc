//! What can go wrong with a tunnel, by blame and by what the caller should do.
//!
//! In: errors of the HTTP/2 library. Out: enums that name who is at fault and whether another try makes sense.
//! Deliberately not here: mapping to access-log flags and statuses (the proxy's).

use std::io;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};

/// An HTTP/2 error code (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResetCode(pub u32);

impl ResetCode {
    /// Nothing was wrong; as an answer to a request: no more of it is needed.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// Our fault.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// Nothing was processed: may be tried again (RFC 9113 section 8.7).
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The tunnel is no longer wanted.
    pub const CANCEL: Self = Self(0x8);
    /// The TCP connection behind the tunnel was reset or failed (RFC 9113 section 8.5).
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer asks for more than it may.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
}

impl std::fmt::Display for ResetCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(h2::Reason::from(self.0).description())
    }
}

/// A connection did not come to be, after TLS was up: the peer does not speak HTTP/2, or is gone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("http/2 handshake failed: {0}")]
pub struct HandshakeError(#[from] pub ConnectionError);

/// Why a whole connection ended otherwise than by agreement.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The peer did not answer a PING in time: the network or the peer is dead.
    #[error("peer did not answer a keepalive ping in time")]
    Keepalive,
    /// The peer broke the protocol or a limit; it was told so with GOAWAY.
    #[error("peer broke the protocol: {0}")]
    Protocol(ResetCode),
    /// The peer closed the connection with an error code.
    #[error("peer closed the connection: {0}")]
    GoAway(ResetCode),
    /// The stream below failed or ended early.
    #[error("connection failed: {0}")]
    Io(Arc<io::Error>),
}

/// The peer's answer to a request when it is not 2xx.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// 401 denied by policy, 400 bad request, 503 no upstream, and whatever else a peer sends.
    pub status: StatusCode,
    /// The answer's headers.
    pub headers: HeaderMap,
}

/// Why a tunnel was not opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer answered and said no: do not try again at the same place.
    #[error("peer refused the tunnel with status {}", .0.status.as_u16())]
    Refused(Box<Refusal>),
    /// The connection was closing or closed, or the stream was refused unprocessed: nothing reached the destination,
    /// another connection may be tried at once.
    #[error("connection is going away, nothing was sent")]
    Closing,
    /// The peer reset the stream instead of answering.
    #[error("peer reset the tunnel before answering: {0}")]
    Reset(ResetCode),
    /// The connection failed while the answer was awaited: the destination may have been reached.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// A header value of ours is not valid HTTP.
    #[error("request is not valid http: check the names of the workload and service")]
    Invalid,
}

impl OpenError {
    /// Whether the destination cannot have seen anything, so that another connection may be tried.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Closing)
    }
}

/// Why an open tunnel ended otherwise than by both sides' end of stream. Always to be passed on as a reset.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// The peer reset the stream.
    #[error("peer reset the tunnel: {0}")]
    Reset(ResetCode),
    /// We reset the stream, or our side of it was already finished.
    #[error("tunnel is already closed")]
    Closed,
    /// The whole connection is gone.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl From<TunnelError> for io::Error {
    fn from(error: TunnelError) -> Self {
        let kind = match &error {
            TunnelError::Reset(_) | TunnelError::Connection(_) => io::ErrorKind::ConnectionReset,
            TunnelError::Closed => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

impl From<h2::Reason> for ResetCode {
    fn from(reason: h2::Reason) -> Self {
        Self(reason.into())
    }
}

impl From<ResetCode> for h2::Reason {
    fn from(code: ResetCode) -> Self {
        Self::from(code.0)
    }
}

impl From<h2::Error> for ConnectionError {
    fn from(error: h2::Error) -> Self {
        let code = error
            .reason()
            .map_or(ResetCode::INTERNAL_ERROR, ResetCode::from);
        if error.is_io() {
            let error = error
                .into_io()
                .unwrap_or_else(|| io::ErrorKind::Other.into());
            Self::Io(Arc::new(error))
        } else if error.is_remote() {
            Self::GoAway(code)
        } else {
            Self::Protocol(code)
        }
    }
}

impl From<h2::Error> for TunnelError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(code) if error.is_reset() && error.is_remote() => Self::Reset(code.into()),
            Some(_) if error.is_reset() => Self::Closed,
            None if !error.is_io() => Self::Closed,
            _ => Self::Connection(error.into()),
        }
    }
}

impl From<h2::Error> for OpenError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Self::Closing,
            Some(code) if error.is_reset() => Self::Reset(code.into()),
            // The library reports GOAWAY only to streams above the last one that the peer says it processed.
            Some(_) if error.is_go_away() && error.is_remote() => Self::Closing,
            _ => Self::Connection(error.into()),
        }
    }
}
