//! The holder: what it keeps for whom, what it lets go of, and whom it believes.
//!
//! Method: a lab with two nodes; its node programs are asked through their sockets, killed, replaced and started twice,
//! while connections go on. Deaths of single programs under load are in `failure`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use weft_testkit::lab::program::{Running, kill_all};
use weft_testkit::lab::report;
use weft_testkit::load::{Churn, Death, Held};
use weft_testkit::netns::Netns;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};
use weft_testkit::{admin, load};
use weft_tests::lab::{Builder, TestLab, build_folder};

#[path = "node/absence.rs"]
mod absence;
#[path = "node/deletion.rs"]
mod deletion;
#[path = "node/gate.rs"]
mod gate;
#[path = "node/impostors.rs"]
mod impostors;
#[path = "node/memory.rs"]
mod memory;
#[path = "node/metrics.rs"]
mod metrics;
#[path = "node/privileges.rs"]
mod privileges;
#[path = "node/succession.rs"]
mod succession;

/// Good connections before and after the blow.
const STEADY: u64 = 50;

fn two_pods() -> TestLab {
    Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap()
}

fn program(lab: &TestLab, name: &str) -> Running {
    report::program_of_node(lab.lab(), "n1", name).unwrap_or_else(|| panic!("{name} does not run"))
}

/// What the node program of n1 says of itself.
fn status(lab: &TestLab) -> anyhow::Result<Value> {
    admin::get_json(&lab.lab().place().admin("n1", "node"), "/status")
}

fn until_ready(lab: &TestLab) {
    until("the node program is ready", LONG, || {
        let status = status(lab)?;
        anyhow::ensure!(status["ready"] == true, "{status}");
        Ok(())
    })
    .unwrap();
}

/// Inode of the listener that serves the first pod: the same number, the same socket.
fn listener(lab: &TestLab) -> u64 {
    status(lab).unwrap()["pods"][0]["listener_inode"]
        .as_u64()
        .unwrap()
}

/// The command line of a running program.
fn command_line(running: Running) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{}/cmdline", running.pid)).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.split_terminator('\0').map(ToOwned::to_owned).collect()
}

/// Runs a command line in a namespace to its end.
fn run_in(netns: &Netns, line: &[String]) -> Output {
    netns
        .enter(|| {
            Ok(Command::new(&line[0])
                .args(&line[1..])
                .stdin(Stdio::null())
                .output()?)
        })
        .unwrap()
}

/// Starts a command line in a namespace.
fn start_in(netns: &Netns, line: &[String]) -> Child {
    netns
        .enter(|| {
            let mut command = Command::new(&line[0]);
            Ok(command.args(&line[1..]).stdin(Stdio::null()).spawn()?)
        })
        .unwrap()
}

fn pair_dies(names: &[&str]) {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = two_pods();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let before = listener(&lab);
    let churn = Churn::new(&lab.netns("a"), to).start().unwrap();
    churn.wait_for(STEADY).unwrap();
    let victims: Vec<Running> = names.iter().map(|name| program(&lab, name)).collect();
    let signal = Instant::now();
    kill_all(&victims).unwrap();
    let gone = Instant::now();
    lab.lab_mut().restart_node("n1").unwrap();
    until_ready(&lab);
    let took_connections = names.contains(&"weft-proxy");
    let death = Death {
        who: names.join(" and "),
        held: if took_connections {
            Held::Near
        } else {
            Held::None
        },
        signal,
        gone,
        ready: Instant::now(),
    };
    churn.wait_for(STEADY).unwrap();
    let mut report = churn.stop().unwrap();
    // What the proxy held at that moment ends with it.
    report.excuse(&[death]);
    report.verdict().unwrap();
    assert_eq!(listener(&lab), before, "the listeners are the same sockets");
}

#[test]
fn nobody_notices_the_death_of_holder_and_proxy_together() {
    pair_dies(&["weft-node", "weft-proxy"]);
}

#[test]
fn nobody_notices_the_death_of_holder_and_agent_together() {
    pair_dies(&["weft-node", "weft-agent"]);
}

#[test]
fn the_stock_follows_demand_and_settings_of_a_pod_are_put_back() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = two_pods();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    assert_eq!(tw_reuse(&lab.netns("a")), "1");
    for _ in 0..200 {
        load::echo(&lab.netns("a"), to, 10).unwrap();
    }
    let pod = status(&lab).unwrap()["pods"][0].clone();
    assert!(pod["stock_v4"].as_u64().unwrap() > 0, "{pod}");

    lab.set_mesh("a", false).unwrap();
    until("the pod is let go of", LONG, || {
        let status = status(&lab)?;
        anyhow::ensure!(status["pods"] == Value::Array(Vec::new()), "{status}");
        Ok(())
    })
    .unwrap();
    until("tcp_tw_reuse is put back", LONG, || {
        anyhow::ensure!(tw_reuse(&lab.netns("a")) == "2", "not yet");
        Ok(())
    })
    .unwrap();
    until("no listener is left in the pod", LONG, || {
        let left = listening(&lab.netns("a"));
        anyhow::ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .unwrap();
    load::echo(&lab.netns("a"), to, 10).unwrap();
}

fn tw_reuse(netns: &Netns) -> String {
    read_in(netns, "/proc/sys/net/ipv4/tcp_tw_reuse")
        .trim()
        .to_owned()
}

/// Listening TCP sockets of a namespace (state 0A in `/proc/net/tcp`).
fn listening(netns: &Netns) -> usize {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .map(|path| read_in(netns, path))
        .map(|table| {
            let states = table
                .lines()
                .filter_map(|line| line.split_whitespace().nth(3));
            states.filter(|state| *state == "0A").count()
        })
        .sum()
}

fn read_in(netns: &Netns, path: &str) -> String {
    netns
        .enter(|| Ok(std::fs::read_to_string(Path::new(path))?))
        .unwrap()
}
