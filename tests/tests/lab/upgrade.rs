//! Upgrades: a build that does not work, and one node at a time.

use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use weft_testkit::lab::report::{self, program_of_node};
use weft_tests::lab::TestLab;

use super::*;

/// Copies of the programs of this build; another build as far as a lab can tell.
fn other_build() -> TempDir {
    let folder = TempDir::new().unwrap();
    for program in [
        "weft-controller",
        "weft-node",
        "weft-agent",
        "weft-proxy",
        "weft-peer",
    ] {
        std::fs::copy(build_folder().join(program), folder.path().join(program)).unwrap();
    }
    folder
}

#[test]
fn an_upgrade_to_a_build_whose_node_program_ends_says_so_and_where_to_read_more() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let broken = other_build();
    let node = broken.path().join("weft-node");
    std::fs::write(&node, "#!/bin/sh\necho this build is broken >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = lab.lab().record().programs.clone();

    let error = weft_testkit::lab::upgrade(lab.lab_mut(), broken.path(), None).unwrap_err();
    let error = format!("{error:#}");
    for word in [
        "no node was upgraded",
        "weft-node of n1 ended",
        "n1.node.log",
        "this build is broken",
    ] {
        assert!(error.contains(word), "{error:?} does not name {word:?}");
    }
    assert!(!error.contains("waited"), "{error}");
    // Nothing has changed.
    assert_eq!(lab.lab().record().programs, before);
    load::echo(&lab.netns("a"), to, 1000).unwrap();
}

#[test]
fn the_other_node_keeps_its_programs_when_one_is_upgraded() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let build = other_build();
    weft_testkit::lab::upgrade(lab.lab_mut(), build.path(), Some("n1")).unwrap();
    // What n2 starts again is still there.
    let proxy = || program_of_node(lab.lab(), "n2", "weft-proxy");
    let old = proxy().unwrap();
    assert!(old.signal(Signal::KILL));
    until("a new proxy on n2", LONG, || {
        let new = proxy().ok_or_else(|| anyhow::anyhow!("none"))?;
        anyhow::ensure!(new != old, "the old one");
        Ok(())
    })
    .unwrap();
    load::echo(&lab.netns("a"), to, 1000).unwrap();
}

#[test]
fn an_upgraded_node_program_that_has_ended_is_told_while_the_one_before_it_drains() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    // What the old programs drain for.
    let _open = load::connect_many(&lab.netns("a"), to, 1).unwrap();
    let node = |lab: &TestLab| program_of_node(lab.lab(), "n1", "weft-node");
    let old = node(&lab).unwrap();
    let described = |lab: &TestLab| report::describe(lab.lab())["nodes"][0].clone();
    assert_eq!(described(&lab)["nodePid"], old.pid);

    weft_testkit::lab::upgrade(lab.lab_mut(), &build_folder(), Some("n1")).unwrap();
    let new = node(&lab).unwrap();
    assert_ne!(new, old);
    let found = described(&lab);
    assert_eq!(
        (&found["nodePid"], &found["ended"]),
        (&new.pid.into(), &false.into())
    );
    assert!(new.signal(Signal::KILL));
    assert!(new.wait(LONG), "it does not end");
    let found = described(&lab);
    assert_eq!(node(&lab), Some(old), "the old one drains no more");
    assert_eq!(
        (&found["nodePid"], &found["ended"]),
        (&Value::Null, &true.into())
    );
    let told = report::ended(&report::describe(lab.lab()));
    assert!(
        told.iter()
            .any(|line| line.contains("weft-node of n1 has ended")),
        "{told:?}"
    );
}
