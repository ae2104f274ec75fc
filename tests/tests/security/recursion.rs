//! The mesh cannot be made to talk to itself: no way through a tunnel, a Service or loopback ends at a listener of its own.

use std::net::{IpAddr, SocketAddr};

use weft_testkit::load;
use weft_testkit::netns::{Netns, has_ipv6};
use weft_testkit::peer::Behaviour;
use weft_tests::lab::{Builder, TestLab};

use crate::mesh::{HBONE, ask, credentials, logged};
use crate::ports::listening;

/// Services whose ports lead to tunnel ports: of a pod of the caller's own node, of another node, and of the caller itself.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: near}
spec: {clusterIP: 10.96.5.1, selector: {app: c}, ports: [{port: 80, targetPort: 15008}]}
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {clusterIP: 10.96.5.2, selector: {app: b}, ports: [{port: 80, targetPort: 15008}]}
---
apiVersion: v1
kind: Service
metadata: {name: self}
spec: {clusterIP: 10.96.5.3, selector: {app: a}, ports: [{port: 80, targetPort: 15008}]}
---
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {clusterIP: 10.96.5.4, selector: {app: b}, ports: [{port: 80, targetPort: 8080}]}
";

fn lab() -> TestLab {
    Builder::two_nodes()
        .external_node("e1")
        .pod("a", "n1")
        .pod("c", "n1")
        .pod("b", "n2")
        .pod("x", "e1")
        .resource(SERVICES)
        .up()
        .unwrap()
}

/// Ports of the three listeners that the mesh has inside a pod.
fn inside(netns: &Netns) -> Vec<u16> {
    let loopback = listening(netns)
        .into_iter()
        .filter(|to| to.ip().is_loopback());
    let ports: Vec<u16> = loopback.map(|to| to.port()).collect();
    assert_eq!(ports.len(), 3, "{ports:?}");
    ports
}

#[test]
fn a_tunnel_leads_to_no_listener_of_the_mesh() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let inside = inside(&lab.netns("b"));
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let x = credentials(&lab, "e1", "x");
    let at = SocketAddr::new(lab.v4("b"), HBONE);
    let status = |authority: &str| ask(&lab, ("x", &x), (at, "b"), authority).unwrap();
    assert_eq!(status(&to.to_string()), 200, "the control");

    let plan = &lab.lab().record().plan;
    let node = plan.nodes[1].addresses[0];
    let mut elsewhere = vec![
        format!("{at}"),
        format!("[::ffff:{}]:{HBONE}", lab.v4("b")),
        format!("{}:{HBONE}", lab.v4("a")),
        format!("{}:{HBONE}", lab.v4("x")),
        format!("0.0.0.0:{}", to.port()),
        format!("[::]:{}", to.port()),
        format!("{node}:15020"),
        format!("{node}:15021"),
        format!("{node}:15023"),
        format!("{node}:15025"),
        "10.77.255.1:15012".to_owned(),
        "10.96.5.2:80".to_owned(),
        "far.default.svc.cluster.local:80".to_owned(),
        "localhost:80".to_owned(),
    ];
    for port in &inside {
        elsewhere.push(format!("127.0.0.1:{port}"));
        elsewhere.push(format!("127.9.9.9:{port}"));
        elsewhere.push(format!("[::1]:{port}"));
        elsewhere.push(format!("[::ffff:127.0.0.1]:{port}"));
    }
    for authority in &elsewhere {
        assert_eq!(status(authority), 400, "{authority}");
    }
    // The right address and a port that is open on loopback alone: an application's port like any other, and closed.
    for port in &inside {
        assert_eq!(status(&format!("{}:{port}", lab.v4("b"))), 503, "{port}");
    }
    assert_eq!(status(&to.to_string()), 200, "it still serves");
}

#[test]
fn an_application_reaches_no_listener_of_the_mesh() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let any = "0.0.0.0:8080".parse().unwrap();
    let server = weft_testkit::peer::Server::start(&lab.netns("b"), any, Behaviour::Echo).unwrap();
    let a = lab.netns("a");
    load::echo(&a, "10.96.5.4:80".parse().unwrap(), 1000).unwrap();
    let mut targets: Vec<SocketAddr> = ["10.96.5.1:80", "10.96.5.2:80", "10.96.5.3:80"]
        .map(|vip| vip.parse().unwrap())
        .into();
    let mut loopback: Vec<IpAddr> = vec![[127, 0, 0, 1].into()];
    if has_ipv6() {
        loopback.push("::1".parse().unwrap());
        loopback.push("::ffff:127.0.0.1".parse().unwrap());
    }
    for pod in ["a", "b", "c"] {
        let mut addresses = vec![lab.v4(pod)];
        if has_ipv6() {
            addresses.push(lab.v6(pod));
        }
        if pod == "a" {
            addresses.extend(&loopback);
        }
        for address in addresses {
            targets.push(SocketAddr::new(address, HBONE));
            let ports = inside(&lab.netns(pod));
            targets.extend(ports.into_iter().map(|port| SocketAddr::new(address, port)));
        }
    }
    let before = server.seen().len();
    for to in targets {
        let answer = load::exchange(&a, to, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let silent = answer.as_ref().map_or(true, Vec::is_empty);
        assert!(silent, "{to} answers {answer:?}");
    }
    assert_eq!(server.seen().len(), before);
    // Who dials a listener itself is told so in the record.
    logged(&lab, "n1", &["the mesh's own listener was dialled"]);
    // And what goes through a tunnel to the tunnel port is refused at its end.
    logged(&lab, "n2", &["port 15008, which is the mesh's own"]);
    load::echo(&a, "10.96.5.4:80".parse().unwrap(), 1000).unwrap();
}
