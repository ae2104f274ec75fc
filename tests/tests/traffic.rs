//! What applications see through the mesh: every shape of traffic that TCP allows, on both families.
//!
//! Each test brings up two nodes whose programs are the real ones, runs real connections between
//! pods that know nothing of the mesh, and has the leak oracle watch all of it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use weft_testkit::leak::canary_payload;
use weft_testkit::load;
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};
use weft_tests::lab::{Builder, TestLab};

#[path = "traffic/sockets.rs"]
mod sockets;

#[path = "traffic/crowds.rs"]
mod crowds;

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

/// Runs a check against a server on another node and one on the same node, on both families, with
/// the leak oracle watching.
fn everywhere(behaviour: &Behaviour, check: impl Fn(&TestLab, &Server, SocketAddr)) {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    let recorder = lab.record().unwrap();
    for pod in ["b", "c"] {
        let server = Server::on_any(&lab.netns(pod), behaviour.clone()).unwrap();
        for address in addresses(&lab, pod) {
            println!("to {pod} at {address}");
            check(&lab, &server, server.at(address));
        }
    }
    recorder.stop().unwrap().verdict().unwrap();
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
fn an_address_that_answers_nothing_ends_in_an_error() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    let nobody = "10.77.0.250:80".parse().unwrap();
    let outcome =
        load::connect(&lab.netns("a"), nobody).and_then(|mut stream| stream.read(&mut [0; 1]));
    assert!(outcome.is_err(), "{outcome:?}");
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
    let lab = Builder::two_nodes()
        .pod("a", "n1")
        .resource(
            "apiVersion: v1
kind: Service
metadata: {name: self}
spec: {clusterIP: 10.96.7.7, selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}
",
        )
        .up()
        .unwrap();
    let _server = Server::start(
        &lab.netns("a"),
        "0.0.0.0:8080".parse().unwrap(),
        Behaviour::Echo,
    )
    .unwrap();
    load::echo(&lab.netns("a"), "10.96.7.7:80".parse().unwrap(), 5000).unwrap();
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
fn an_application_may_listen_on_ports_that_meshes_usually_take() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    let recorder = lab.record().unwrap();
    for port in [15001, 15006, 15020, 15021] {
        let listen = SocketAddr::new("0.0.0.0".parse().unwrap(), port);
        let server = Server::start(&lab.netns("b"), listen, Behaviour::Echo).unwrap();
        load::echo(&lab.netns("a"), server.at(lab.v4("b")), 1000).unwrap();
    }
    recorder.stop().unwrap().verdict().unwrap();
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
