//! A stream that fails once a stranger has sent too much.
//!
//! In: a byte stream and a limit. Out: the same stream, which counts what is read until the limit is lifted (after the
//! handshake). rustls itself takes up to 64 KB for each handshake message; this bounds all of them together.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts what is read; `None` once lifted.
#[derive(Debug)]
pub(crate) struct Bounded<IO> {
    io: IO,
    left: Option<usize>,
}

#[derive(Debug, thiserror::Error)]
#[error("too many bytes before the peer was known")]
struct Excess;

impl<IO> Bounded<IO> {
    pub(crate) fn new(io: IO, limit: usize) -> Self {
        Self {
            io,
            left: Some(limit),
        }
    }

    /// The peer is known: no limit from here on.
    pub(crate) fn lift(&mut self) {
        self.left = None;
    }

    pub(crate) fn inner(&self) -> &IO {
        &self.io
    }

    pub(crate) fn inner_mut(&mut self) -> &mut IO {
        &mut self.io
    }
}

pub(crate) fn is_excess(error: &io::Error) -> bool {
    matches!(error.get_ref(), Some(inner) if inner.is::<Excess>())
}

impl<IO: AsyncRead + Unpin> AsyncRead for Bounded<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(left) = self.left else {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        match left.checked_sub(buf.filled().len() - before) {
            Some(left) => {
                self.left = Some(left);
                Poll::Ready(Ok(()))
            }
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Excess))),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Bounded<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
