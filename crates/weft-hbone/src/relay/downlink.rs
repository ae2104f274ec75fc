//! Tunnel to TCP: gathers the chunks that are there, writes them at once, and opens the peer's window by what was
//! written.
//!
//! In: DATA of the peer. Out: bytes to the application, then FIN.
//! Deliberately not here: the other direction.

use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::farewell::Rest;
use super::queue::Queue;
use super::uplink::Uplink;
use super::{Counters, Outcome, shutdown_write};
use crate::Tunnel;

/// ```text
/// Receiving <--> Writing --end of stream and all written: FIN--> Done
/// ```
pub(super) struct Downlink {
    queue: Queue,
    ended: bool,
    done: bool,
}

impl Downlink {
    pub(super) fn new() -> Self {
        Self {
            queue: Queue::default(),
            ended: false,
            done: false,
        }
    }

    /// Ready with `Ok` once FIN has been sent to the application.
    pub(super) fn poll(
        &mut self,
        tcp: &TcpStream,
        tunnel: &mut Tunnel,
        counters: &Counters,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Outcome>> {
        while !self.done {
            let received = self.poll_gather(tunnel, cx)?;
            if self.queue.is_empty() {
                ready!(received);
                shutdown_write(tcp).map_err(|e| Outcome::FirstFailed(e.kind()))?;
                self.done = true;
                break;
            }
            let count = ready!(self.queue.poll_write(tcp, cx))
                .map_err(|e| Outcome::FirstFailed(e.kind()))?;
            tunnel.release(count);
            counters.add_backward(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the peer's end of stream has been seen.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What the application has not been given yet.
    pub(super) fn into_rest(self, uplink: &Uplink) -> Rest {
        Rest {
            queue: self.queue,
            ended: self.ended,
            application_ended: uplink.has_ended(),
            lost: uplink.has_unsent(),
        }
    }

    /// Takes all that has arrived, also while the application does not read: what it may hold is bounded by the
    /// stream's window, which opens only by what was written, and chunks left with the library count against a budget
    /// of the whole connection. Ready at the end of stream.
    fn poll_gather(
        &mut self,
        tunnel: &mut Tunnel,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Outcome>> {
        while !self.ended {
            match ready!(tunnel.poll_recv(cx)).map_err(Outcome::TunnelFailed)? {
                Some(chunk) => self.queue.push(chunk),
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}
