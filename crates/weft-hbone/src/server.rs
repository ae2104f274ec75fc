//! The accepting side: requests of a peer that has already shown its certificate.
//!
//! In: an authenticated stream. Out: `CONNECT` requests, to be accepted or refused one by one.
//! Deliberately not here: policy, and the connection to the application.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::keepalive::Keepalive;
use crate::police::Policed;
use crate::tunnel::{StreamGuard, Usage};
use crate::{
    ConnectRequest, ConnectResponse, ConnectionError, HandshakeError, ServerLimits, Tunnel,
    TunnelError,
};

/// A connection that a peer opened. Nothing moves on it, accepted tunnels included, unless [`Server::next`] is polled.
pub struct Server<T> {
    connection: h2::server::Connection<Policed<T>, Bytes>,
    keepalive: Keepalive,
    usage: Arc<Usage>,
    draining: bool,
}

/// A request that waits for a decision. Dropping it resets the stream.
#[derive(Debug)]
pub struct Incoming {
    request: ConnectRequest,
    recv: RecvStream,
    respond: SendResponse<Bytes>,
    guard: StreamGuard,
}

/// Starts HTTP/2 on `io` as the server.
///
/// Cancel safety: dropping this future drops `io`.
pub async fn serve<T>(io: T, limits: ServerLimits) -> Result<Server<T>, HandshakeError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = h2::server::Builder::new()
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame_max)
        .max_header_list_size(limits.header_list_max)
        .max_send_buffer_size(limits.send_buffer_max)
        .max_concurrent_streams(limits.streams_max)
        .max_pending_accept_reset_streams(limits.pending_resets_max)
        .max_local_error_reset_streams(Some(limits.error_resets_max))
        .handshake::<_, Bytes>(Policed::server(io))
        .await
        .map_err(ConnectionError::from)?;
    let keepalive = Keepalive::new(connection.ping_pong(), limits.keepalive);
    Ok(Server {
        connection,
        keepalive,
        usage: Arc::default(),
        draining: false,
    })
}

impl<T> Server<T>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// The next request that is a well-formed `CONNECT`; others are answered with 400 here. `None`: the connection has
    /// ended cleanly, with every tunnel. An error ends the connection.
    ///
    /// Cancel safe: no request is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Incoming, ConnectionError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Incoming, ConnectionError>>> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if let Some(incoming) = self.admit(request, respond) {
                        return Poll::Ready(Some(Ok(incoming)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let dead = self.keepalive.poll_dead(cx);
                    return dead.map(|()| Some(Err(ConnectionError::Keepalive)));
                }
            }
        }
    }

    fn admit(
        &self,
        request: http::Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Option<Incoming> {
        let (head, recv) = request.into_parts();
        match ConnectRequest::from_http(head) {
            Ok(request) => {
                let guard = StreamGuard::new(Arc::clone(&self.usage));
                Some(Incoming {
                    request,
                    recv,
                    respond,
                    guard,
                })
            }
            Err(status) => {
                send_refusal(&mut respond, status);
                None
            }
        }
    }

    /// Admits no further requests (GOAWAY); [`Server::next`] returns `None` once the open tunnels have ended.
    pub fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.connection.graceful_shutdown();
        }
    }

    /// Tunnels that are open or wait for a decision.
    pub fn streams(&self) -> usize {
        self.usage
            .streams
            .load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Incoming {
    /// What the peer asks for.
    pub fn request(&self) -> &ConnectRequest {
        &self.request
    }

    /// Answers 200. To be called only when the application has accepted its connection.
    pub fn accept(mut self, response: &ConnectResponse) -> Result<Tunnel, TunnelError> {
        let send = self.respond.send_response(response.to_http(), false)?;
        Ok(Tunnel::new(
            send,
            self.recv,
            ConnectResponse::default(),
            self.guard,
        ))
    }

    /// Answers with a status that is not 2xx: 401 denied by policy, 400 bad request, 503 no upstream.
    pub fn refuse(mut self, status: StatusCode) {
        send_refusal(&mut self.respond, status);
    }

    /// Ready when the peer no longer wants an answer; to be watched while the application is being connected.
    pub async fn cancelled(&mut self) {
        let _reason = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

fn send_refusal(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Err(error) = respond.send_response(response, true) {
        tracing::debug!(%error, "peer left before it could be refused");
    }
}
