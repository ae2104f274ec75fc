//! What applications see through the mesh: every shape of traffic that TCP allows, on both families.
//!
//! Each test brings up two nodes whose programs are the real ones and runs real connections between
//! pods that know nothing of the mesh. The oracles of every lab watch all of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use weft_testkit::leak::canary_payload;
use weft_testkit::load;
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};
use weft_tests::lab::{Builder, TestLab};

#[path = "traffic/sockets.rs"]
mod sockets;

#[path = "traffic/ends.rs"]
mod ends;

#[path = "traffic/crowds.rs"]
mod crowds;

#[path = "traffic/programs.rs"]
mod programs;

/// Pods a and c on node n1, b on n2.
fn three_pods() -> TestLab {
    Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .pod("c", "n1")
        .up()
        .unwrap()
}

/// Every address of a pod, one a family.
fn addresses(lab: &TestLab, pod: &str) -> Vec<IpAddr> {
    let mut addresses = vec![lab.v4(pod)];
    if has_ipv6() {
        addresses.push(lab.v6(pod));
    }
    addresses
}

/// Runs a check against a server on another node and one on the same node, on both families.
fn everywhere(behaviour: &Behaviour, check: impl Fn(&TestLab, &Server, SocketAddr)) {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        let server = Server::on_any(&lab.netns(pod), behaviour.clone()).unwrap();
        for address in addresses(&lab, pod) {
            println!("to {pod} at {address}");
            check(&lab, &server, server.at(address));
        }
    }
}

#[test]
fn bytes_arrive_unchanged_from_none_to_ten_million() {
    everywhere(&Behaviour::Echo, |lab, _, to| {
        for length in [0, 1, 200, 65_537, 10_000_000] {
            load::echo(&lab.netns("a"), to, length).unwrap();
        }
    });
}

#[test]
fn a_server_may_speak_first() {
    everywhere(
        &Behaviour::Greet("220 ready\r\n".to_owned()),
        |lab, _, to| {
            let mut stream = load::connect(&lab.netns("a"), to).unwrap();
            let mut greeting = [0; 11];
            stream.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"220 ready\r\n");
        },
    );
}

#[test]
fn a_client_may_end_its_side_first() {
    everywhere(&Behaviour::Count, |lab, _, to| {
        let answer = load::exchange(&lab.netns("a"), to, &canary_payload(100_000)).unwrap();
        assert_eq!(answer, b"100000\n");
    });
}

#[test]
fn a_server_may_end_its_side_first() {
    everywhere(&Behaviour::Pour(100_000), |lab, _, to| {
        let mut stream = load::connect(&lab.netns("a"), to).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 100_000);
        // The other direction still works after the server's end of stream.
        stream.write_all(&canary_payload(1000)).unwrap();
    });
}

#[test]
fn a_reset_arrives_as_a_reset() {
    everywhere(&Behaviour::Reset, |lab, _, to| {
        let mut stream = load::connect(&lab.netns("a"), to).unwrap();
        stream.write_all(b"x").unwrap();
        let error = stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    });
}

#[test]
fn a_port_where_nobody_listens_never_looks_like_an_end_of_stream() {
    everywhere(&Behaviour::Echo, |lab, server, to| {
        // Port 1 is below everything that the kernel hands out.
        let closed = SocketAddr::new(to.ip(), 1);
        assert_ne!(server.port(), 1);
        let outcome =
            load::connect(&lab.netns("a"), closed).and_then(|mut stream| stream.read(&mut [0; 1]));
        let error = outcome.unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
            ),
            "{error}"
        );
    });
}

#[test]
fn an_address_that_answers_nothing_ends_in_a_reset() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for address in addresses(&lab, "a") {
        let nobody = SocketAddr::new(neighbour(address), 80);
        let outcome =
            load::connect(&lab.netns("a"), nobody).and_then(|mut stream| stream.read(&mut [0; 1]));
        // The mesh knows nothing of it beforehand, so the connect itself succeeds.
        let error = outcome.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionReset,
            "{nobody}: {error}"
        );
    }
}

/// An address of the same segment that nobody has.
fn neighbour(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 250].into()
        }
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[7] = 0xfffa;
            segments.into()
        }
    }
}

#[test]
fn the_server_sees_the_client_pod_and_the_client_whom_it_dialled() {
    everywhere(&Behaviour::Greet("x".to_owned()), |lab, server, to| {
        let before = server.seen().len();
        let mut stream = load::connect(&lab.netns("a"), to).unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to);
        let own = stream.local_addr().unwrap().ip();
        assert!(addresses(lab, "a").contains(&own), "{own}");
        let seen = server.seen()[before].ip().to_canonical();
        assert_eq!(seen, own, "the server sees another address");
    });
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    if !weft_tests::is_root() {
        return;
    }
    let mut vips = vec!["10.96.7.7"];
    if has_ipv6() {
        vips.push("fd00:96::7");
    }
    let lab = Builder::two_nodes()
        .pod("a", "n1")
        .resource(&format!(
            "apiVersion: v1
kind: Service
metadata: {{name: self}}
spec: {{clusterIP: '{}', clusterIPs: {vips:?}, selector: {{app: a}}, ports: [{{port: 80, targetPort: 8080}}]}}
",
            vips[0]
        ))
        .up()
        .unwrap();
    let any = if has_ipv6() {
        "[::]:8080"
    } else {
        "0.0.0.0:8080"
    };
    let server = Server::start(&lab.netns("a"), any.parse().unwrap(), Behaviour::Echo).unwrap();
    for vip in vips {
        let to = SocketAddr::new(vip.parse().unwrap(), 80);
        load::echo(&lab.netns("a"), to, 5000).unwrap();
        let seen = server.seen().last().unwrap().ip().to_canonical();
        assert!(addresses(&lab, "a").contains(&seen), "{seen}");
    }
}

