//! Method: two pods on two nodes send each other large and small messages on both families until the oracle of the lab has
//! judged a number of packets that no chance hit survives. The wires carry small packets, whole: a packet is what is counted,
//! and nothing of a stream is behind what the recorder keeps of a frame. Every byte comes back, and is compared.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_testkit::leak::canary_payload;
use weft_testkit::load;
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::until;
use weft_tests::lab::{Builder, TestLab};

use crate::wires::make_small;

/// Packets between the two pods that must be judged on the fabric.
const PACKETS: u64 = 10_000_000;
/// With `WEFT_TEST_LONG`.
const PACKETS_LONG: u64 = 100_000_000;
/// Bound for each ten million: about ten times of what they take.
const LIMIT: Duration = Duration::from_mins(10);
/// Bytes of a large and a small message: whole canaries, which are 30 bytes each, so that messages follow on seamlessly.
const LARGE: usize = 30 * 4000;
const SMALL: usize = 30 * 3;

#[test]
fn ten_million_packets_between_enrolled_pods_are_judged_and_none_leaks() {
    if !weft_tests::is_root() {
        return;
    }
    let long = std::env::var_os("WEFT_TEST_LONG").is_some();
    let wanted = if long { PACKETS_LONG } else { PACKETS };
    let mut lab = Builder::two_nodes()
        .recorded_on_the_fabric()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    for pod in ["a", "b"] {
        make_small(&lab.netns(pod)).unwrap();
    }
    let started = Instant::now();
    let bytes = flood(&lab, wanted).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let report = lab.judge().unwrap();
    report.verdict().unwrap();
    let fabric = &report.places[0];
    println!(
        "{} packets judged on the fabric in {seconds:.1} s, {} bytes in them, {bytes} bytes echoed",
        fabric.judged, fabric.judged_bytes
    );
    assert!(fabric.judged >= wanted, "{fabric:?}");
    assert_eq!((fabric.dropped, fabric.unseen), (0, 0), "{fabric:?}");
    let payloads: u64 = report.flows.iter().map(|(_, flow)| flow.packets).sum();
    assert!(payloads * 2 >= fabric.judged, "{payloads} with a payload");
    for v4 in [true, false] {
        let mut flows = report.flows.iter();
        let seen = flows.any(|(key, flow)| key.source.is_ipv4() == v4 && flow.packets > 100_000);
        assert!(seen || !(v4 || has_ipv6()), "too little of a family");
    }
}

/// Sends until so many packets are judged; how many bytes went there and back.
fn flood(lab: &TestLab, wanted: u64) -> Result<u64> {
    let enough = AtomicBool::new(false);
    let mut servers = Vec::new();
    let mut connections = Vec::new();
    for (from, to) in [("a", "b"), ("b", "a")] {
        let server = Server::on_any(&lab.netns(to), Behaviour::Echo)?;
        let mut addresses = vec![lab.v4(to)];
        addresses.extend(has_ipv6().then(|| lab.v6(to)));
        for address in addresses {
            for size in [LARGE, SMALL] {
                let stream = load::connect(&lab.netns(from), server.at(address))?;
                connections.push((stream, size));
            }
        }
        servers.push(server);
    }
    std::thread::scope(|scope| {
        let enough = &enough;
        let senders: Vec<_> = connections
            .iter()
            .map(|(stream, size)| scope.spawn(move || talk(stream, *size, enough)))
            .collect();
        let limit = LIMIT * u32::try_from(wanted.div_ceil(PACKETS)).unwrap_or(1);
        let judged = until("packets to be judged", limit, || {
            let judged = lab.judged_on_fabric();
            ensure!(
                senders.iter().all(|sender| !sender.is_finished()),
                "one ended"
            );
            ensure!(judged >= wanted, "{judged} so far");
            Ok(())
        });
        enough.store(true, Ordering::Relaxed);
        let mut bytes = 0;
        for sender in senders {
            bytes += sender.join().expect("no sender panics")?;
        }
        judged.map(|()| bytes)
    })
}

/// Sends messages of a size to an echo and compares what comes back, until it is enough; how many bytes that were. A large
/// message does not wait for the one before; a small one does.
fn talk(stream: &TcpStream, size: usize, enough: &AtomicBool) -> Result<u64> {
    let message = canary_payload(size);
    if size == SMALL {
        return Ok(ask(stream, &message, enough)?);
    }
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| pour(stream, &message, enough));
        let back = compare(stream, &message);
        let sent = sender.join().expect("no sender panics")?;
        let back = back?;
        ensure!(sent == back, "{sent} bytes sent, {back} came back");
        Ok(sent)
    })
}

fn ask(mut stream: &TcpStream, message: &[u8], enough: &AtomicBool) -> io::Result<u64> {
    let mut answer = vec![0; message.len()];
    let mut count = 0;
    while !enough.load(Ordering::Relaxed) {
        stream.write_all(message)?;
        stream.read_exact(&mut answer)?;
        if answer != message {
            return Err(io::Error::other("other bytes came back"));
        }
        count += message.len() as u64;
    }
    Ok(count)
}

fn pour(mut stream: &TcpStream, message: &[u8], enough: &AtomicBool) -> io::Result<u64> {
    let mut count = 0;
    while !enough.load(Ordering::Relaxed) {
        stream.write_all(message)?;
        count += message.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(count)
}

/// Reads to the end; an error unless it is this message again and again.
fn compare(mut stream: &TcpStream, message: &[u8]) -> Result<u64> {
    let twice = [message, message].concat();
    let mut buffer = vec![0; message.len()];
    let mut count = 0;
    loop {
        let length = stream.read(&mut buffer).context("the echo ended early")?;
        if length == 0 {
            return Ok(count);
        }
        let at = (count % message.len() as u64) as usize;
        ensure!(
            buffer[..length] == twice[at..][..length],
            "other bytes came back"
        );
        count += length as u64;
    }
}
