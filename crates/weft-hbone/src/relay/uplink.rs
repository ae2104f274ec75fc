//! TCP to tunnel: reads as much as the flow has shown to carry, and sends it under the peer's windows.
//!
//! In: readable bytes of the application. Out: DATA, then end of stream.
//! Deliberately not here: the other direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::net::tcp::ReadHalf;
use tokio_util::io::poll_read_buf;

use super::{Counters, Outcome};
use crate::Tunnel;

/// First buffer of a connection: one page less the allocator's bookkeeping holds most requests.
const BUFFER_MIN: usize = 4 << 10;
/// Largest buffer: with its 9-byte frame header exactly four full TLS records of 16 KiB, so that a bulk flow has no
/// short records.
const BUFFER_MAX: usize = (64 << 10) - 9;

/// ```text
/// Reading --bytes--> Sending --all sent--> Reading --FIN--> Done
/// ```
pub(super) struct Uplink {
    buffer: BytesMut,
    /// What the next buffer should hold; doubles with every read that fills it, halves with every read below a quarter.
    size: usize,
    /// Read but not yet admitted by the peer's window.
    unsent: Bytes,
    done: bool,
    failed: bool,
}

impl Uplink {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            size: BUFFER_MIN,
            unsent: Bytes::new(),
            done: false,
            failed: false,
        }
    }

    /// Ready with `Ok` once the end of stream has been sent.
    pub(super) fn poll(
        &mut self,
        tcp: &mut ReadHalf<'_>,
        tunnel: &mut Tunnel,
        counters: &Counters,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Outcome>> {
        while !self.done {
            while !self.unsent.is_empty() {
                let granted = ready!(tunnel.poll_capacity(cx, self.unsent.len()));
                let granted = granted
                    .map_err(Outcome::TunnelFailed)?
                    .min(self.unsent.len());
                tunnel
                    .send(self.unsent.split_to(granted))
                    .map_err(Outcome::TunnelFailed)?;
            }
            let count = ready!(self.poll_read(tcp, cx)).map_err(|error| {
                self.failed = true;
                Outcome::FirstFailed(error.kind())
            })?;
            counters.add_forward(count);
            if count == 0 {
                tunnel.finish().map_err(Outcome::TunnelFailed)?;
                self.buffer = BytesMut::new();
                self.done = true;
            }
            self.adapt(count, tunnel);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it waits for the application and not for the peer's window; false at its end, too.
    pub(super) fn is_reading(&self) -> bool {
        !self.done && self.unsent.is_empty()
    }

    /// Whether nothing more can be read: a failed socket says so once, and looks like an ended one from then on.
    pub(super) fn is_over(&self) -> bool {
        self.done || self.failed
    }

    /// Whether the application has ended its side.
    pub(super) fn has_ended(&self) -> bool {
        self.done
    }

    /// Whether bytes of the application are left that go nowhere.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn poll_read(
        &mut self,
        tcp: &mut ReadHalf<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if tcp.as_ref().poll_read_ready(cx)?.is_pending() {
            self.shrink();
            return Poll::Pending;
        }
        // Half of the size is enough to read on: asking for all of it would allocate at every read.
        if self.buffer.capacity() < self.size / 2 {
            self.buffer.reserve(self.size);
        }
        // Not `try_read_buf`: only the polled form knows that a short read has emptied the socket, which saves the
        // next call that would find nothing.
        let count = ready!(poll_read_buf(Pin::new(tcp), cx, &mut self.buffer))?;
        self.unsent = self.buffer.split().freeze();
        Poll::Ready(Ok(count))
    }

    /// A flow that fills its buffers gets larger ones, and counts as bulk once it fills the largest.
    fn adapt(&mut self, count: usize, tunnel: &mut Tunnel) {
        if count >= self.size / 2 {
            self.size = (self.size * 2).min(BUFFER_MAX);
        } else if count < self.size / 8 {
            self.size = (self.size / 2).max(BUFFER_MIN);
        }
        tunnel.set_bulk(self.size == BUFFER_MAX);
    }

    /// An idle connection keeps no more than the smallest buffer.
    fn shrink(&mut self) {
        if self.buffer.capacity() > BUFFER_MIN {
            self.buffer = BytesMut::new();
        }
    }
}
