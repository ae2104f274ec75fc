//! TCP to TCP: for peers without a tunnel between them (same node, or outside the mesh).
//!
//! In: two sockets. Out: the same guarantees as a relay over a tunnel.
//! Deliberately not here: anything about HTTP/2.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::{Counters, Outcome, RelayEnd, reset_on_close, shutdown_write};

/// First buffer of a direction.
const BUFFER_MIN: usize = 4 << 10;
/// Largest buffer of a direction: beyond it a copy no longer fits the second-level cache beside the kernel's.
const BUFFER_MAX: usize = 128 << 10;

/// Carries bytes between two TCP connections until both directions have ended or one end fails.
///
/// Cancel safety: dropping the future resets both ends, also before it was first polled.
pub fn join(
    first: TcpStream,
    second: TcpStream,
    counters: &Counters,
) -> impl Future<Output = RelayEnd> + Send {
    let pair = Pair {
        first,
        second,
        clean: false,
    };
    async move {
        let mut pair = pair;
        let (mut forward, mut backward) = (Direction::new(), Direction::new());
        let outcome = poll_fn(|cx| {
            let (first, second) = (&mut pair.first, &mut pair.second);
            let there = forward.poll(first, second, &|n| counters.add_forward(n), cx);
            let back = backward.poll(second, first, &|n| counters.add_backward(n), cx);
            outcome_of(there, back)
        })
        .await;
        pair.clean = outcome.is_finished();
        RelayEnd {
            outcome,
            forward: counters.forward(),
            backward: counters.backward(),
        }
    }
}

type Progress = Poll<Result<(), Side>>;

fn outcome_of(there: Progress, back: Progress) -> Poll<Outcome> {
    match (there, back) {
        (Poll::Ready(Err(Side::Source(e))), _) | (_, Poll::Ready(Err(Side::Target(e)))) => {
            Poll::Ready(Outcome::FirstFailed(e))
        }
        (Poll::Ready(Err(Side::Target(e))), _) | (_, Poll::Ready(Err(Side::Source(e)))) => {
            Poll::Ready(Outcome::SecondFailed(e))
        }
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Outcome::Finished),
        _ => Poll::Pending,
    }
}

struct Pair {
    first: TcpStream,
    second: TcpStream,
    clean: bool,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !self.clean {
            reset_on_close(&self.first);
            reset_on_close(&self.second);
        }
    }
}

/// Which socket of a direction failed.
enum Side {
    Source(io::ErrorKind),
    Target(io::ErrorKind),
}

/// ```text
/// Reading --bytes--> Writing --all written--> Reading --FIN: FIN--> Done
/// ```
struct Direction {
    /// Empty while nothing is readable: an idle connection holds no memory but this struct.
    buffer: Vec<u8>,
    size: usize,
    start: usize,
    end: usize,
    done: bool,
}

impl Direction {
    fn new() -> Self {
        Self {
            buffer: Vec::new(),
            size: BUFFER_MIN,
            start: 0,
            end: 0,
            done: false,
        }
    }

    fn poll(
        &mut self,
        source: &mut TcpStream,
        target: &mut TcpStream,
        count: &dyn Fn(usize),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        while !self.done {
            while self.start < self.end {
                let pending = &self.buffer[self.start..self.end];
                let written = ready!(Pin::new(&mut *target).poll_write(cx, pending));
                let written = written.map_err(|e| Side::Target(e.kind()))?;
                self.start += written;
                count(written);
            }
            let read = ready!(self.poll_read(source, cx)).map_err(|e| Side::Source(e.kind()))?;
            if read == 0 {
                shutdown_write(target).map_err(|e| Side::Target(e.kind()))?;
                self.buffer = Vec::new();
                self.done = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(
        &mut self,
        source: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if source.poll_read_ready(cx)?.is_pending() {
            if self.buffer.len() > BUFFER_MIN {
                self.buffer = Vec::new();
            }
            return Poll::Pending;
        }
        if self.buffer.len() < self.size {
            self.buffer = vec![0; self.size];
        }
        // Not `try_read`: only the polled form knows that a short read has emptied the socket.
        let mut target = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(source).poll_read(cx, &mut target))?;
        let count = target.filled().len();
        (self.start, self.end) = (0, count);
        if count == self.buffer.len() {
            self.size = (self.size * 2).min(BUFFER_MAX);
        } else if count < self.size / 8 {
            self.size = (self.size / 2).max(BUFFER_MIN);
        }
        Poll::Ready(Ok(count))
    }
}
