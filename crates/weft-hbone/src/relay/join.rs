//! TCP to TCP: for peers without a tunnel between them (same node, or outside the mesh).
//!
//! In: two sockets. Out: the same guarantees as a relay over a tunnel.
//! Deliberately not here: anything about HTTP/2.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::farewell::{Rest, farewell};
use super::queue::Queue;
use super::{Counters, Outcome, RelayEnd, reset_on_close, shutdown_write};

/// First buffer of a direction.
const BUFFER_MIN: usize = 4 << 10;
/// Largest buffer of a direction: beyond it a copy no longer fits the second-level cache beside the kernel's.
const BUFFER_MAX: usize = 128 << 10;

/// Carries bytes between two TCP connections until both directions have ended or one end fails.
///
/// Both ends should have a zero linger, for the reason given at [`relay`](super::relay).
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
        let (outcome, forward, backward) = carry(&mut pair, counters).await;
        // What had arrived from the end that failed still belongs to the other one. Boxed: it is rare.
        match &outcome {
            Outcome::FirstFailed(_) => {
                let rest = forward.into_rest(&backward);
                let written = |count| counters.add_forward(count);
                Box::pin(farewell(&mut pair.second, rest, written)).await;
            }
            Outcome::SecondFailed(_) => {
                let rest = backward.into_rest(&forward);
                let written = |count| counters.add_backward(count);
                Box::pin(farewell(&mut pair.first, rest, written)).await;
            }
            Outcome::Finished => pair.clean = true,
            Outcome::TunnelFailed(_) => {}
        }
        RelayEnd {
            outcome,
            forward: counters.forward(),
            backward: counters.backward(),
        }
    }
}

/// Carries until one end fails or both have ended.
async fn carry(pair: &mut Pair, counters: &Counters) -> (Outcome, Direction, Direction) {
    let (mut forward, mut backward) = (Direction::new(), Direction::new());
    let (mut first_read, first_write) = pair.first.split();
    let (mut second_read, second_write) = pair.second.split();
    let mut first_failure = pin!(first_write.ready(Interest::ERROR));
    let mut second_failure = pin!(second_write.ready(Interest::ERROR));
    let outcome = poll_fn(|cx| {
        let target = second_write.as_ref();
        let there = forward.poll(&mut first_read, target, &|n| counters.add_forward(n), cx);
        let target = first_write.as_ref();
        let back = backward.poll(&mut second_read, target, &|n| counters.add_backward(n), cx);
        let outcome = outcome_of(there, back);
        if outcome.is_ready() {
            return outcome;
        }
        // A reset shows where an end is read; while nothing is read from it, only here.
        let reset = io::ErrorKind::ConnectionReset;
        if !forward.is_reading() && first_failure.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Outcome::FirstFailed(reset));
        }
        if !backward.is_reading() && second_failure.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Outcome::SecondFailed(reset));
        }
        Poll::Pending
    })
    .await;
    (outcome, forward, backward)
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
        source: &mut ReadHalf<'_>,
        target: &TcpStream,
        count: &dyn Fn(usize),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Side>> {
        while !self.done {
            while self.start < self.end {
                let pending = &self.buffer[self.start..self.end];
                let written =
                    ready!(poll_write(target, pending, cx)).map_err(|e| Side::Target(e.kind()))?;
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

    /// Whether it waits for its source and not for its target; false at its end, too.
    fn is_reading(&self) -> bool {
        !self.done && self.start == self.end
    }

    /// What its target has not been given yet, when its source is gone; `other` is the direction back.
    fn into_rest(self, other: &Self) -> Rest {
        let mut queue = Queue::default();
        queue.push(Bytes::from(self.buffer).slice(self.start..self.end));
        Rest {
            queue,
            ended: self.done,
            application_ended: other.done,
            lost: other.start < other.end,
        }
    }

    fn poll_read(
        &mut self,
        source: &mut ReadHalf<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if source.as_ref().poll_read_ready(cx)?.is_pending() {
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

fn poll_write(target: &TcpStream, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(target.poll_write_ready(cx))?;
        let mut short = None;
        let written = target.try_io(Interest::WRITABLE, || {
            let count = rustix::net::send(target, bytes, SendFlags::NOSIGNAL)?;
            if count == bytes.len() {
                return Ok(count);
            }
            // A short write has filled the socket: said so here, the next call that would find that out is saved.
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(count) = short {
                    return Poll::Ready(Ok(count));
                }
            }
            written => return Poll::Ready(written),
        }
    }
}
