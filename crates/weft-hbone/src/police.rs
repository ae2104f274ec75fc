//! Counts the frames of a peer that cost us work and move nothing, and ends the connection of one that floods.
//!
//! In: the bytes that HTTP/2 is about to read. Out: the same bytes, or an error once a budget is used up.
//! Deliberately not here: floods that the HTTP/2 library counts itself (resets, CONTINUATION, small DATA), and
//! WINDOW_UPDATE, whose rate follows from the data that we send.
//!
//! The library answers PING and SETTINGS one by one within bounded memory, but for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::limits::IDLE_FRAMES;

/// Length of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// Length of the client's connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Idle frames that a peer may send at once. A client sends a PING every few seconds and SETTINGS once; gRPC-like
/// bandwidth probes send one PING for each window.
const BURST: u32 = 1000;
/// One idle frame is forgiven in this time: 100 a second, ten times what a bandwidth probe on a fast link sends.
const FORGIVE: Duration = Duration::from_millis(10);

/// A stream whose incoming frames are counted.
pub(crate) struct Policed<T> {
    io: T,
    frames: FrameWalk,
    budget: Budget,
}

impl<T> Policed<T> {
    /// For a connection that the peer opened: a preface comes before the first frame.
    pub(crate) fn server(io: T) -> Self {
        Self {
            io,
            frames: FrameWalk {
                skip: PREFACE,
                ..FrameWalk::default()
            },
            budget: Budget::new(),
        }
    }

    /// For a connection that we opened.
    pub(crate) fn client(io: T) -> Self {
        Self {
            io,
            frames: FrameWalk::default(),
            budget: Budget::new(),
        }
    }
}

/// Finds frame heads in a sequence of chunks.
#[derive(Default)]
struct FrameWalk {
    /// Payload (or preface) bytes before the next head.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
}

impl FrameWalk {
    /// Walks over `bytes` and returns how many idle frames began in them.
    fn idle_frames(&mut self, mut bytes: &[u8]) -> u32 {
        let mut idle = 0;
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                self.have = 0;
                let [high, middle, low, kind, flags, ..] = self.head;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                idle += u32::from(is_idle(kind, flags, self.skip));
            }
        }
        idle
    }
}

/// Frame types by number: RFC 9113 section 6.
fn is_idle(kind: u8, flags: u8, length: usize) -> bool {
    const END_STREAM: u8 = 0x1;
    match kind {
        // DATA that moves nothing; padding counts as length and is the library's to judge.
        0x0 => length == 0 && flags & END_STREAM == 0,
        // HEADERS, RST_STREAM, WINDOW_UPDATE and CONTINUATION are counted by the library or needed at any rate.
        0x1 | 0x3 | 0x8 | 0x9 => false,
        // PRIORITY, SETTINGS, PUSH_PROMISE, PING, GOAWAY and every unknown type.
        _ => true,
    }
}

/// A leaky bucket: `used` sinks by one in each `FORGIVE`.
struct Budget {
    used: u32,
    since: Instant,
}

impl Budget {
    fn new() -> Self {
        Self {
            used: 0,
            since: Instant::now(),
        }
    }

    fn take(&mut self, frames: u32) -> io::Result<()> {
        self.used = self.used.saturating_add(frames);
        if self.used <= BURST {
            return Ok(());
        }
        // The clock is read only when the burst is used up, so that a quiet connection never pays for it.
        let forgiven = self.since.elapsed().as_nanos() / FORGIVE.as_nanos();
        self.used = self
            .used
            .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.since = Instant::now();
        if self.used > BURST {
            IDLE_FRAMES.reached();
            return Err(io::Error::other(
                "peer floods the connection with frames that move nothing",
            ));
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Policed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, out))?;
        let idle = self.frames.idle_frames(&out.filled()[before..]);
        Poll::Ready(if idle == 0 {
            Ok(())
        } else {
            self.budget.take(idle)
        })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Policed<T> {
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

#[cfg(test)]
mod tests {
    use super::{BURST, Budget, FrameWalk, PREFACE};

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![
            0,
            (length >> 8) as u8,
            length as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        frame.resize(9 + length, 0xff);
        frame
    }

    #[test]
    fn heads_are_found_however_the_bytes_are_cut() {
        let mut bytes = vec![b'P'; PREFACE];
        for (kind, flags, length) in [
            (4, 0, 0),
            (1, 4, 30),
            (0, 0, 300),
            (0, 0, 0),
            (0, 1, 0),
            (6, 0, 8),
            (8, 0, 4),
            (2, 0, 5),
            (0x7f, 0, 1),
        ] {
            bytes.extend(frame(kind, flags, length));
        }
        for cut in 1..40 {
            let mut walk = FrameWalk {
                skip: PREFACE,
                ..FrameWalk::default()
            };
            let idle: u32 = bytes.chunks(cut).map(|chunk| walk.idle_frames(chunk)).sum();
            assert_eq!(
                idle, 5,
                "settings, empty data, ping, priority, unknown; cut {cut}"
            );
        }
    }

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let mut budget = Budget::new();
        assert!(budget.take(BURST).is_ok());
        assert!(budget.take(BURST).is_err());
    }
}
