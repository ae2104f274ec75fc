//! Namespaces that go away under the mesh: a held socket would keep them and their links alive.

use weft_testkit::lab::program::kill_all;
use weft_testkit::load;
use weft_testkit::netns::Netns;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::Builder;

use super::gate::{end, lose_the_agent};
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
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let before = links(&lab);
    let idle = load::connect(&lab.netns("a"), to).unwrap();
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

/// Two namespaces that somebody else made and joined; they go when dropped.
struct Adopted([Netns; 2]);

impl Adopted {
    fn new() -> Self {
        let name = |end: &str| format!("adopted{}{end}", std::process::id());
        let this = Self(["x", "y"].map(|end| Netns::create(name(end)).unwrap()));
        let [x, y] = &this.0;
        x.ip_batch(&format!(
            "link add eth0 type veth peer name eth0 netns {}\naddr add 10.98.0.1/24 dev eth0\nlink set eth0 up\n",
            y.name()
        ))
        .unwrap();
        y.ip_batch("addr add 10.98.0.2/24 dev eth0\nlink set eth0 up\n")
            .unwrap();
        this
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        for netns in &self.0 {
            let _ = netns.delete();
        }
    }
}

#[test]
fn an_adopted_namespace_deleted_while_the_agent_is_dead_leaves_nothing_alive() {
    if !weft_tests::is_root() {
        return;
    }
    let adopted = Adopted::new();
    let [x, y] = &adopted.0;
    let adopt = |netns: &Netns| {
        let name = netns.name().to_owned();
        move |entry: &mut weft_testkit::lab::file::PodEntry| entry.netns = Some(name)
    };
    let mut lab = Builder::two_nodes()
        .pod_with("a", "n1", adopt(x))
        .pod_with("b", "n2", adopt(y))
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    load::echo(x, to, 1000).unwrap();
    let open = load::connect(x, to).unwrap();
    let pins = lab.lab().place().bpffs().join("weft/n1/1/pods");
    assert_eq!(std::fs::read_dir(&pins).unwrap().count(), 1);

    let (gate, holder) = lose_the_agent(&lab);
    load::echo(x, to, 1000).unwrap();
    drop(open);
    x.delete().unwrap();
    // The other end of the cable goes with the namespace, so with the last descriptor of it and of a socket in it.
    until("the namespace is gone", LONG, || {
        let devices = read_in(y, "/proc/thread-self/net/dev");
        anyhow::ensure!(!devices.contains("eth0:"), "its link is there");
        let status = status(&lab)?;
        anyhow::ensure!(status["pods"] == serde_json::json!([]), "{status}");
        anyhow::ensure!(status["agent"]["connected"] == false, "{status}");
        Ok(())
    })
    .unwrap();

    gate.open();
    until("the pins of the pod are gone", LONG, || {
        let left = std::fs::read_dir(&pins)?.count();
        anyhow::ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .unwrap();
    end(holder);
    lab.lab_mut().restart_node("n1").unwrap();
}
