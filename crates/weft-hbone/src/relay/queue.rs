//! Chunks that wait to be written.
//!
//! In: chunks of any size. Out: slices for a vectored write. Small chunks that have to wait are copied together, so
//! that a peer that sends single bytes to an application that does not read costs what the bytes cost.
//! Deliberately not here: windows.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::net::TcpStream;

/// Chunks written by one call: four of the sender's largest buffers, or many small messages.
const CHUNKS_MAX: usize = 16;
/// Chunks below this size are copied together when they wait: a chunk of its own costs some 100 bytes of bookkeeping.
const SMALL: usize = 1 << 10;
/// Size of the buffer into which small chunks are copied.
const GATHER: usize = 16 << 10;

#[derive(Default)]
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
}

enum Chunk {
    /// As it came from the tunnel.
    Whole(Bytes),
    /// Several small ones, with room for more.
    Gathered(BytesMut),
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        // The first one is written at once, most likely: copying it would only cost.
        if chunk.len() >= SMALL || self.chunks.is_empty() {
            self.chunks.push_back(Chunk::Whole(chunk));
            return;
        }
        match self.chunks.back_mut() {
            Some(Chunk::Gathered(last)) if last.capacity() - last.len() >= chunk.len() => {
                last.extend_from_slice(&chunk);
            }
            _ => {
                let mut gathered = BytesMut::with_capacity(GATHER);
                gathered.extend_from_slice(&chunk);
                self.chunks.push_back(Chunk::Gathered(gathered));
            }
        }
    }

    /// Writes the first chunks, as many as one call takes, forgets what was written, and says how much that was.
    pub(super) fn poll_write(
        &mut self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let mut slices = [IoSlice::new(&[]); CHUNKS_MAX];
            let filled = self.fill(&mut slices);
            match tcp.try_write_vectored(&slices[..filled]) {
                Ok(count) => {
                    self.advance(count);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Points `slices` at the first chunks and returns at how many.
    fn fill<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk.bytes());
        }
        self.chunks.len().min(slices.len())
    }

    /// Forgets the first `count` bytes.
    fn advance(&mut self, mut count: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            let length = chunk.bytes().len();
            if count < length {
                chunk.advance(count);
                return;
            }
            count -= length;
            self.chunks.pop_front();
        }
    }
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Gathered(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Whole(bytes) => bytes.advance(count),
            Self::Gathered(bytes) => bytes.advance(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use bytes::Bytes;

    use super::Queue;

    fn written(queue: &Queue) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let filled = queue.fill(&mut slices);
        slices[..filled]
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect()
    }

    #[test]
    fn bytes_keep_their_order_however_they_are_cut_and_taken() {
        let mut queue = Queue::default();
        let mut want = Vec::new();
        for i in 0..100_usize {
            let chunk = vec![i as u8; [1, 700, 0, 5000, 30][i % 5]];
            want.extend_from_slice(&chunk);
            queue.push(Bytes::from(chunk));
        }
        while !want.is_empty() {
            assert_eq!(written(&queue)[..], want[..written(&queue).len()]);
            let count = want.len().min(1234);
            queue.advance(count);
            want.drain(..count);
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn single_bytes_that_wait_are_gathered() {
        let mut queue = Queue::default();
        for _ in 0..100_000 {
            queue.push(Bytes::from_static(b"x"));
        }
        assert!(queue.chunks.len() < 10, "{}", queue.chunks.len());
    }
}
