//! One direction of a TCP connection, put together again. Pure.
//!
//! In: segments as they pass, out of order and again as it may be. Out: whether a canary shows in the bytes, also across
//! the borders of segments, and whether all of them belong to TLS records. What is looked at only in part (the end of a
//! frame that segmentation offload made large, a gap that nothing fills) is counted. Not here: who may send what.

use std::collections::BTreeMap;

use super::canary::{TRACE_MAX, Traces};

mod records;

pub(super) use records::Records;

/// Bytes kept of a stream for the next border.
const TAIL: usize = TRACE_MAX - 1;
/// Bytes that wait for a gap before them to be filled; above the largest window of a lab's connections (6 MiB by
/// `tcp_rmem`). With more, the gap is passed over and counted.
const AHEAD_BYTES_MAX: usize = 8 << 20;

/// What one segment brought to light.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// A canary.
    pub(super) canary: bool,
    /// Bytes outside of TLS records.
    pub(super) not_tls: bool,
    /// Bytes that were not looked at.
    pub(super) unseen: u64,
}

/// A stream in the course of being put together.
#[derive(Default)]
pub(super) struct Stream {
    /// Sequence number of the next byte, once one was seen.
    next: Option<u32>,
    tail: Tail,
    records: Records,
    /// What came before its turn. Few streams ever have it.
    ahead: Option<Box<Ahead>>,
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail {
    bytes: [u8; TAIL],
    length: u8,
}

/// Segments behind a gap, by their distance from the byte that was the next when the gap opened.
#[derive(Default)]
struct Ahead {
    /// How far the stream has come since.
    passed: u64,
    segments: BTreeMap<u64, (Vec<u8>, usize)>,
    held: usize,
}

// === impl Stream ===

impl Stream {
    /// A stream whose first byte has this number, so that its records can be followed.
    pub(super) fn beginning(at: u32) -> Self {
        Self {
            next: Some(at),
            records: Records::beginning(),
            ..Self::default()
        }
    }

    /// Takes a segment of `length` bytes, of which `bytes` were kept.
    pub(super) fn take(&mut self, at: u32, bytes: &[u8], length: usize, traces: &Traces) -> Found {
        // Whole canaries are found in every segment as it is, also in one sent again with other bytes.
        let mut found = Found {
            canary: traces.show_in(bytes),
            ..Found::default()
        };
        let next = *self.next.get_or_insert(at);
        let distance = at.wrapping_sub(next).cast_signed();
        if distance > 0 {
            self.put_aside(distance.unsigned_abs(), bytes, length);
        } else {
            self.advance(
                distance.unsigned_abs() as usize,
                bytes,
                length,
                traces,
                &mut found,
            );
        }
        self.catch_up(traces, &mut found);
        found
    }

    /// Moves on by a segment whose first `known` bytes were there before.
    fn advance(
        &mut self,
        known: usize,
        bytes: &[u8],
        length: usize,
        traces: &Traces,
        found: &mut Found,
    ) {
        if known >= length {
            return;
        }
        let new = bytes.get(known..).unwrap_or_default();
        found.canary |= self.tail.continues(new, traces);
        found.not_tls |= !self.records.follow(new);
        let unseen = length - known - new.len();
        if unseen > 0 {
            self.pass_over(unseen as u64, found);
        }
        let step = length - known;
        self.next = self.next.map(|next| next.wrapping_add(step as u32));
        if let Some(ahead) = &mut self.ahead {
            ahead.passed += step as u64;
        }
    }

    fn pass_over(&mut self, unseen: u64, found: &mut Found) {
        found.unseen += unseen;
        self.tail = Tail::default();
        self.records = Records::default();
    }

    fn put_aside(&mut self, distance: u32, bytes: &[u8], length: usize) {
        let ahead = self.ahead.get_or_insert_default();
        let key = ahead.passed + u64::from(distance);
        let present = ahead.segments.get(&key);
        if present.is_none_or(|(_, present)| *present < length) {
            ahead.held += bytes.len();
            ahead.segments.insert(key, (bytes.to_vec(), length));
        }
    }

    /// Takes in what waited for what has come now.
    fn catch_up(&mut self, traces: &Traces, found: &mut Found) {
        let Some(mut ahead) = self.ahead.take() else {
            return;
        };
        while let Some(entry) = ahead.segments.first_entry() {
            let gap = entry.key().saturating_sub(ahead.passed);
            if gap > 0 && ahead.held <= AHEAD_BYTES_MAX {
                break;
            }
            let (at, (bytes, length)) = entry.remove_entry();
            ahead.held = ahead.held.saturating_sub(bytes.len());
            if gap > 0 {
                self.pass_over(gap, found);
                self.next = self.next.map(|next| next.wrapping_add(gap as u32));
                ahead.passed += gap;
            }
            let known = (ahead.passed - at) as usize;
            self.advance(known, &bytes, length, traces, found);
            ahead.passed += length.saturating_sub(known) as u64;
        }
        if !ahead.segments.is_empty() {
            self.ahead = Some(ahead);
        }
    }
}

// === impl Tail ===

impl Tail {
    /// Takes the next bytes; whether a canary shows across the border.
    fn continues(&mut self, new: &[u8], traces: &Traces) -> bool {
        let old = usize::from(self.length);
        let mut around = [0; 2 * TAIL];
        around[..old].copy_from_slice(&self.bytes[..old]);
        let head = new.len().min(TAIL);
        around[old..old + head].copy_from_slice(&new[..head]);
        let around = &around[..old + head];
        let shows = old > 0 && traces.show_in(around);
        let last = if new.len() < TAIL { around } else { new };
        let last = &last[last.len().saturating_sub(TAIL)..];
        self.bytes[..last.len()].copy_from_slice(last);
        self.length = last.len() as u8;
        shows
    }
}

#[cfg(test)]
mod tests;
