//! What the proxy decides and what it says about it: identities, policies, records, shortcuts, admin.
//!
//! Each test brings up the real programs on two nodes and judges by what applications see and by what the proxies'
//! admin sockets, logs and metrics say. Shapes of traffic are in `traffic`, deaths of programs in `failure`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use weft_testkit::admin;
use weft_testkit::load;
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

#[path = "common/stand_in.rs"]
mod stand_in;

#[path = "proxy/departure.rs"]
mod departure;

#[path = "proxy/jam.rs"]
mod jam;

#[path = "proxy/policy.rs"]
mod policy;

#[path = "proxy/refusal.rs"]
mod refusal;

#[path = "proxy/service.rs"]
mod service;

/// Pods a and c on node n1, b on n2, and p on n2 outside of the mesh.
fn four_pods() -> Builder {
    Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .pod("c", "n1")
        .plain_pod("p", "n2")
}

/// Whether a connection from a pod carries a byte there and back.
fn reaches(lab: &TestLab, from: &str, to: SocketAddr) -> bool {
    load::exchange(&lab.netns(from), to, b"x").is_ok_and(|answer| answer == b"x")
}

/// A connection that is known to be through, because a byte came back.
fn established(lab: &TestLab, from: &str, to: SocketAddr) -> TcpStream {
    let mut stream = load::connect(&lab.netns(from), to).unwrap();
    assert!(alive(&mut stream));
    stream
}

fn alive(stream: &mut TcpStream) -> bool {
    stream.write_all(b"y").is_ok() && stream.read_exact(&mut [0; 1]).is_ok()
}

fn ask(lab: &TestLab, node: &str, path: &str) -> anyhow::Result<Value> {
    admin::get_json(&lab.lab().place().admin(node, "proxy"), path)
}

/// The live connections of a node, of one direction.
fn live(lab: &TestLab, node: &str, direction: &str) -> Vec<Value> {
    let all = ask(lab, node, "/connections").unwrap();
    let all = all["connections"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|c| c["direction"] == direction)
        .collect()
}

/// Waits for a line in a proxy's log that holds all of the words.
fn record(lab: &TestLab, node: &str, words: &[&str]) -> String {
    let log = lab.lab().place().node_logs(node).join("proxy.log");
    until(&format!("a record with {words:?}"), LONG, || {
        let text = std::fs::read_to_string(&log)?;
        let found = text
            .lines()
            .find(|line| words.iter().all(|word| line.contains(word)));
        found
            .map(str::to_owned)
            .ok_or_else(|| anyhow::anyhow!("none"))
    })
    .unwrap()
}

#[test]
fn both_sides_know_and_record_who_talks_to_whom() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = four_pods().up().unwrap();
    let server = Server::on_any(&lab.netns("b"), Behaviour::Echo).unwrap();
    let mut targets = vec![server.at(lab.v4("b"))];
    if has_ipv6() {
        targets.push(server.at(lab.v6("b")));
    }
    for to in targets {
        let stream = established(&lab, "a", to);
        let client = stream.local_addr().unwrap();
        for (node, direction) in [("n1", "outbound"), ("n2", "inbound")] {
            let [connection] = live(&lab, node, direction).try_into().unwrap();
            let field = |name: &str| connection[name].as_str().unwrap_or_default().to_owned();
            assert_eq!(
                field("source_identity"),
                "spiffe://cluster.local/ns/default/sa/a"
            );
            assert_eq!(
                field("destination_identity"),
                "spiffe://cluster.local/ns/default/sa/b"
            );
            assert_eq!(field("source"), client.to_string());
            assert_eq!(field("target"), to.to_string());
            assert_eq!(field("security"), "mutual_tls");
            assert_eq!(connection["bytes_sent"], 1);
        }
        drop(stream);
        let client = format!("src.addr={client}");
        for (node, direction) in [("n1", "outbound"), ("n2", "inbound")] {
            let line = record(
                &lab,
                node,
                &[&client, direction, "bytes_sent=1 bytes_recv=1"],
            );
            assert!(line.contains("dst.identity=\"spiffe://cluster.local/ns/default/sa/b\""));
        }
    }
}

