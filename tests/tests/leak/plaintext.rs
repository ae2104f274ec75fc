//! Method: pods without a mesh put on the wire, through real sockets, what a broken mesh might. The recorder must object to
//! each, and to nothing else of the same shape.

use std::io::{Read as _, Write as _};

use weft_testkit::leak::{Report, Why, canary_text};
use weft_testkit::load;
use weft_testkit::peer::{Behaviour, Server};

use crate::bare::Bare;

fn whys(report: &Report) -> Vec<&Why> {
    report.violations.iter().map(|found| &found.why).collect()
}

#[test]
fn plaintext_between_pods_without_a_mesh_is_caught_on_both_families() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-plain");
    let server = Server::on_any(&bare.netns(1), Behaviour::Echo).unwrap();
    for address in &bare.plan.pods[1].addresses {
        let recorder = bare.record();
        load::echo(&bare.netns(0), server.at(*address), 10_000).unwrap();
        let report = recorder.stop().unwrap();
        assert_eq!(report.dropped, 0);
        assert!(whys(&report).contains(&&Why::Uncaptured), "{report:?}");
        assert!(whys(&report).contains(&&Why::Canary), "{report:?}");
        assert!(report.verdict().is_err());
    }
}

/// What the recorder finds when a pod sends these pieces to the tunnel port of another, which sends them back: each in a
/// segment of its own, as none is sent before the one before is back.
fn sent(bare: &Bare, pieces: &[&[u8]]) -> Report {
    let any = "0.0.0.0:15008".parse().unwrap();
    let server = Server::start(&bare.netns(1), any, Behaviour::Echo).unwrap();
    let to = server.at(bare.plan.pods[1].addresses[0]);
    let recorder = bare.record();
    let mut stream = load::connect(&bare.netns(0), to).unwrap();
    for piece in pieces {
        stream.write_all(piece).unwrap();
        stream.read_exact(&mut vec![0; piece.len()]).unwrap();
    }
    drop(stream);
    let report = recorder.stop().unwrap();
    assert_eq!(report.dropped, 0);
    report
}

/// The same in one TLS record, by its header.
fn sent_in_record(bare: &Bare, pieces: &[&[u8]]) -> Report {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let [.., high, low] = length.to_be_bytes();
    let header = [0x17, 3, 3, high, low];
    let all: Vec<&[u8]> = std::iter::once(&header[..])
        .chain(pieces.iter().copied())
        .collect();
    sent(bare, &all)
}

#[test]
fn plaintext_on_the_tunnel_port_is_caught_at_its_beginning_and_behind_tls() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-port");
    let plain = b"no canary, and no TLS either";
    let report = sent(&bare, &[plain]);
    assert!(whys(&report).contains(&&Why::NotTls), "{report:?}");
    sent_in_record(&bare, &[plain]).verdict().unwrap();
    let report = sent(&bare, &[&[0x17, 3, 3, 0, 2], b"ab", plain]);
    assert!(whys(&report).contains(&&Why::NotTls), "{report:?}");
}

#[test]
fn a_canary_in_clear_is_caught_across_segments_and_in_base64() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-split");
    let canary = canary_text();
    let (one, other) = canary.split_at(8);
    // The same pieces without what the canary begins with: all that is sent around it is no reason.
    let innocent = one.replace('~', "-");
    sent_in_record(&bare, &[innocent.as_bytes(), other.as_bytes()])
        .verdict()
        .unwrap();
    let report = sent_in_record(&bare, &[one.as_bytes(), other.as_bytes()]);
    assert!(whys(&report).contains(&&Why::Canary), "{report:?}");
    for before in ["", "x", "xy"] {
        let text = in_base64(&format!("{before}{canary}"));
        for pieces in [vec![&text[..]], text.chunks(10).collect()] {
            let report = sent_in_record(&bare, &pieces);
            assert!(whys(&report).contains(&&Why::Canary), "{report:?}");
        }
    }
}

#[test]
fn a_payload_that_a_node_tells_another_in_clear_is_caught() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-node");
    let nodes = &bare.plan.nodes;
    let netns = |index: usize| bare.topology.node(&nodes[index].name);
    let server = Server::on_any(&netns(1), Behaviour::Echo).unwrap();
    let to = server.at(nodes[1].addresses[0]);
    let told = |text: &str| {
        let recorder = bare.record();
        load::exchange(&netns(0), to, text.as_bytes()).unwrap();
        recorder.stop().unwrap()
    };
    told("how many connections there are").verdict().unwrap();
    let report = told(&canary_text());
    assert!(whys(&report).contains(&&Why::Canary), "{report:?}");
}

#[test]
fn a_packet_is_judged_by_who_was_enrolled_when_it_passed() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-when");
    let enrolled = || bare.plan.pods.iter().flat_map(|pod| pod.addresses.clone());
    let server = Server::on_any(&bare.netns(1), Behaviour::Echo).unwrap();
    let to = server.at(bare.plan.pods[1].addresses[0]);
    let talk = || load::echo(&bare.netns(0), to, 10_000).unwrap();
    // Told right behind the packets, in the one and in the other direction.
    let recorder = bare.record();
    recorder.set_enrolled([]);
    talk();
    recorder.set_enrolled(enrolled());
    recorder.stop().unwrap().verdict().unwrap();
    let recorder = bare.record();
    talk();
    recorder.set_enrolled([]);
    let report = recorder.stop().unwrap();
    assert!(whys(&report).contains(&&Why::Canary), "{report:?}");
}

#[test]
fn silence_is_no_leak() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-none");
    let report = bare.record().stop().unwrap();
    report.verdict().unwrap();
}

/// Base64 in one line.
fn in_base64(text: &str) -> Vec<u8> {
    let [.., in_base64] = weft_testkit::secrets::forms(text.as_bytes());
    in_base64
}
