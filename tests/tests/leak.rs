//! The leak oracle itself: what it must catch, it catches.
//!
//! Every system test trusts the oracles, so they are shown here a mesh that is broken on purpose, in capture, identity
//! and policy, and must object.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

#[path = "leak/bare.rs"]
mod bare;
#[path = "leak/flood.rs"]
mod flood;
#[path = "leak/plaintext.rs"]
mod plaintext;
#[path = "leak/wires.rs"]
mod wires;

use std::net::SocketAddr;

use weft_testkit::leak::{Truth, Why};
use weft_testkit::load;
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

#[test]
fn a_pod_that_is_not_captured_is_caught_beside_a_running_mesh() {
    if !weft_tests::is_root() {
        return;
    }
    // Capture is broken on purpose: the pod leaves the mesh while the oracle holds it to be inside.
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let recorder = lab.record().unwrap();
    load::echo(&lab.netns("a"), to, 5000).unwrap();
    recorder.stop().unwrap().verdict().unwrap();
    let recorder = lab.record().unwrap();
    lab.breaks_on_purpose();
    lab.set_mesh("a", false).unwrap();
    load::echo(&lab.netns("a"), to, 5000).unwrap();
    let report = recorder.stop().unwrap();
    assert!(
        report
            .violations
            .iter()
            .any(|found| found.why == Why::Canary),
        "{report:?}"
    );
}

/// Removes pins below a node's folder of pins, and with them the attachments of programs; returns how many.
fn detach(lab: &TestLab, node: &str, names: &[&str]) -> usize {
    let mut folders = vec![lab.lab().place().bpffs().join("weft").join(node)];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if names.iter().any(|name| entry.file_name() == *name) {
                std::fs::remove_file(entry.path()).unwrap();
                count += 1;
            }
        }
    }
    count
}

#[test]
fn an_enrolled_pod_whose_hooks_are_detached_is_caught_on_both_families() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    lab.breaks_on_purpose();
    let server = Server::on_any(&lab.netns("b"), Behaviour::Echo).unwrap();
    let mut targets = vec![server.at(lab.v4("b"))];
    if has_ipv6() {
        targets.push(server.at(lab.v6("b")));
    }
    let recorder = lab.record().unwrap();
    for to in &targets {
        load::echo(&lab.netns("a"), *to, 5000).unwrap();
    }
    recorder.stop().unwrap().verdict().unwrap();
    assert_eq!(detach(&lab, "n1", &["connect4", "connect6"]), 2);
    // A link goes some time after its pin.
    until("plaintext to be caught", LONG, || {
        for to in &targets {
            let recorder = lab.record()?;
            load::echo(&lab.netns("a"), *to, 5000)?;
            let report = recorder.stop()?;
            let whys: Vec<&Why> = report.violations.iter().map(|found| &found.why).collect();
            for why in [Why::Uncaptured, Why::Canary] {
                anyhow::ensure!(whys.contains(&&why), "{to}: no {why:?} in {report:?}");
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_mesh_that_hands_two_pods_each_others_identity_is_caught() {
    if !weft_tests::is_root() {
        return;
    }
    // What the test holds to be true is by name; what the mesh is told is crossed for a and c.
    let mut lab = Builder::two_nodes()
        .pod_with("a", "n1", |entry| {
            "c".clone_into(&mut entry.service_account);
        })
        .pod_with("c", "n1", |entry| {
            "a".clone_into(&mut entry.service_account);
        })
        .pod("b", "n2")
        .up()
        .unwrap();
    lab.breaks_on_purpose();
    let mut truth = Truth::default();
    for name in ["a", "b", "c"] {
        let identity = format!("spiffe://cluster.local/ns/default/sa/{name}");
        truth.learn(lab.v4(name), identity);
    }
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    for pod in ["a", "c"] {
        load::echo(&lab.netns(pod), to, 1000).unwrap();
    }
    for node in ["n1", "n2"] {
        let log = lab.lab().place().node_logs(node).join("proxy.log");
        until("records of both connections", LONG, || {
            let text = std::fs::read_to_string(&log)?;
            let (_, wrong) = truth.check(&text);
            anyhow::ensure!(wrong.len() >= 2, "{wrong:?}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_mesh_that_judges_no_policy_is_caught() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("c", "n1")
        .pod("b", "n2")
        .plain_pod("p", "n1")
        .resource(&only_account("a"))
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    until("the policy to be in force", LONG, || {
        admits_only(&lab, to, "a", &["c", "p"])
    })
    .unwrap();
    // Past the proxy: without its lookup the pod's own listener answers whoever dials it plainly. A link goes some time
    // after its pin.
    assert_eq!(detach(&lab, "n2", &["lookup"]), 1);
    until("the caller to be let in", LONG, || {
        let noticed = refuses(&lab, to, "p").is_err();
        anyhow::ensure!(noticed, "it is still refused");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_mesh_that_judges_another_policy_is_caught() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("c", "n1")
        .pod("b", "n2")
        .resource(&only_account("a"))
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    until("the policy to be in force", LONG, || {
        admits_only(&lab, to, "a", &["c"])
    })
    .unwrap();
    // Everybody, and somebody else: both must be noticed by who asks for the first policy.
    for other in ["'*'", "cluster.local/ns/default/sa/c"] {
        lab.set_resource(0, &only_principal(other)).unwrap();
        until("the other policy to be noticed", LONG, || {
            let noticed = admits_only(&lab, to, "a", &["c"]).is_err();
            anyhow::ensure!(noticed, "it looks like the first one");
            Ok(())
        })
        .unwrap();
    }
}

/// An error unless the server admits that one and none of the others.
fn admits_only(
    lab: &TestLab,
    to: SocketAddr,
    admitted: &str,
    refused: &[&str],
) -> anyhow::Result<()> {
    load::echo(&lab.netns(admitted), to, 1000)?;
    refused.iter().try_for_each(|pod| refuses(lab, to, pod))
}

/// An error when the server lets that one in.
fn refuses(lab: &TestLab, to: SocketAddr, pod: &str) -> anyhow::Result<()> {
    let outcome = load::echo(&lab.netns(pod), to, 1000);
    anyhow::ensure!(outcome.is_err(), "{pod} is let in");
    Ok(())
}

fn only_account(account: &str) -> String {
    only_principal(&format!("cluster.local/ns/default/sa/{account}"))
}

fn only_principal(principal: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only}}
spec:
  selector: {{matchLabels: {{app: b}}}}
  action: ALLOW
  rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]
"
    )
}

#[test]
fn a_policy_tells_pods_of_one_node_apart_by_identity() {
    if !weft_tests::is_root() {
        return;
    }
    // Two pods of one node talk to a third through one proxy. Were their identities or tunnels
    // mixed up, or were the policy not judged at all, the second call of each round would differ.
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("c", "n1")
        .pod("b", "n2")
        .resource(&only_account("a"))
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    for allowed in ["a", "c", "a"] {
        lab.set_resource(0, &only_account(allowed)).unwrap();
        let refused = if allowed == "a" { "c" } else { "a" };
        until("the policy to reach the proxies", LONG, || {
            admits_only(&lab, to, allowed, &[refused])
        })
        .unwrap();
        for _ in 0..20 {
            load::echo(&lab.netns(allowed), to, 100).unwrap();
            assert!(load::echo(&lab.netns(refused), to, 100).is_err());
        }
    }
}