#[test]
fn metrics_carry_istio_s_names_and_labels() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = four_pods().up().unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    drop(established(&lab, "a", to));
    for (node, reporter) in [("n1", "source"), ("n2", "destination")] {
        let netns = lab.lab().topology().node(node);
        let address = "127.0.0.1:15020".parse().unwrap();
        until("the closed connection in the metrics", LONG, || {
            let text = admin::get_tcp(&netns, address, "/metrics")?;
            let closed = text.lines().find(|line| {
                line.starts_with("istio_tcp_connections_closed_total{")
                    && line.contains(&format!("reporter=\"{reporter}\""))
                    && line.contains("source_principal=\"spiffe://cluster.local/ns/default/sa/a\"")
                    && line.contains("destination_workload=\"b\"")
                    && line.contains("connection_security_policy=\"mutual_tls\"")
            });
            anyhow::ensure!(closed.is_some_and(|line| line.ends_with(" 1")), "{text}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn pods_of_one_node_are_joined_without_a_tunnel_unless_the_wire_is_required() {
    if !weft_tests::is_root() {
        return;
    }
    for (required, tunnelled) in [(false, false), (true, true)] {
        let lab = four_pods()
            .setting("requireWireMtls", required)
            .up()
            .unwrap();
        let (_server, to) = lab.serve("c", Behaviour::Echo).unwrap();
        let _stream = established(&lab, "a", to);
        let [outbound] = live(&lab, "n1", "outbound").try_into().unwrap();
        let [inbound] = live(&lab, "n1", "inbound").try_into().unwrap();
        for side in [&outbound, &inbound] {
            assert_eq!(side["target"].is_string(), tunnelled, "{side}");
            assert_eq!(
                side["source_identity"],
                "spiffe://cluster.local/ns/default/sa/a"
            );
            assert_eq!(
                side["destination_identity"],
                "spiffe://cluster.local/ns/default/sa/c"
            );
        }
    }
}

#[test]
fn unknown_addresses_pass_or_are_refused_by_the_mesh_s_setting() {
    if !weft_tests::is_root() {
        return;
    }
    for (mode, want) in [("ALLOW_ANY", true), ("REGISTRY_ONLY", false)] {
        let setting = serde_json::json!({ "mode": mode });
        let lab = four_pods()
            .setting("outboundTrafficPolicy", setting)
            .up()
            .unwrap();
        // The node's own address belongs to no workload.
        let node = lab.lab().topology().node("n2");
        let server = Server::on_any(&node, Behaviour::Echo).unwrap();
        let plan = &lab.lab().record().plan;
        let address = plan
            .nodes
            .iter()
            .find(|n| n.name == "n2")
            .unwrap()
            .addresses[0];
        assert_eq!(reaches(&lab, "a", server.at(address)), want, "{mode}");
        // What the mesh knows is reached either way.
        let (_known, to) = lab.serve("b", Behaviour::Echo).unwrap();
        assert!(reaches(&lab, "a", to), "{mode}");
    }
}

#[test]
fn admin_shows_configuration_and_certificates_but_never_a_key() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = four_pods().up().unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    drop(established(&lab, "a", to));
    let dump = ask(&lab, "n1", "/config_dump").unwrap();
    assert_eq!(dump["origin"], "Live");
    assert_eq!(dump["pods"].as_array().unwrap().len(), 2);
    assert_eq!(dump["workloads"].as_array().unwrap().len(), 4);
    let certificates = ask(&lab, "n1", "/certificates").unwrap();
    let names: Vec<_> = certificates
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["identity"])
        .collect();
    let id = |account: &str| format!("spiffe://cluster.local/ns/default/sa/{account}");
    assert_eq!(names, [&Value::from(id("a")), &Value::from(id("c"))]);
    let socket = lab.lab().place().admin("n1", "proxy");
    for path in ["/config_dump", "/certificates", "/connections"] {
        let text = admin::get(&socket, path).unwrap();
        assert!(
            !text.contains("PRIVATE") && !text.contains("BEGIN"),
            "{path}"
        );
    }
    let level = admin::get(&socket, "/logging?level=weft_proxy%3Ddebug%2Cinfo").unwrap();
    assert!(level.contains("weft_proxy=debug"), "{level}");
    assert!(admin::get(&socket, "/logging?level=loud%3D%3D").is_err());
    assert_eq!(admin::get(&socket, "/healthz/ready").unwrap(), "ready\n");
}
