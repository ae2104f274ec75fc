//! A port whose application does not accept: what waits for it is bounded, and nobody else waits with it.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::Context as _;
use weft_ebpf_abi::POD_CLIENTS_MAX;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{SHORT, until};
use weft_testkit::{admin, load};
use weft_tests::lab::TestLab;

use super::{four_pods, reaches, record};

/// More than all places of a pod and what the kernel completes for an application that does not accept.
const FLOOD: usize = POD_CLIENTS_MAX as usize + 16;

/// A listener inside a pod that nobody accepts from.
fn deaf(lab: &TestLab, pod: &str) -> (socket2::Socket, SocketAddr) {
    let any = SocketAddr::new(lab.v4(pod), 0);
    let listening = lab.netns(pod).enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&any.into())?;
        socket.listen(1)?;
        Ok(socket)
    });
    let socket = listening.unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, at)
}

/// How often a delivery of a node found its pod or its port full.
fn waited(lab: &TestLab, node: &str) -> anyhow::Result<u64> {
    let netns = lab.lab().topology().node(node);
    let text = admin::get_tcp(&netns, ([127, 0, 0, 1], 15020).into(), "/metrics")?;
    let count = |name: &str| -> anyhow::Result<u64> {
        let series = format!("weft_limit_reached_total{{limit=\"{name}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        Ok(value.with_context(|| format!("no {name}"))?.parse()?)
    };
    Ok(count("deliveries")? + count("port_deliveries")?)
}

/// Whether a connection has neither ended nor failed.
fn stands(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let said = stream.read(&mut [0]);
    said.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Fills a deaf port, and has another port of the pod answer while all of that waits.
fn jam(lab: &TestLab, from: &str, deaf: SocketAddr, other: SocketAddr) -> Vec<TcpStream> {
    let before = waited(lab, "n1").unwrap();
    let flood = load::connect_many(&lab.netns(from), deaf, FLOOD).unwrap();
    until("the first one that finds no room", SHORT, || {
        anyhow::ensure!(waited(lab, "n1")? > before, "none");
        Ok(())
    })
    .unwrap();
    for client in ["b", "c", "p"] {
        assert!(reaches(lab, client, other), "{client} beside {from}");
    }
    // Places that came free in between would prove nothing; they do ten seconds after the flood, which takes a fifth of one.
    let standing = flood.iter().filter(|stream| stands(stream)).count();
    assert_eq!(standing, FLOOD, "of {from} still wait");
    flood
}

#[test]
fn a_port_that_does_not_accept_leaves_the_pod_s_others_reachable() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = four_pods().up().unwrap();
    let (_server, other) = lab.serve("a", Behaviour::Echo).unwrap();
    // In plaintext, through a tunnel, and within the node: one port for each. Three leave room for a fourth.
    let jams = ["p", "b", "c"].map(|from| {
        let (socket, at) = deaf(&lab, "a");
        let flood = jam(&lab, from, at, other);
        (socket, at, flood)
    });
    for (_, at, _) in &jams {
        let port = format!("connections to port {} of the pod", at.port());
        let words = ["inbound", "response_flags=\"CONNECT\"", &port];
        record(&lab, "n1", &words);
    }
}
