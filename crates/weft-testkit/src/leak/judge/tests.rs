//! The judge over frames made by hand.

use std::net::SocketAddr;

use super::*;
use crate::leak::{Report, canary_payload, canary_text};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A frame whose payload is the first of its connection.
fn frame(from: &str, to: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let first = u32::from(flags & SYN == 0);
    frame_at(first, from, to, flags, payload)
}

fn frame_at(sequence: u32, from: &str, to: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let from: SocketAddr = from.parse().unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    tcp.extend(payload);
    let mut frame = vec![0; 12];
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(((20 + tcp.len()) as u16).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, 6, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => unreachable!("one family a frame"),
    }
    frame.extend(tcp);
    // Padding of a short frame is no payload.
    frame.extend([0xee; 6]);
    frame
}

fn addresses(texts: &[&str]) -> HashSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn judge() -> Judge {
    let mut judge = Judge::new("test", addresses(&["10.0.0.101", "10.0.0.102"]));
    judge.set_enrolled(addresses(&["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]));
    judge
}

fn judged(frames: &[Vec<u8>]) -> Report {
    let mut judge = judge();
    for frame in frames {
        judge.packet(frame, frame.len());
    }
    Report::of([judge.findings()])
}

fn whys(frames: &[Vec<u8>]) -> Vec<Why> {
    let report = judged(frames);
    report
        .violations
        .iter()
        .map(|found| found.why.clone())
        .collect()
}

#[test]
fn tls_to_the_tunnel_port_is_no_leak() {
    let report = judged(&[
        frame("10.0.0.1:4000", "10.0.0.2:15008", SYN, b""),
        frame("10.0.0.2:15008", "10.0.0.1:4000", SYN | ACK, b""),
        frame(
            "10.0.0.1:4000",
            "10.0.0.2:15008",
            ACK,
            &[0x16, 3, 1, 0, 19, 1],
        ),
        frame(
            "10.0.0.2:15008",
            "10.0.0.1:4000",
            ACK,
            &[0x16, 3, 3, 2, 0, 2],
        ),
        frame_at(
            7,
            "10.0.0.1:4000",
            "10.0.0.2:15008",
            ACK,
            b"middle of a record",
        ),
    ]);
    report.verdict().unwrap();
    assert!(report.flows.iter().all(|(_, flow)| flow.tls));
    assert_eq!(report.judged, 5);
    assert_eq!(report.places[0].judged_bytes, 30);
}

#[test]
fn a_syn_to_another_port_is_a_connection_past_the_mesh() {
    assert_eq!(
        whys(&[frame("10.0.0.1:4000", "10.0.0.2:80", SYN, b"")]),
        vec![Why::Uncaptured]
    );
    assert_eq!(
        whys(&[frame("[fd00::1]:4000", "[fd00::2]:80", SYN, b"")]),
        vec![Why::Uncaptured]
    );
}

#[test]
fn plaintext_inside_the_tunnel_port_is_found() {
    assert_eq!(
        whys(&[
            frame("10.0.0.1:4000", "10.0.0.2:15008", SYN, b""),
            frame("10.0.0.1:4000", "10.0.0.2:15008", ACK, b"GET / HTTP/1.1"),
        ]),
        vec![Why::NotTls]
    );
}

#[test]
fn a_canary_is_found_in_the_middle_of_a_flow_of_either_family() {
    let payload = canary_payload(200);
    assert_eq!(
        whys(&[frame(
            "10.0.0.1:4000",
            "10.0.0.2:15008",
            ACK,
            &payload[37..]
        )]),
        vec![Why::Canary]
    );
    assert_eq!(
        whys(&[frame("[fd00::1]:4000", "[fd00::2]:15008", ACK, &payload)]),
        vec![Why::Canary]
    );
}

#[test]
fn traffic_with_a_pod_outside_the_mesh_is_recorded_and_no_leak() {
    let report = judged(&[
        frame("10.0.0.1:4000", "10.0.0.9:80", SYN, b""),
        frame(
            "10.0.0.1:4000",
            "10.0.0.9:80",
            ACK,
            canary_text().as_bytes(),
        ),
    ]);
    report.verdict().unwrap();
    assert!(report.flows[0].1.canary);
}

#[test]
fn a_recording_with_holes_is_no_proof() {
    let mut report = judged(&[]);
    report.dropped = 1;
    assert!(report.verdict().is_err());
}

#[test]
fn what_began_before_the_enrolment_stays_as_it_began_and_what_begins_after_does_not() {
    let (client, server) = ("10.0.0.1:4000", "10.0.0.2:80");
    let canary = canary_payload(100);
    let mut judge = judge();
    let pass = |judge: &mut Judge, frame: Vec<u8>| judge.packet(&frame, frame.len());
    let inside = std::mem::take(&mut judge.enrolled);
    pass(&mut judge, frame(client, server, SYN, b""));
    pass(&mut judge, frame(server, client, SYN | ACK, b""));
    judge.set_enrolled(inside);
    pass(&mut judge, frame(client, server, ACK, &canary));
    pass(&mut judge, frame(server, client, ACK, &canary));
    pass(&mut judge, frame(client, "10.0.0.2:81", SYN, b""));
    pass(&mut judge, frame(client, "10.0.0.2:81", ACK, &canary));
    let report = Report::of([judge.findings()]);
    assert_eq!(report.judged, 4);
    let whys: Vec<&Why> = report.violations.iter().map(|found| &found.why).collect();
    assert_eq!(whys, [&Why::Uncaptured, &Why::Canary]);
}

/// A connection to the tunnel port that sends these pieces, one a segment, in one record as long as all of them.
fn in_records(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let (client, server) = ("10.0.0.1:4000", "10.0.0.2:15008");
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let [.., high, low] = length.to_be_bytes();
    let mut frames = vec![
        frame_at(u32::MAX, client, server, SYN, b""),
        frame_at(0, client, server, ACK, &[0x17, 3, 3, high, low]),
    ];
    let mut at = 5;
    for piece in pieces {
        frames.push(frame_at(at, client, server, ACK, piece));
        at += piece.len() as u32;
    }
    frames
}

/// A canary and nothing else; one that is at a border may be seen twice.
fn assert_canary(frames: &[Vec<u8>]) {
    let whys = whys(frames);
    assert!(!whys.is_empty(), "no canary was found");
    assert!(whys.iter().all(|why| *why == Why::Canary), "{whys:?}");
}

#[test]
fn a_canary_is_found_across_the_border_of_two_segments_in_any_order() {
    let canary = canary_text();
    for border in 1..canary.len() {
        let (one, other) = canary.as_bytes().split_at(border);
        let mut frames = in_records(&[b"before", one, other]);
        assert_canary(&frames);
        frames.swap(3, 4);
        assert_canary(&frames);
        // What is sent again changes nothing.
        frames.insert(4, frames[3].clone());
        assert_canary(&frames);
    }
    let bytes: Vec<&[u8]> = canary.as_bytes().chunks(1).collect();
    assert_canary(&in_records(&bytes));
}

#[test]
fn a_canary_in_base64_is_found_within_and_across_segments() {
    for before in ["", "x", "xy"] {
        let text = format!("{before}{}", canary_text());
        let text = &crate::secrets::forms(text.as_bytes())[4];
        assert_canary(&in_records(&[text]));
        for border in 1..16 {
            let (one, other) = text.split_at(border + 3);
            assert_canary(&in_records(&[one, other]));
        }
    }
}

#[test]
fn halves_of_different_streams_make_no_canary() {
    let canary = canary_text();
    let (one, other) = canary.as_bytes().split_at(7);
    let mut frames = in_records(&[one]);
    let back = ("10.0.0.2:15008", "10.0.0.1:4000");
    frames.push(frame_at(0, back.0, back.1, SYN | ACK, b""));
    let record = [&[0x17, 3, 3, 0, other.len() as u8][..], other].concat();
    frames.push(frame_at(1, back.0, back.1, ACK, &record));
    assert_eq!(whys(&frames), []);
}

#[test]
fn what_follows_tls_must_be_tls_as_well() {
    let (client, server) = ("10.0.0.1:4000", "10.0.0.2:15008");
    let mut frames = in_records(&[b"all of it"]);
    assert_eq!(whys(&frames), []);
    // The next record begins as one of TLS 1.2 would, before it as one of 1.3 does.
    let record = |kind, at| frame_at(at, client, server, ACK, &[kind, 3, 3, 0, 1, 0]);
    frames.push(record(0x17, 14));
    assert_eq!(whys(&frames), []);
    frames.push(record(0x16, 20));
    assert_eq!(whys(&frames), [Why::NotTls]);
    frames[4] = frame_at(20, client, server, ACK, b"GET / HTTP/1.1");
    assert_eq!(whys(&frames), [Why::NotTls]);
}

#[test]
fn the_end_of_a_large_frame_is_counted_as_not_looked_at() {
    let mut frames = in_records(&[&[7; 3000]]);
    let whole = frames[2].len();
    frames[2].truncate(1000);
    let mut judge = judge();
    for frame in &frames[..2] {
        judge.packet(frame, frame.len());
    }
    judge.packet(&frames[2], whole);
    let report = Report::of([judge.findings()]);
    report.verdict().unwrap();
    assert_eq!(report.places[0].judged_bytes, 3005);
    assert_eq!(report.places[0].unseen, 3000 - (1000 - 54));
}

#[test]
fn programs_of_the_mesh_may_speak_plainly_but_not_of_payloads() {
    let (one, other) = ("10.0.0.101:4000", "10.0.0.102:80");
    assert_eq!(whys(&[frame(one, other, ACK, b"GET / HTTP/1.1")]), []);
    let canary = canary_text();
    let told = frame(one, other, ACK, canary.as_bytes());
    assert_eq!(whys(&[told]), [Why::Canary]);
    // Who is not of the mesh may be told everything.
    let out = frame(one, "10.0.0.9:80", ACK, canary.as_bytes());
    assert_eq!(whys(&[out]), []);
}
