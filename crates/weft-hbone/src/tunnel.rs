//! One open tunnel: a byte stream with half-close in both directions and resets that stay resets.
//!
//! In: an accepted `CONNECT` stream. Out: chunks of bytes both ways, under the peer's and our own flow control.
//! Deliberately not here: TCP (`relay`), and the connection that carries the stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::SEND_BUFFER_MAX;
use crate::{ConnectResponse, ResetCode, TunnelError};

/// Streams of one connection and how many of them move bulk data; shared by the connection's handles and its tunnels.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) streams: AtomicUsize,
    pub(crate) bulk: AtomicUsize,
}

/// Counts one stream for as long as it lives.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    usage: Arc<Usage>,
    bulk: bool,
}

impl StreamGuard {
    pub(crate) fn new(usage: Arc<Usage>) -> Self {
        usage.streams.fetch_add(1, Ordering::Relaxed);
        Self { usage, bulk: false }
    }

    fn set_bulk(&mut self, bulk: bool) {
        if bulk != self.bulk {
            self.bulk = bulk;
            let delta = if bulk { 1 } else { usize::MAX };
            self.usage.bulk.fetch_add(delta, Ordering::Relaxed);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.set_bulk(false);
        self.usage.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open tunnel. Dropping one that is not finished in both directions resets the stream with CANCEL.
#[derive(Debug)]
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    response: ConnectResponse,
    guard: StreamGuard,
    /// A chunk that `AsyncRead` has not handed out in full.
    unread: Bytes,
    send_done: bool,
    recv_done: bool,
}

impl Tunnel {
    pub(crate) fn new(
        send: SendStream<Bytes>,
        recv: RecvStream,
        response: ConnectResponse,
        guard: StreamGuard,
    ) -> Self {
        Self {
            send,
            recv,
            response,
            guard,
            unread: Bytes::new(),
            send_done: false,
            recv_done: false,
        }
    }

    /// What the server said about the destination; empty on the server's own side.
    pub fn response(&self) -> &ConnectResponse {
        &self.response
    }

    /// The next chunk; `None` is the peer's clean end of stream. The peer's window grows again only by
    /// [`Tunnel::release`], once the chunk has been passed on.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, TunnelError>> {
        if self.recv_done {
            return Poll::Ready(Ok(None));
        }
        match ready!(self.recv.poll_data(cx)) {
            Some(Ok(chunk)) => Poll::Ready(Ok(Some(chunk))),
            Some(Err(error)) => Poll::Ready(Err(error.into())),
            // Trailers have no meaning in a tunnel (RFC 9113 section 8.5) and are dropped with the stream.
            None => {
                self.recv_done = true;
                Poll::Ready(Ok(None))
            }
        }
    }

    /// Gives `bytes` that were received and passed on back to the peer's window.
    pub fn release(&mut self, bytes: usize) {
        if self.recv.flow_control().release_capacity(bytes).is_err() {
            tracing::debug!("released more of a window than was used");
        }
    }

    /// Waits until some of `want` bytes may be sent, and says how many. Several calls ask for the largest, not the sum.
    pub fn poll_capacity(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<usize, TunnelError>> {
        loop {
            self.send.reserve_capacity(want);
            let capacity = self.send.capacity();
            if capacity > 0 {
                return Poll::Ready(Ok(capacity));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(TunnelError::Closed)),
            }
        }
    }

    /// Ready when everything queued has been handed to the connection, or never where the peer's window is smaller than the
    /// send buffer: the library does not tell, so this waits for the whole of the buffer to be free.
    pub(crate) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.send.reserve_capacity(SEND_BUFFER_MAX);
            if self.send.capacity() >= SEND_BUFFER_MAX {
                return Poll::Ready(());
            }
            let Some(Ok(_)) = ready!(self.send.poll_capacity(cx)) else {
                return Poll::Ready(());
            };
        }
    }

    /// Queues `chunk`, which must be no longer than the capacity that [`Tunnel::poll_capacity`] granted.
    pub fn send(&mut self, chunk: Bytes) -> Result<(), TunnelError> {
        self.send.send_data(chunk, false).map_err(Into::into)
    }

    /// Ends our direction cleanly; the other one goes on.
    pub fn finish(&mut self) -> Result<(), TunnelError> {
        if self.send_done {
            return Ok(());
        }
        self.send_done = true;
        self.send.reserve_capacity(0);
        self.send.send_data(Bytes::new(), true).map_err(Into::into)
    }

    /// Ends both directions abnormally. What is queued but not yet sent is lost, as with TCP's RST.
    pub fn reset(&mut self, code: ResetCode) {
        self.send_done = true;
        self.recv_done = true;
        self.send.send_reset(code.into());
    }

    /// Ready when the peer reset the stream or the connection failed; wakes also while nothing is received.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<TunnelError> {
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(TunnelError::Reset(reason.into())),
            Err(error) => Poll::Ready(error.into()),
        }
    }

    /// Tells the pool that this stream moves bulk data, so that new tunnels better take another connection.
    pub fn set_bulk(&mut self, bulk: bool) {
        self.guard.set_bulk(bulk);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.poll_recv(cx))? {
                Some(chunk) => this.unread = chunk,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.unread.len().min(out.remaining());
        out.put_slice(&this.unread[..count]);
        this.unread.advance(count);
        this.release(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.poll_capacity(cx, data.len()))?.min(data.len());
        self.send(Bytes::copy_from_slice(&data[..count]))?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's driver writes whatever is queued as soon as the peer takes it.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish().map_err(Into::into))
    }
}
