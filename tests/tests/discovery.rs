//! A pod that is dialled before its entry arrived at the client's node.
//!
//! Method: a lab whose controller is replaced by one that a test edits by hand. To node n1 it says nothing about pod b, as if
//! the entry were still on its way; once pod a has dialled and its proxy holds the connection, the entry comes. Whether
//! anything went out in clear is judged by the leak oracle, on the fabric and in both nodes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use weft_proto::resource::ADDRESS;
use weft_testkit::ads::Configuration;
use weft_testkit::leak::canary_payload;
use weft_testkit::load;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};
use weft_testkit::{admin, netns};
use weft_tests::lab::{Builder, TestLab};

#[path = "common/stand_in.rs"]
mod stand_in;

const ENTRY_OF_B: &str = "Kubernetes//Pod/default/b";

fn two_pods() -> Builder {
    Builder::two_nodes().pod("a", "n1").pod("b", "n2")
}

/// Leaves pod b to its own node: to everybody else its entry has not come.
fn hold_back(lab: &TestLab, configuration: &mut Configuration) {
    let key = (ADDRESS.to_owned(), ENTRY_OF_B.to_owned());
    let entry = configuration.everyone.0.remove(&key).unwrap();
    let token = stand_in::token(lab, "n2");
    configuration
        .tokens
        .get_mut(&token)
        .unwrap()
        .put(ENTRY_OF_B, entry);
}

/// The entry of pod b comes.
fn publish(lab: &TestLab, configuration: &mut Configuration) {
    let key = (ADDRESS.to_owned(), ENTRY_OF_B.to_owned());
    let own = &configuration.tokens[&stand_in::token(lab, "n2")];
    let entry = own.0[&key].clone();
    configuration.everyone.put(ENTRY_OF_B, entry);
}

fn ask(lab: &TestLab, path: &str) -> anyhow::Result<serde_json::Value> {
    admin::get_json(&lab.lab().place().admin("n1", "proxy"), path)
}

fn knows_b(lab: &TestLab) -> bool {
    let dump = ask(lab, "/config_dump").unwrap();
    let workloads = dump["workloads"].as_array().unwrap().clone();
    workloads
        .iter()
        .any(|workload| workload["uid"] == ENTRY_OF_B)
}

fn targets(lab: &TestLab) -> Vec<(SocketAddr, &'static str)> {
    let mut all = vec![(SocketAddr::new(lab.v4("b"), 0), "v4")];
    if netns::has_ipv6() {
        all.push((SocketAddr::new(lab.v6("b"), 0), "v6"));
    }
    all
}

#[test]
fn a_pod_dialled_before_its_entry_arrived_is_reached_over_mtls_and_never_in_clear() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods().up().unwrap();
    let (server, _) = lab.serve("b", Behaviour::Echo).unwrap();
    let control = stand_in::take_over(&lab);
    for (to, family) in targets(&lab) {
        let to = server.at(to.ip());
        control.change(|configuration| hold_back(&lab, configuration));
        until("the entry to be unknown", LONG, || {
            anyhow::ensure!(!knows_b(&lab), "it is still there");
            Ok(())
        })
        .unwrap();
        let recorder = lab.record().unwrap();
        let mut stream = load::connect(&lab.netns("a"), to).unwrap();
        let payload = canary_payload(10_000);
        stream.write_all(&payload).unwrap();
        let mine = stream.local_addr().unwrap();
        until("the proxy to hold the connection", LONG, || {
            let all = ask(&lab, "/connections")?;
            let all = all["connections"].as_array().unwrap().clone();
            let held = all.iter().any(|c| c["source"] == mine.to_string());
            anyhow::ensure!(held, "{family}: {all:?}");
            Ok(())
        })
        .unwrap();
        control.change(|configuration| publish(&lab, configuration));
        let mut back = vec![0; payload.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(
            back == payload,
            "{family}: another answer than what was sent"
        );
        let report = recorder.stop().unwrap();
        report.verdict().unwrap();
    }
    control.stop().unwrap();
}

#[test]
fn without_pod_ranges_such_a_connection_leaves_in_plaintext_and_the_oracle_sees_it() {
    if !weft_tests::is_root() {
        return;
    }
    let none = serde_json::Value::Array(Vec::new());
    let mut lab = two_pods().setting("podCidrs", none).up().unwrap();
    lab.breaks_on_purpose();
    let (server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let control = stand_in::take_over(&lab);
    control.change(|configuration| hold_back(&lab, configuration));
    until("the entry to be unknown", LONG, || {
        anyhow::ensure!(!knows_b(&lab), "it is still there");
        Ok(())
    })
    .unwrap();
    let recorder = lab.record().unwrap();
    let payload = canary_payload(10_000);
    assert_eq!(
        load::exchange(&lab.netns("a"), to, &payload).unwrap(),
        payload
    );
    assert!(
        recorder.stop().unwrap().verdict().is_err(),
        "nobody saw the payload"
    );
    drop(server);
    control.stop().unwrap();
}

#[test]
fn the_controller_s_word_that_there_is_no_such_pod_lets_the_connection_pass() {
    if !weft_tests::is_root() {
        return;
    }
    // An address of the ranges that belongs to no pod: the node's own, with a server that is not of the mesh.
    let lab = two_pods().up().unwrap();
    let node = lab.lab().topology().node("n2");
    let server = weft_testkit::peer::Server::on_any(&node, Behaviour::Echo).unwrap();
    let plan = &lab.lab().record().plan;
    let n2 = plan.nodes.iter().find(|node| node.name == "n2").unwrap();
    let asked_before = messages(&lab);
    for address in n2.addresses.clone() {
        let answer = load::exchange(&lab.netns("a"), server.at(address), b"x");
        assert_eq!(answer.unwrap(), b"x", "{address}");
    }
    assert!(
        messages(&lab) > asked_before,
        "the controller was asked, and answered"
    );
}

/// Responses of the controller that the proxy of n1 has had.
fn messages(lab: &TestLab) -> u64 {
    let dump = ask(lab, "/config_dump").unwrap();
    dump["controller"]["responses"].as_u64().unwrap()
}
