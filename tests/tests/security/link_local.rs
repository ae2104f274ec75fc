//! Link-local addresses, which belong to no workload: what passes by them between pods, with STRICT and without.
//!
//! Method: neighbours on one bridge, one of them of the mesh and one not, call a pod of the mesh at its link-local addresses, and
//! at its usual ones from their link-local ones. A call that nobody refuses is the control.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};

use socket2::{Domain, Socket, Type};
use weft_testkit::netns::{Netns, has_ipv6};
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::LONG;
use weft_tests::lab::{Builder, TestLab};

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: default}
spec: {mtls: {mode: STRICT}}
";

/// The interface that leads to the neighbours.
const LINK: &str = "eth0";
/// Pods, and what their IPv4 addresses on the link end with; `inside` and `server` will be of the mesh.
const PODS: [(&str, u8); 3] = [("inside", 1), ("outside", 2), ("server", 3)];

#[test]
fn calls_by_link_local_addresses_are_plaintext_and_from_them_are_as_any_other() {
    if !weft_tests::is_root() {
        return;
    }
    for strict in [false, true] {
        let lab = lab(strict);
        let (server, to) = lab.serve("server", Behaviour::Echo).unwrap();
        let echoes = |from: &str, source: Option<SocketAddr>, to: SocketAddr| {
            let outcome = echo(&lab.netns(from), source, to);
            if let Err(error) = &outcome {
                let kind = error.downcast_ref().map(std::io::Error::kind);
                let is_reset = matches!(
                    kind,
                    Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
                );
                assert!(
                    is_reset,
                    "strict {strict}: {from} {source:?} to {to}: {error:#}"
                );
            }
            outcome.is_ok()
        };
        for (from, number) in &PODS[..2] {
            let is_trusted = *from == "inside" || !strict;
            // The mesh knows no workload for this address: whoever calls is nobody.
            let at = server.at(early(3));
            assert_eq!(echoes(from, None, at), !strict, "{from}");
            let source = SocketAddr::new(early(*number), 0);
            assert_eq!(echoes(from, Some(source), to), is_trusted, "{from}");
            assert!(!echoes(from, None, server.at(late(3))), "{from}");
            if *from == "inside" {
                let source = SocketAddr::new(late(*number), 0);
                assert!(!echoes(from, Some(source), to), "{from}");
            }
            if has_ipv6() {
                // Its scope does not reach the proxy.
                let at = neighbour(&lab, from, "server", server.port());
                assert!(!echoes(from, None, at), "{from}");
                let (source, to) = (neighbour(&lab, from, from, 0), lab.v6("server"));
                let to = server.at(to);
                assert_eq!(echoes(from, Some(source), to), is_trusted, "{from}");
            }
        }
    }
}

/// A lab of three pods on one link, each with link-local addresses of both families.
fn lab(strict: bool) -> TestLab {
    let mut builder = Builder::default().node("n1");
    if strict {
        builder = builder.resource(STRICT);
    }
    for (pod, _) in PODS {
        builder = builder.plain_pod(pod, "n1");
    }
    let mut lab = builder.up().unwrap();
    add(&lab, early);
    // Plaintext between pods of the mesh is what is shown here.
    lab.breaks_on_purpose();
    for pod in ["inside", "server"] {
        lab.set_mesh(pod, true).unwrap();
    }
    add(&lab, late);
    lab
}

/// An address that a pod has when it joins the mesh.
fn early(number: u8) -> IpAddr {
    [169, 254, 7, number].into()
}

/// One that it gets later.
fn late(number: u8) -> IpAddr {
    [169, 254, 8, number].into()
}

fn add(lab: &TestLab, address: fn(u8) -> IpAddr) {
    for (pod, number) in PODS {
        let line = format!("address add {}/16 dev {LINK}\n", address(number));
        lab.netns(pod).ip_batch(&line).unwrap();
    }
}

/// The IPv6 link-local address of a pod, as one of its neighbours writes it.
fn neighbour(lab: &TestLab, caller: &str, pod: &str, port: u16) -> SocketAddr {
    let (address, _) = on_link(&lab.netns(pod));
    let (_, scope) = on_link(&lab.netns(caller));
    SocketAddrV6::new(address, port, 0, scope).into()
}

/// The IPv6 link-local address of a namespace, and the number of its interface.
fn on_link(netns: &Netns) -> (Ipv6Addr, u32) {
    let table = netns.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/if_inet6")?));
    let table = table.unwrap();
    let mut lines = table.lines().filter(|line| line.ends_with(LINK));
    let line = lines.find(|line| line.starts_with("fe80")).unwrap();
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap();
    let address = u128::from_str_radix(word(), 16).unwrap();
    (address.into(), u32::from_str_radix(word(), 16).unwrap())
}

fn echo(netns: &Netns, source: Option<SocketAddr>, to: SocketAddr) -> anyhow::Result<()> {
    netns.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        socket.connect_timeout(&to.into(), LONG)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(LONG))?;
        stream.write_all(b"hello")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        anyhow::ensure!(answer == *b"hello", "{answer:?} came back");
        Ok(())
    })
}
