//! Namespaces that go away under the mesh: a held socket would keep them and their links alive.

use weft_testkit::lab::program::kill_all;
use weft_testkit::wait::{LONG, until};

use super::{TestLab, listener, program, read_in, status, two_pods, until_ready};

/// Links of n1; the one to the pod ends with the pod's namespace.
fn links(lab: &TestLab) -> usize {
    let node = lab.lab().topology().node("n1");
    read_in(&node, "/proc/thread-self/net/dev").lines().count()
}

fn until_gone(lab: &TestLab, links_before: usize) {
    until("the namespace and its link are gone", LONG, || {
        let now = links(lab);
        anyhow::ensure!(now < links_before, "{now} links, as before");
        let status = status(lab)?;
        let pods = status["pods"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(pods == 0, "still held: {status}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_deleted_namespace_with_open_connections_is_let_go_of() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods();
    let (_server, to) = lab.serve("b", weft_testkit::peer::Behaviour::Echo).unwrap();
    let before = links(&lab);
    let idle = weft_testkit::load::connect(&lab.netns("a"), to).unwrap();
    assert!(listener(&lab) > 0);
    // Our own end would keep the namespace as well.
    drop(idle);
    lab.netns("a").delete().unwrap();
    until_gone(&lab, before);
}

#[test]
fn a_namespace_deleted_while_holder_and_agent_are_dead_is_let_go_of_by_the_next_holder() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = two_pods();
    let before = links(&lab);
    kill_all(&[program(&lab, "weft-node"), program(&lab, "weft-agent")]).unwrap();
    lab.netns("a").delete().unwrap();
    lab.lab_mut().restart_node("n1").unwrap();
    until_ready(&lab);
    until_gone(&lab, before);
}
