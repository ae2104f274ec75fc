//! Planned hand-overs that go wrong. The one that goes right is in `failure`, under load and with long connections.

use std::process::Stdio;

use weft_testkit::lab::program::kill_all;
use weft_testkit::load::Churn;
use weft_testkit::netns::Netns;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};

use super::{
    STEADY, TestLab, command_line, listener, program, run_in, status, two_pods, until_ready,
};

/// Starts a successor whose proxy can never serve.
fn start_broken_successor(lab: &TestLab, netns: &Netns) -> std::process::Child {
    let mut line = command_line(program(lab, "weft-node"));
    line.extend(["--takeover", "--proxy", "/bin/false"].map(ToOwned::to_owned));
    netns
        .enter(|| {
            let mut command = std::process::Command::new(&line[0]);
            command.args(&line[1..]).stdin(Stdio::null());
            Ok(command.spawn()?)
        })
        .unwrap()
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
    let mut successor = start_broken_successor(&lab, &node);
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