#[test]
fn loopback_inside_a_pod_is_left_alone() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    let server = Server::on_any(&lab.netns("a"), Behaviour::Echo).unwrap();
    let mut own = addresses(&lab, "a");
    own.push("127.0.0.1".parse().unwrap());
    if has_ipv6() {
        own.push("::1".parse().unwrap());
    }
    for address in own {
        load::echo(&lab.netns("a"), server.at(address), 1000).unwrap();
        let seen = server.seen().last().unwrap().ip().to_canonical();
        assert_eq!(seen, address, "a connection to itself comes from itself");
    }
}

#[test]
fn udp_is_left_alone() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for address in addresses(&lab, "b") {
        let bind = |pod: &str, ip: IpAddr| {
            let socket = lab
                .netns(pod)
                .enter(|| Ok(UdpSocket::bind((ip, 0))?))
                .unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            socket
        };
        let server = bind("b", address);
        let own = addresses(&lab, "a");
        let own = own
            .iter()
            .find(|own| own.is_ipv4() == address.is_ipv4())
            .unwrap();
        let client = bind("a", *own);
        client
            .send_to(b"ping", server.local_addr().unwrap())
            .unwrap();
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"ping");
        assert_eq!(from, client.local_addr().unwrap());
    }
}

#[test]
fn icmp_is_left_alone() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        for address in addresses(&lab, pod) {
            assert!(answers_ping(&lab, "a", address), "{address}");
        }
    }
}

/// Whether an echo request gets its reply (RFC 792, RFC 4443 4.1 and 4.2).
fn answers_ping(lab: &TestLab, from: &str, to: IpAddr) -> bool {
    let (domain, protocol, request, reply) = if to.is_ipv4() {
        (Domain::IPV4, Protocol::ICMPV4, 8, 0)
    } else {
        (Domain::IPV6, Protocol::ICMPV6, 128, 129)
    };
    let socket = lab
        .netns(from)
        .enter(|| Ok(Socket::new(domain, Type::RAW, Some(protocol))?));
    let mut socket = socket.unwrap();
    let limit = Duration::from_secs(10);
    socket.set_read_timeout(Some(limit)).unwrap();
    // Type, code, checksum, identifier, sequence number. The kernel fills in the checksum of ICMPv6 alone.
    let mut packet = [request, 0, 0, 0, 0x5a, 0x5a, 0, 1];
    if to.is_ipv4() {
        let sum: u32 = packet
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let target = SocketAddr::new(to, 0);
    socket.send_to(&packet, &target.into()).unwrap();
    // Other ICMP may come first; a raw IPv4 socket hands out the IP header, too.
    let started = std::time::Instant::now();
    while started.elapsed() < limit {
        let mut buffer = [0; 128];
        let Ok(length) = socket.read(&mut buffer) else {
            return false;
        };
        let header = if to.is_ipv4() { 20 } else { 0 };
        if let Some(message) = buffer[..length].get(header..)
            && message.first() == Some(&reply)
            && message.get(4..8) == Some(&packet[4..8])
        {
            return true;
        }
    }
    false
}

#[test]
fn an_application_may_listen_on_ports_that_meshes_usually_take() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    let any: IpAddr = if has_ipv6() { "::" } else { "0.0.0.0" }.parse().unwrap();
    for pod in ["b", "c"] {
        for port in [15001, 15006, 15020, 15021] {
            let listen = SocketAddr::new(any, port);
            let server = Server::start(&lab.netns(pod), listen, Behaviour::Echo).unwrap();
            for address in addresses(&lab, pod) {
                load::echo(&lab.netns("a"), server.at(address), 1000).unwrap();
            }
        }
    }
}

#[test]
fn pods_outside_the_mesh_are_reached_and_reach_in_plaintext() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = Builder::two_nodes()
        .pod("a", "n1")
        .plain_pod("p", "n2")
        .up()
        .unwrap();
    let (_inside, to_a) = lab.serve("a", Behaviour::Echo).unwrap();
    let (_outside, to_p) = lab.serve("p", Behaviour::Echo).unwrap();
    let recorder = lab.record().unwrap();
    load::echo(&lab.netns("a"), to_p, 5000).unwrap();
    load::echo(&lab.netns("p"), to_a, 5000).unwrap();
    let report = recorder.stop().unwrap();
    report.verdict().unwrap();
    assert!(
        report.flows.iter().any(|(_, flow)| flow.canary),
        "plaintext to a pod outside of the mesh must be seen as such"
    );
}
