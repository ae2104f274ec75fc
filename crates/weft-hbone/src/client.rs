//! The connecting side: one HTTP/2 connection to a peer's port 15008, and tunnels opened over it.
//!
//! In: an authenticated stream, `CONNECT` requests. Out: tunnels, or errors that say whether to try elsewhere.
//! Deliberately not here: reuse (`pool`) and TLS.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::keepalive::Keepalive;
use crate::police::Policed;
use crate::tunnel::{StreamGuard, Usage};
use crate::{
    ClientLimits, ConnectRequest, ConnectResponse, ConnectionError, HandshakeError, OpenError,
    Refusal, Tunnel,
};

/// A handle on a connection; clones share it. The connection closes itself when every handle and tunnel is gone.
#[derive(Clone)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Shared {
    usage: Arc<Usage>,
    streams_max: usize,
    /// Set by the driver when GOAWAY arrived or the connection ended, and by `close`.
    closing: AtomicBool,
}

/// How much of a connection is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Tunnels open or being opened.
    pub streams: usize,
    /// Tunnels that both sides admit at once.
    pub streams_max: usize,
    /// Tunnels that move bulk data: a new one would wait behind their bytes.
    pub bulk: usize,
    /// No new tunnel is possible: GOAWAY arrived, `close` was called or the connection ended.
    pub closing: bool,
}

/// Starts HTTP/2 on `io`. The second value drives the connection: the caller spawns it, nothing moves without it.
/// It ends with `Ok` after a clean close, and dropping it aborts every tunnel.
///
/// Cancel safety: dropping this future drops `io`.
pub async fn handshake<T>(
    io: T,
    limits: ClientLimits,
) -> Result<
    (
        Connection,
        impl Future<Output = Result<(), ConnectionError>> + Send + 'static,
    ),
    HandshakeError,
>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame_max)
        .max_header_list_size(limits.header_list_max)
        .max_send_buffer_size(limits.send_buffer_max)
        // A tunnel's frames have no header to decode later: no compression state is worth keeping for the peer.
        .header_table_size(4096)
        .enable_push(false)
        .handshake::<_, Bytes>(Policed::client(io))
        .await
        .map_err(ConnectionError::from)?;
    let shared = Arc::new(Shared {
        usage: Arc::default(),
        streams_max: limits.streams_max,
        closing: AtomicBool::new(false),
    });
    let mut keepalive = Keepalive::new(connection.ping_pong(), limits.keepalive);
    let driver_shared = ClosingOnDrop(Arc::clone(&shared));
    let driver = async move {
        let _closing = driver_shared;
        poll_fn(|cx| {
            if let Poll::Ready(end) = std::pin::Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(end.map_err(ConnectionError::from));
            }
            keepalive
                .poll_dead(cx)
                .map(|()| Err(ConnectionError::Keepalive))
        })
        .await
    };
    Ok((Connection { requests, shared }, driver))
}

/// However the driver ends, dropped or done, no further tunnel can be opened.
struct ClosingOnDrop(Arc<Shared>);

impl Drop for ClosingOnDrop {
    fn drop(&mut self) {
        self.0.closing.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    /// Asks the peer for a tunnel and waits for its answer (no time limit here).
    ///
    /// Cancel safety: dropping the future resets the stream with CANCEL.
    pub async fn open(&self, request: &ConnectRequest) -> Result<Tunnel, OpenError> {
        let request = request.to_http()?;
        let guard = StreamGuard::new(Arc::clone(&self.shared.usage));
        if self.shared.closing.load(Ordering::Relaxed) {
            return Err(OpenError::Closing);
        }
        let mut requests = self.requests.clone();
        // Any error up to here means that the connection ended before this request was written.
        let sent = match poll_fn(|cx| requests.poll_ready(cx)).await {
            Ok(()) => requests.send_request(request, false),
            Err(error) => Err(error),
        };
        let (response, send) = sent.map_err(|error| {
            self.shared.closing.store(true, Ordering::Relaxed);
            tracing::debug!(%error, "connection takes no further tunnel");
            OpenError::Closing
        })?;
        let response = response.await.map_err(|error| {
            let error = OpenError::from(error);
            if matches!(error, OpenError::Closing | OpenError::Connection(_)) {
                self.shared.closing.store(true, Ordering::Relaxed);
            }
            error
        })?;
        let (head, recv) = response.into_parts();
        if !head.status.is_success() {
            let refusal = Refusal {
                status: head.status,
                headers: head.headers,
            };
            return Err(OpenError::Refused(Box::new(refusal)));
        }
        Ok(Tunnel::new(
            send,
            recv,
            ConnectResponse::from_http(head.headers),
            guard,
        ))
    }

    /// How much of the connection is in use.
    pub fn load(&self) -> Load {
        let peer_max = self.requests.current_max_send_streams();
        Load {
            streams: self.shared.usage.streams.load(Ordering::Relaxed),
            streams_max: self.shared.streams_max.min(peer_max),
            bulk: self.shared.usage.bulk.load(Ordering::Relaxed),
            closing: self.shared.closing.load(Ordering::Relaxed),
        }
    }

    /// Whether two handles are of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Admits no further tunnel; open ones go on, and the connection closes with the last of them.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
    }
}
