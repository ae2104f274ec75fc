//! Pods that join and leave the mesh while they run.

use std::io::{Read as _, Write as _};

use weft_testkit::load;
use weft_testkit::peer::Behaviour;
use weft_tests::lab::Builder;

/// Rounds of joining and leaving; `WEFT_TEST_LONG=1` makes it the long size.
const ROUNDS: usize = 10;
const ROUNDS_LONG: usize = 100;

#[test]
fn connections_from_before_go_on_and_new_ones_are_captured() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .plain_pod("a", "n1")
        .plain_pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let mut old = load::connect(&lab.netns("a"), to).unwrap();
    let mut ping = || {
        old.write_all(b"~ping~").unwrap();
        old.read_exact(&mut [0; 6]).unwrap();
    };
    ping();
    for pod in ["a", "b"] {
        lab.set_mesh(pod, true).unwrap();
    }
    ping();
    let recorder = lab.record().unwrap();
    load::echo(&lab.netns("a"), to, 10_000).unwrap();
    recorder.stop().unwrap().verdict().unwrap();
    for pod in ["a", "b"] {
        lab.set_mesh(pod, false).unwrap();
    }
    ping();
    let recorder = lab.record().unwrap();
    load::echo(&lab.netns("a"), to, 10_000).unwrap();
    let report = recorder.stop().unwrap();
    assert!(
        report.flows.iter().any(|(_, flow)| flow.canary),
        "outside of the mesh it is plain networking again"
    );
}

#[test]
fn joining_and_leaving_leaves_nothing_behind() {
    if !weft_tests::is_root() {
        return;
    }
    let rounds = if std::env::var_os("WEFT_TEST_LONG").is_some() {
        ROUNDS_LONG
    } else {
        ROUNDS
    };
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let mut before = None;
    for round in 0..rounds {
        load::echo(&lab.netns("a"), to, 1000).unwrap();
        lab.set_mesh("a", false).unwrap();
        load::echo(&lab.netns("a"), to, 1000).unwrap();
        let now = pins(&lab);
        let first = before.get_or_insert_with(|| now.clone());
        assert_eq!(*first, now, "round {round} left a pin");
        lab.set_mesh("a", true).unwrap();
    }
    lab.set_mesh("a", false).unwrap();
    lab.set_mesh("b", false).unwrap();
    let socket = lab.lab().place().admin("n1", "agent");
    let counters = weft_testkit::admin::get_json(&socket, "/counters").unwrap();
    println!("counters of n1 at the end: {counters}");
}

/// Everything that is pinned in the lab's BPF file system.
fn pins(lab: &weft_tests::lab::TestLab) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![lab.lab().place().bpffs()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}
