//! Streams from segments made by hand.

use super::*;
use crate::leak::canary_text;

const START: u32 = u32::MAX - 20;

fn taken(segments: &[(u32, &[u8])]) -> Found {
    let traces = Traces::new();
    let mut stream = Stream::beginning(START);
    let mut all = Found::default();
    for (distance, bytes) in segments {
        let at = START.wrapping_add(*distance);
        let found = stream.take(at, bytes, bytes.len(), &traces);
        all.canary |= found.canary;
        all.not_tls |= found.not_tls;
        all.unseen += found.unseen;
    }
    all
}

/// Records of these lengths, in one.
fn records(lengths: &[u8]) -> Vec<u8> {
    let record = |length: &u8| [&[0x17, 3, 3, 0, *length][..], &vec![9; (*length).into()]].concat();
    lengths.iter().flat_map(record).collect()
}

#[test]
fn records_are_followed_however_they_are_cut_and_mixed_up() {
    let stream = records(&[1, 100, 0, 30, 7]);
    for size in 1..stream.len() {
        let chunks = stream.chunks(size).enumerate();
        let mut segments: Vec<(u32, &[u8])> = chunks
            .map(|(at, chunk)| ((at * size) as u32, chunk))
            .collect();
        assert_eq!(taken(&segments), Found::default(), "{size}");
        segments.reverse();
        assert_eq!(taken(&segments), Found::default(), "{size} reversed");
        // Longer segments that begin at the same or an earlier byte, as after a retransmission.
        let again = (0, &stream[..stream.len() - 3]);
        segments.insert(segments.len() / 2, again);
        assert_eq!(taken(&segments), Found::default(), "{size} and again");
    }
}

#[test]
fn one_byte_between_two_records_is_seen_however_they_are_cut() {
    let mut stream = records(&[1, 100, 30]);
    stream.insert(6, 0x40);
    for size in 1..stream.len() {
        let chunks = stream.chunks(size).enumerate();
        let segments: Vec<(u32, &[u8])> = chunks
            .map(|(at, chunk)| ((at * size) as u32, chunk))
            .collect();
        let found = taken(&segments);
        assert!(found.not_tls, "{size}");
    }
}

#[test]
fn a_gap_that_nothing_fills_is_counted_and_the_stream_goes_on_behind_it() {
    let part = vec![9; 1 << 20];
    let canary = canary_text();
    let (one, other) = canary.as_bytes().split_at(9);
    let mut segments: Vec<(u32, &[u8])> = (0..8).map(|at| (100 + (at << 20), &part[..])).collect();
    let end = 100 + (8 << 20);
    segments.push((end, one));
    assert_eq!(taken(&segments).unseen, 100);
    assert!(!taken(&segments).canary);
    segments.push((end + 9, other));
    assert!(taken(&segments).canary);
}

#[test]
fn a_canary_that_is_sent_in_place_of_other_bytes_is_seen() {
    let canary = canary_text();
    let other = vec![b'x'; canary.len()];
    assert!(taken(&[(0, &other), (0, canary.as_bytes())]).canary);
}
