//! What an application still gets when the other end is gone: all that had arrived before, and only then the reset.
//!
//! In: its socket, what had arrived for it, whether that was the whole. Out: whether the socket may be closed cleanly.
//! Deliberately not here: why the other end is gone, and closing.
//!
//! A reset throws away what the kernel has not sent yet, and a close with unread bytes is a reset. So the socket is
//! kept until the application has acknowledged everything, and what it sends meanwhile is read and thrown away.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep};

use super::queue::Queue;
use super::shutdown_write;
use crate::Tunnel;

/// Time between two looks at what is acknowledged, on which nothing wakes: half of the time for which Linux delays an
/// acknowledgement.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a reset waits for an application that does not read the part of an answer that had arrived. Arbitrary: long
/// for a reader that is merely slow, short for one that waits for the rest.
const PART_LIMIT: Duration = Duration::from_secs(5);
/// Bytes thrown away by one call.
const DISCARD: usize = 4 << 10;

/// What is left of a connection whose other end is gone.
pub(super) struct Rest {
    /// Arrived and not yet written.
    pub(super) queue: Queue,
    /// The other end had ended its side: the queue holds all of the rest.
    pub(super) ended: bool,
    /// The application has ended its side.
    pub(super) application_ended: bool,
    /// The application sent something that goes nowhere.
    pub(super) lost: bool,
}

impl Rest {
    /// Takes what the library holds for us of a stream that is over.
    pub(super) async fn take_arrived(&mut self, tunnel: &mut Tunnel) {
        poll_fn(|cx| {
            while !self.ended
                && let Poll::Ready(Ok(arrived)) = tunnel.poll_recv(cx)
            {
                match arrived {
                    Some(chunk) => self.queue.push(chunk),
                    None => self.ended = true,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}

/// Gives the application the rest; `written` hears of every write. True when it has got all of it, was told its end, and
/// nothing that it sent was lost, so that a clean close is the truth.
///
/// Cancel safe: what was not written is lost, and the caller's close decides the rest.
pub(super) async fn farewell(
    tcp: &mut TcpStream,
    mut rest: Rest,
    mut written: impl FnMut(usize),
) -> bool {
    let (mut read, write) = tcp.split();
    let mut scratch = [0; DISCARD];
    let mut look = interval(LOOK_INTERVAL);
    let limit = sleep(PART_LIMIT);
    tokio::pin!(limit);
    loop {
        let flushed = poll_fn(|cx| Poll::Ready(rest.flush(write.as_ref(), &mut written, cx))).await;
        let Ok(flushed) = flushed else { return false };
        if flushed && rest.is_over(write.as_ref()) {
            return rest.ended && !rest.lost;
        }
        tokio::select! {
            discarded = read.read(&mut scratch), if !rest.application_ended => match discarded {
                Ok(0) => rest.application_ended = true,
                Ok(_) => rest.lost = true,
                Err(_) => return false,
            },
            writable = write.writable(), if !flushed => if writable.is_err() { return false },
            _ = look.tick(), if flushed => {}
            _ = write.ready(Interest::ERROR) => return false,
            // The whole of an answer is worth any wait, as if its sender were still there.
            () = &mut limit, if !rest.ended => return false,
        }
    }
}

impl Rest {
    /// Writes what the socket takes, and FIN after the last of it; true when nothing is left to write.
    fn flush(
        &mut self,
        tcp: &TcpStream,
        written: &mut impl FnMut(usize),
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        while !self.queue.is_empty() {
            match self.queue.poll_write(tcp, cx) {
                Poll::Ready(count) => written(count?),
                Poll::Pending => return Ok(false),
            }
        }
        if self.ended {
            // Once more does nothing.
            shutdown_write(tcp)?;
        }
        Ok(true)
    }

    /// Whether nothing can get lost any more by a close, once all is written. After the FINs of both sides the kernel delivers alone.
    fn is_over(&self, tcp: &TcpStream) -> bool {
        (self.ended && self.application_ended && !self.lost)
            || weft_runtime::unacknowledged(tcp).unwrap_or(0) == 0
    }
}
