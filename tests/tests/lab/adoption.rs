//! Network namespaces made by others: adopted, left as they were, and in one lab at a time.

use rustix::process::Signal;
use weft_testkit::lab::program::Running;
use weft_testkit::wait::SHORT;

use super::*;

/// Two namespaces of the test's own, joined by a link, with addresses that no lab would give; deleted when dropped.
pub(super) struct Foreign {
    pub(super) ends: [Netns; 2],
}

impl Foreign {
    pub(super) fn pair(word: &str) -> Self {
        let name = |end: &str| format!("{word}-{end}{}", std::process::id());
        let this = Self {
            ends: ["x", "y"].map(|end| Netns::create(name(end)).unwrap()),
        };
        let [x, y] = &this.ends;
        x.ip_batch(&format!(
            "link add eth0 type veth peer name eth0 netns {}\naddress add 192.0.2.1/24 dev eth0\nlink set eth0 up\n",
            y.name()
        ))
        .unwrap();
        y.ip_batch("address add 192.0.2.2/24 dev eth0\nlink set eth0 up\n")
            .unwrap();
        this
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = end.delete();
        }
    }
}

/// What the mesh changes inside a pod.
pub(super) fn setting(netns: &Netns) -> String {
    netns
        .enter(|| Ok(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse")?))
        .unwrap()
}

#[test]
fn namespaces_made_by_others_are_enrolled_and_left_as_they_were() {
    if !weft_tests::is_root() {
        return;
    }
    let pair = Foreign::pair("left");
    let ends = &pair.ends;
    let before = setting(&ends[0]);
    {
        let lab = Builder::two_nodes()
            .pod_with("x", "n1", |pod| pod.netns = Some(ends[0].name().to_owned()))
            .pod_with("y", "n2", |pod| pod.netns = Some(ends[1].name().to_owned()))
            .up()
            .unwrap();
        let server = Server::on_any(&ends[1], Behaviour::Echo).unwrap();
        let recorder = weft_testkit::leak::Recorder::start(ends, lab.mesh_addresses()).unwrap();
        load::echo(&ends[0], server.at("192.0.2.2".parse().unwrap()), 50_000).unwrap();
        let report = recorder.stop().unwrap();
        report.verdict().unwrap();
        assert!(report.flows.iter().any(|(_, flow)| flow.tls), "{report:?}");
    }
    let after = setting(&ends[0]);
    for end in ends {
        assert!(end.exists(), "an adopted namespace was deleted");
        assert!(!end.global_addresses().unwrap().is_empty());
    }
    // Plain networking is back.
    let server = Server::on_any(&ends[1], Behaviour::Echo).unwrap();
    load::echo(&ends[0], server.at("192.0.2.2".parse().unwrap()), 100).unwrap();
    assert_eq!(
        before, after,
        "a setting of an adopted namespace is not put back"
    );
}

#[test]
fn a_namespace_that_goes_from_lab_to_lab_is_in_the_end_as_it_was() {
    if !has_xtask() {
        return;
    }
    let pair = Foreign::pair("relay");
    let x = &pair.ends[0];
    let before = setting(x);
    let with = format!(
        "nodes: [{{name: n1}}]\npods: [{{name: a, node: n1, netns: {}}}]\n",
        x.name()
    );
    let first = CommandLine::new("relay1");
    let second = CommandLine::new("relay2");
    first.up(&with).unwrap();
    let in_the_mesh = setting(x);
    assert_ne!(in_the_mesh, before);
    first.write("lab.yaml", "nodes: [{name: n1}]\n");
    // Tried as early as it can be: while it is the first one's, it is refused.
    until("the second lab to have it", LONG, || {
        second.up(&with).map_err(anyhow::Error::msg)
    })
    .unwrap();
    assert!(first.lab(&["down"]).status.success());
    assert_eq!(setting(x), in_the_mesh, "the first lab took it back");
    assert!(second.lab(&["down"]).status.success());
    assert_eq!(setting(x), before, "the second lab noted a wrong value");
}

#[test]
fn an_edit_that_takes_a_namespace_out_outlives_a_node_that_dies_before_it_lets_go() {
    if !has_xtask() {
        return;
    }
    let pair = Foreign::pair("dies");
    let x = &pair.ends[0];
    let before = setting(x);
    let lab = CommandLine::new("dies");
    let with = format!(
        "nodes: [{{name: n1}}]\npods: [{{name: a, node: n1, netns: {}}}]\n",
        x.name()
    );
    let document = lab.up(&with).unwrap();
    assert_ne!(setting(x), before);
    let node = &document["nodes"][0];
    lab.write("lab.yaml", "nodes: [{name: n1}]\n");
    // The mesh lets go of it first, the node seconds later: in between the node is killed.
    let log = Path::new("/run/weft-lab")
        .join(&lab.name)
        .join("log/watcher.log");
    until("the wait for the node", LONG, || {
        let said = std::fs::read_to_string(&log)?;
        anyhow::ensure!(said.contains("the node to let go of default/a"), "{said}");
        Ok(())
    })
    .unwrap();
    let pid = i32::try_from(node["nodePid"].as_i64().unwrap()).unwrap();
    let holder = Running::of(pid).expect("it runs");
    assert!(holder.signal(Signal::KILL));
    // Far below the bound of the wait for a node that lives.
    until("the edit to be applied", SHORT * 3, || {
        let edit = lab.status()["edit"].clone();
        anyhow::ensure!(edit["pending"] == false, "{edit}");
        assert_eq!(edit["applied"], true, "{edit}");
        Ok(())
    })
    .unwrap();
    assert_eq!(setting(x), before);
}

#[test]
fn a_namespace_that_one_lab_has_is_refused_to_the_next_until_it_is_let_go() {
    if !has_xtask() {
        return;
    }
    let pair = Foreign::pair("one");
    let [x, y] = pair.ends.each_ref().map(Netns::name);
    let first = CommandLine::new("first");
    let second = CommandLine::new("second");
    let with = |netns: &str| {
        format!("nodes: [{{name: n1}}]\npods: [{{name: a, node: n1, netns: {netns}}}]\n")
    };
    first.up(&with(x)).unwrap();

    let error = second.up(&with(x)).unwrap_err();
    for word in [x, &first.name, "belongs to", "lab down"] {
        assert!(error.contains(word), "{error:?} does not name {word:?}");
    }
    second.assert_nothing_left();
    // Nor what a lab made, nor under another name.
    let own = format!("weft.{}.node.n1", first.name);
    let error = second.up(&with(&own)).unwrap_err();
    assert!(
        error.contains(&first.name) && error.contains("made by lab"),
        "{error}"
    );
    second.assert_nothing_left();

    // An edit is refused in the same way and changes nothing.
    second.up(&with(y)).unwrap();
    second.write("lab.yaml", &with(x));
    until("the edit to be refused", LONG, || {
        let edit = second.status()["edit"].clone();
        let error = edit["error"].as_str().unwrap_or_default();
        anyhow::ensure!(
            error.contains(&first.name) && edit["pending"] == false,
            "{edit}"
        );
        Ok(())
    })
    .unwrap();
    assert_eq!(second.status()["pods"][0]["netns"], *y);

    // The first lets go of it: the second takes it with the next edit.
    assert!(first.lab(&["down"]).status.success());
    second.write("lab.yaml", &(with(x) + "settings: {}\n"));
    until("the edit to take effect", LONG, || {
        let status = second.status();
        anyhow::ensure!(
            status["pods"][0]["netns"] == *x && status["edit"]["pending"] == false,
            "{}",
            status["edit"]
        );
        Ok(())
    })
    .unwrap();
}
