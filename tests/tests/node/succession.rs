//! Planned hand-overs that go wrong. The one that goes right is in `failure`, under load and with long connections.

use std::path::Path;

use weft_testkit::lab::program::kill_all;
use weft_testkit::load::Churn;
use weft_testkit::netns::Netns;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};

use super::gate::Gate;
use super::{
    STEADY, TestLab, command_line, listener, program, run_in, start_in, status, two_pods,
    until_ready,
};

/// Starts a successor with another program as its proxy.
fn start_successor(lab: &TestLab, netns: &Netns, proxy: &str) -> std::process::Child {
    let mut line = command_line(program(lab, "weft-node"));
    line.extend(["--takeover", "--proxy", proxy].map(ToOwned::to_owned));
    start_in(netns, &line)
}

#[test]
fn a_successor_that_dies_before_it_serves_leaves_the_old_programs_in_charge() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let (old_node, old_proxy) = (program(&lab, "weft-node"), program(&lab, "weft-proxy"));
    let before = listener(&lab);
    let churn = Churn::new(&lab.netns("a"), to).start().unwrap();
    churn.wait_for(STEADY).unwrap();

    let node = lab.lab().topology().node("n1");
    let mut successor = start_successor(&lab, &node, "/bin/false");
    until("the successor has an agent", LONG, || {
        let status = status(&lab)?;
        anyhow::ensure!(status["pid"] == successor.id(), "the old one answers");
        anyhow::ensure!(status["agent"]["connected"] == true, "{status}");
        Ok(())
    })
    .unwrap();
    churn.wait_for(STEADY).unwrap();
    successor.kill().unwrap();
    successor.wait().unwrap();

    until("the old node program answers again", LONG, || {
        let status = status(&lab)?;
        anyhow::ensure!(status["pid"] == old_node.pid, "{status}");
        Ok(())
    })
    .unwrap();
    until_ready(&lab);
    churn.wait_for(STEADY).unwrap();
    churn.stop().unwrap().verdict().unwrap();
    assert!(old_proxy.alive());
    assert_eq!(listener(&lab), before);

    // Everything is as it was: the old proxy may die, and its own successor serves.
    kill_all(&[old_proxy]).unwrap();
    until_ready(&lab);
}

#[test]
fn a_predecessor_that_dies_half_way_leaves_no_second_agent_or_proxy() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let old = ["weft-node", "weft-agent", "weft-proxy"].map(|name| program(&lab, name));
    let churn = Churn::new(&lab.netns("a"), to).start().unwrap();
    churn.wait_for(STEADY).unwrap();

    // The new proxy waits until the predecessor is dead.
    let gate = Gate::before(Path::new(&command_line(old[2])[0]));
    let node = lab.lab().topology().node("n1");
    let mut successor = start_successor(&lab, &node, gate.program().to_str().unwrap());
    until("the successor holds the pods", LONG, || {
        let status = status(&lab)?;
        anyhow::ensure!(status["pid"] == successor.id(), "the old one answers");
        Ok(())
    })
    .unwrap();
    kill_all(&old[..1]).unwrap();
    gate.open();
    until_ready(&lab);
    churn.wait_for(STEADY).unwrap();
    for (running, name) in old.iter().zip(["node", "agent", "proxy"]) {
        assert!(running.wait(LONG), "the old {name} lives on");
    }
    churn.wait_for(STEADY).unwrap();
    churn.stop().unwrap().verdict().unwrap();
    assert!(successor.try_wait().unwrap().is_none());
    successor.kill().unwrap();
    successor.wait().unwrap();
}

#[test]
fn a_takeover_from_nobody_says_so() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = two_pods();
    let mut line = command_line(program(&lab, "weft-node"));
    line.push("--takeover".to_owned());
    kill_all(&[program(&lab, "weft-node")]).unwrap();
    let output = run_in(&lab.lab().topology().node("n1"), &line);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("without --takeover"), "{text}");
    lab.lab_mut().restart_node("n1").unwrap();
    until_ready(&lab);
}
