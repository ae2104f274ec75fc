//! The judge over frames made by hand.

use super::*;
use crate::leak::{canary_payload, canary_text};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn frame(from: &str, to: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let from: SocketAddr = from.parse().unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend([0; 8]);
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

fn judged(frames: &[Vec<u8>]) -> Report {
    let enrolled: HashSet<IpAddr> = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let mut judge = Judge::new("test");
    for frame in frames {
        judge.packet(frame, &enrolled);
    }
    judge.report(frames.len() as u64, 0)
}

fn whys(frames: &[Vec<u8>]) -> Vec<Why> {
    judged(frames)
        .violations
        .into_iter()
        .map(|violation| violation.why)
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
            &[0x16, 3, 1, 2, 0, 1],
        ),
        frame(
            "10.0.0.2:15008",
            "10.0.0.1:4000",
            ACK,
            &[0x16, 3, 3, 2, 0, 2],
        ),
        frame(
            "10.0.0.1:4000",
            "10.0.0.2:15008",
            ACK,
            b"middle of a record",
        ),
    ]);
    report.verdict().unwrap();
    assert!(report.flows.iter().all(|(_, flow)| flow.tls));
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
