//! A neighbour that forges the pod's own address as source.
//!
//! Method: raw SYNs from the neighbour's namespace over the cable, with a local source, to an open port, a closed one, the ports that
//! stand for a capture in flight (with its exact source as well) and 15008. None may ever be accepted. The control sends the same
//! packets with the neighbour's true source, and sees them arrive.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, Socket, Type};
use weft_ebpf_abi::{Capture, CaptureKey, Counter};
use weft_tests::is_root;
use weft_types::OrigDst;

use crate::rig::{NEIGHBOUR_V4, NEIGHBOUR_V6, POD_V4, POD_V6, Rig, is_idle, listen, tcp, v4, v6};

/// As the neighbour would send in two seconds; the issue is whether one gets through.
const SYNS: u16 = 10_000;

#[test]
fn forged_local_sources_are_accepted_by_nobody() {
    if !is_root() {
        return;
    }
    for (pod, neighbour) in [
        (IpAddr::from(POD_V4), IpAddr::from(NEIGHBOUR_V4)),
        (POD_V6.into(), NEIGHBOUR_V6.into()),
    ] {
        let rig = Rig::new();
        let application = listen(&rig.pod, pod, 0);
        let open = application.local_addr().unwrap().port();
        let jam = rig.jam_outbound();
        let socket = tcp(&rig.pod, SocketAddr::new(neighbour, 80));
        socket.set_nonblocking(true).unwrap();
        let _in_progress = socket.connect(&SocketAddr::new(neighbour, 80).into());
        let captures = rig.map::<CaptureKey, Capture>("CAPTURES");
        let in_flight = captures.keys().unwrap()[0];
        let source = captures.lookup(&in_flight).unwrap().unwrap().source;
        // Room again: only the handshake protects now.
        assert_eq!(rig.accept_outbound().1, Some(OrigDst(v4(NEIGHBOUR_V4, 1))));
        drop(jam);

        let raw = Raw::open(&rig, pod);
        let targets = [open, 9, in_flight.port, 15008];
        for n in 0..SYNS {
            let from = if n % 8 == 0 { source.port } else { 1024 + n };
            raw.syn(
                SocketAddr::new(pod, from),
                SocketAddr::new(pod, targets[usize::from(n) % 4]),
            );
        }
        // A true client after them: everything sent before has been looked at.
        let control = Raw::open(&rig, pod);
        let steered = rig.counter(Counter::SteeredInbound);
        control.syn(SocketAddr::new(neighbour, 999), SocketAddr::new(pod, open));
        crate::rig::wait(
            || rig.counter(Counter::SteeredInbound) > steered,
            "the control does not arrive",
        );

        assert!(is_idle(&application) && is_idle(&rig.inbound) && is_idle(&rig.hbone));
        drop(rig.accept_if_captured(SocketAddr::new(neighbour, 80)));
        assert!(is_idle(&rig.outbound));
    }
}

#[test]
fn the_victims_own_connections_survive_the_forgery() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let raw = Raw::open(&rig, POD_V6.into());
        let stop = &stop;
        scope.spawn(move || {
            let mut n = 0_u16;
            while !stop.load(Ordering::Relaxed) {
                n = n.wrapping_add(1);
                raw.syn(v6(POD_V6, n | 1), v6(POD_V6, n.wrapping_mul(7) | 1));
            }
        });
        let connects = || {
            for _ in 0..500 {
                let _client = crate::rig::connect(&rig.pod, v6(NEIGHBOUR_V6, 80)).unwrap();
                assert_eq!(rig.accept_outbound().1, Some(OrigDst(v6(NEIGHBOUR_V6, 80))));
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(connects));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    rig.wait_empty("CAPTURES");
}

/// A raw socket of the neighbour that writes whole packets towards the pod.
struct Raw {
    socket: Socket,
}

impl Raw {
    fn open(rig: &Rig, towards: IpAddr) -> Self {
        // IPPROTO_RAW: the header is ours, in both families.
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let domain = Domain::for_address(SocketAddr::new(towards, 0));
        let socket = rig
            .neighbour
            .enter(|| Ok(Socket::new(domain, Type::RAW, Some(raw))?))
            .unwrap();
        Self { socket }
    }

    fn syn(&self, from: SocketAddr, to: SocketAddr) {
        let packet = packet(from, to);
        // A raw socket takes no port.
        let _ = self
            .socket
            .send_to(&packet, &SocketAddr::new(to.ip(), 0).into());
    }
}

/// An IP packet that holds one SYN.
fn packet(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(0x1234_5678_u32.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend([0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let (mut packet, pseudo) = match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let mut pseudo = [source.octets(), destination.octets()].concat();
            pseudo.extend([0, 6, 0, 20]);
            (header, pseudo)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
            header.extend(source.octets());
            header.extend(destination.octets());
            let mut pseudo = [source.octets(), destination.octets()].concat();
            pseudo.extend([0, 0, 0, 20, 0, 0, 0, 6]);
            (header, pseudo)
        }
        _ => unreachable!("one family"),
    };
    let sum = checksum(&[pseudo, tcp.clone()].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    packet
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
