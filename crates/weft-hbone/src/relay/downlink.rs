//! Tunnel to TCP: gathers the chunks that are there, writes them at once, and opens the peer's window by what was
//! written.
//!
//! In: DATA of the peer. Out: bytes to the application, then FIN.
//! Deliberately not here: the other direction.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use super::{Counters, Outcome, shutdown_write};
use crate::Tunnel;

/// Chunks written by one call.
const CHUNKS_MAX: usize = 16;

/// ```text
/// Receiving <--> Writing --end of stream and all written: FIN--> Done
/// ```
pub(super) struct Downlink {
    chunks: VecDeque<Bytes>,
    ended: bool,
    done: bool,
}

impl Downlink {
    pub(super) fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            ended: false,
            done: false,
        }
    }

    /// Ready with `Ok` once FIN has been sent to the application.
    pub(super) fn poll(
        &mut self,
        tcp: &mut TcpStream,
        tunnel: &mut Tunnel,
        counters: &Counters,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Outcome>> {
        while !self.done {
            let received = self.poll_gather(tunnel, cx)?;
            if self.chunks.is_empty() {
                ready!(received);
                shutdown_write(tcp).map_err(|e| Outcome::FirstFailed(e.kind()))?;
                self.done = true;
                break;
            }
            let count =
                ready!(self.poll_write(tcp, cx)).map_err(|e| Outcome::FirstFailed(e.kind()))?;
            self.advance(count);
            tunnel.release(count);
            counters.add_backward(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what has arrived, up to a bound. Ready: end of stream was reached, or the bound.
    fn poll_gather(
        &mut self,
        tunnel: &mut Tunnel,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Outcome>> {
        while !self.ended && self.chunks.len() < CHUNKS_MAX {
            match ready!(tunnel.poll_recv(cx)).map_err(Outcome::TunnelFailed)? {
                Some(chunk) if chunk.is_empty() => {}
                Some(chunk) => self.chunks.push_back(chunk),
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); CHUNKS_MAX];
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
        }
        Pin::new(tcp).poll_write_vectored(cx, &slices[..self.chunks.len()])
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                chunk.advance(count);
                return;
            }
            count -= chunk.len();
            self.chunks.pop_front();
        }
    }
}
