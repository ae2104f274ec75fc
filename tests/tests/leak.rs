//! The leak oracle itself: what it must catch, it catches.
//!
//! Every system test trusts the oracle, so it is shown plaintext here in each way in which a mesh
//! could let it out, and must object.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use weft_testkit::lab::file::{LabFile, PodEntry};
use weft_testkit::lab::plan::{Plan, Surroundings, plan};
use weft_testkit::lab::topology::Topology;
use weft_testkit::leak::{Recorder, Why};
use weft_testkit::load;
use weft_testkit::netns::{Netns, has_ipv6};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::Builder;

/// Two nodes with a pod each and no mesh at all.
struct Bare {
    plan: Plan,
    topology: Topology,
}

impl Bare {
    fn new(name: &str) -> Self {
        let mut file = LabFile::parse("nodes: [{name: n1}, {name: n2}]").unwrap();
        file.pods = vec![PodEntry::new("a", "n1"), PodEntry::new("b", "n2")];
        let lab = format!("{name}-{}", std::process::id());
        let around = Surroundings {
            lab: &lab,
            adopted: &std::collections::BTreeMap::new(),
            ipv6: has_ipv6(),
            before: None,
        };
        let this = Self {
            plan: plan(&file, &around).unwrap(),
            topology: Topology::of(&lab),
        };
        this.topology.make_fabric().unwrap();
        for node in &this.plan.nodes {
            this.topology.make_node(node).unwrap();
        }
        for pod in &this.plan.pods {
            this.topology.make_pod(pod).unwrap();
        }
        this
    }

    fn netns(&self, index: usize) -> Netns {
        Netns::named(self.plan.pods[index].netns.clone())
    }

    fn record(&self) -> Recorder {
        let places = [self.topology.fabric(), self.topology.node("n1")];
        let enrolled = self.plan.pods.iter().flat_map(|pod| pod.addresses.clone());
        Recorder::start(&places, enrolled).unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.topology.remove_all().unwrap();
    }
}

#[test]
fn plaintext_between_pods_without_a_mesh_is_caught_on_both_families() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-plain");
    let server = Server::on_any(&bare.netns(1), Behaviour::Echo).unwrap();
    for address in &bare.plan.pods[1].addresses {
        let recorder = bare.record();
        load::echo(&bare.netns(0), server.at(*address), 10_000).unwrap();
        let report = recorder.stop().unwrap();
        assert_eq!(report.dropped, 0);
        let whys: Vec<&Why> = report.violations.iter().map(|found| &found.why).collect();
        assert!(whys.contains(&&Why::Uncaptured), "{report:?}");
        assert!(whys.contains(&&Why::Canary), "{report:?}");
        assert!(report.verdict().is_err());
    }
}

#[test]
fn plaintext_on_the_tunnel_port_is_caught() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-port");
    let server = Server::start(
        &bare.netns(1),
        "0.0.0.0:15008".parse().unwrap(),
        Behaviour::Greet("hello\n".to_owned()),
    )
    .unwrap();
    let recorder = bare.record();
    let to = server.at(bare.plan.pods[1].addresses[0]);
    load::exchange(&bare.netns(0), to, b"no canary, and no TLS either").unwrap();
    let report = recorder.stop().unwrap();
    assert!(
        report
            .violations
            .iter()
            .any(|found| found.why == Why::NotTls),
        "{report:?}"
    );
}

#[test]
fn silence_is_no_leak() {
    if !weft_tests::is_root() {
        return;
    }
    let bare = Bare::new("leak-none");
    let report = bare.record().stop().unwrap();
    report.verdict().unwrap();
}

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

#[test]
fn a_policy_tells_pods_of_one_node_apart_by_identity() {
    if !weft_tests::is_root() {
        return;
    }
    // Two pods of one node talk to a third through one proxy. Were their identities or tunnels
    // mixed up, or were the policy not judged at all, the second call of each round would differ.
    let policy = |account: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only}}
spec:
  selector: {{matchLabels: {{app: b}}}}
  action: ALLOW
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]}}]
"
        )
    };
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("c", "n1")
        .pod("b", "n2")
        .resource(&policy("a"))
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    for allowed in ["a", "c", "a"] {
        lab.set_resource(0, &policy(allowed)).unwrap();
        let refused = if allowed == "a" { "c" } else { "a" };
        until("the policy to reach the proxies", LONG, || {
            load::echo(&lab.netns(allowed), to, 1000)?;
            anyhow::ensure!(
                load::echo(&lab.netns(refused), to, 1000).is_err(),
                "{refused} is let in"
            );
            Ok(())
        })
        .unwrap();
        for _ in 0..20 {
            load::echo(&lab.netns(allowed), to, 100).unwrap();
            assert!(load::echo(&lab.netns(refused), to, 100).is_err());
        }
    }
}
