//! Reads from the kernel in large pieces for a TLS library that asks for small ones.
//!
//! In: a socket. Out: the same bytes; a bulk flow costs one call for up to eight TLS records instead of one or two for
//! each. Deliberately not here: TLS, and writing (the library writes up to 64 KiB at once already).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// A read that fills this much shows a bulk flow: the TLS library asks for 4 KiB at first and 18 KiB at most.
const SMALL: usize = 4 << 10;
/// Largest piece: eight full TLS records, half of a second-level cache of 256 KiB.
const WIDE: usize = 8 * (16 << 10);

/// Put it between the socket and TLS. Holds no memory while nothing is buffered.
#[derive(Debug)]
pub struct WideReader<T> {
    io: T,
    buffer: BytesMut,
    wide: bool,
}

impl<T> WideReader<T> {
    /// Wraps a socket.
    pub fn new(io: T) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            wide: false,
        }
    }

    /// The socket.
    pub fn get_ref(&self) -> &T {
        &self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WideReader<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.buffer.is_empty() {
            if !this.wide {
                // Small messages go straight through: no second copy on the way of a round trip.
                let before = out.filled().len();
                ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
                this.wide = out.filled().len() - before >= SMALL;
                return Poll::Ready(Ok(()));
            }
            this.buffer.reserve(WIDE);
            let read = poll_read_buf(Pin::new(&mut this.io), cx, &mut this.buffer);
            if !matches!(read, Poll::Ready(Ok(count)) if count >= SMALL) {
                this.wide = false;
            }
            if read.is_pending() {
                this.buffer = BytesMut::new();
            }
            ready!(read)?;
        }
        let count = this.buffer.len().min(out.remaining());
        out.put_slice(&this.buffer[..count]);
        this.buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WideReader<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
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
