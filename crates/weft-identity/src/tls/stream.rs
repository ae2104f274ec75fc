//! A stream whose peer has proven who it is.
//!
//! In: a finished handshake. Out: plain bytes both ways, and the peer's identity. `shutdown` sends close_notify; an end of
//! stream without one is an error of the read (a truncation is never mistaken for a clean end).

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_types::SpiffeId;

use super::bounded::Bounded;
use crate::credentials::validity;
use crate::san;

/// A mutually authenticated stream.
pub struct TlsStream<IO> {
    inner: tokio_rustls::TlsStream<Bounded<IO>>,
    peer: SpiffeId,
}

impl<IO> TlsStream<IO> {
    pub(super) fn new(inner: tokio_rustls::TlsStream<Bounded<IO>>, peer: SpiffeId) -> Self {
        Self { inner, peer }
    }

    /// Whom the peer has proven to be.
    pub fn peer_identity(&self) -> &SpiffeId {
        &self.peer
    }

    /// When the peer's certificate ends; the stream itself lives on.
    pub fn peer_not_after(&self) -> Option<SystemTime> {
        let leaf = self.inner.get_ref().1.peer_certificates()?.first()?;
        Some(validity(&san::parse(leaf).ok()?).1)
    }

    /// The stream below, for socket options and addresses.
    pub fn get_ref(&self) -> &IO {
        self.inner.get_ref().0.inner()
    }

    /// The stream below.
    pub fn get_mut(&mut self) -> &mut IO {
        match &mut self.inner {
            tokio_rustls::TlsStream::Client(stream) => stream.get_mut().0.inner_mut(),
            tokio_rustls::TlsStream::Server(stream) => stream.get_mut().0.inner_mut(),
        }
    }

    /// Name of the agreed cipher suite, for telemetry.
    pub fn cipher_suite(&self) -> &'static str {
        self.inner
            .get_ref()
            .1
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or("unknown")
    }

    /// Name of the agreed key exchange, for telemetry.
    pub fn key_exchange(&self) -> String {
        self.inner
            .get_ref()
            .1
            .negotiated_key_exchange_group()
            .map_or_else(String::new, |group| format!("{:?}", group.name()))
    }
}

impl<IO> fmt::Debug for TlsStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("peer", &self.peer.to_string())
            .finish_non_exhaustive()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
