//! A node whose agent is away for long: what is enrolled goes on, and what has changed meanwhile is made up for.
//!
//! Method: a hundred pods; the agent is dead and its successor does not get past its gate. Traffic goes on under the leak
//! oracle, proxies die as well, the controller's source changes. Then the gate opens.

use std::collections::BTreeSet;
use std::time::Instant;

use weft_testkit::lab::program::kill_all;
use weft_testkit::load::{self, Churn};
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::Builder;

use super::gate::{end, lose_the_agent};
use super::{STEADY, TestLab, admin, program, until_ready};

/// Pods of the node besides the two that talk; a kubelet takes 110 by default.
const PODS: usize = 100;
/// Pods that leave while the agent is away, and as many that join.
const CHANGED: usize = 5;

#[test]
fn a_hundred_pods_go_on_without_their_agent_and_it_makes_up_for_what_it_missed() {
    if !weft_tests::is_root() {
        return;
    }
    let mut builder = Builder::two_nodes().pod("a", "n1").pod("b", "n2");
    for number in 0..PODS {
        // The last ones are not in the mesh yet.
        let mesh = number < PODS - CHANGED;
        builder = builder.pod_with(&format!("p{number}"), "n1", |entry| {
            entry.mesh = mesh;
            "many".clone_into(&mut entry.service_account);
        });
    }
    let mut lab = builder.up().unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let recorder = lab.record().unwrap();
    let before = enrolled(&lab).unwrap();
    assert_eq!(before.len(), 1 + PODS - CHANGED);
    let churn = Churn::new(&lab.netns("a"), to).start().unwrap();
    churn.wait_for(STEADY).unwrap();

    let (gate, holder) = lose_the_agent(&lab);
    churn.wait_for(STEADY).unwrap();
    for number in [0, PODS / 2, PODS - CHANGED - 1] {
        load::echo(&lab.netns(&format!("p{number}")), to, 1000).unwrap();
    }
    let (leave, join) = (0..CHANGED, PODS - CHANGED..PODS);
    let names = |numbers: std::ops::Range<usize>| -> Vec<String> {
        numbers.map(|number| format!("p{number}")).collect()
    };
    let (leaving, joining) = (names(leave), names(join));
    set_modes(&lab, &leaving, "none");
    set_modes(&lab, &joining, "ambient");
    churn.wait_for(STEADY).unwrap();

    let opened = Instant::now();
    gate.open();
    let mut expected = before.clone();
    expected.retain(|name| !leaving.contains(name));
    expected.extend(joining.clone());
    until("every pod to be as the controller says", LONG, || {
        let now = enrolled(&lab)?;
        let wrong: Vec<_> = now.symmetric_difference(&expected).collect();
        anyhow::ensure!(wrong.is_empty(), "not yet: {wrong:?}");
        Ok(())
    })
    .unwrap();
    println!("{PODS} pods reconciled after {:?}", opened.elapsed());
    until_ready(&lab);
    for name in &joining {
        load::echo(&lab.netns(name), to, 1000).unwrap();
    }
    let report = churn.stop().unwrap();
    println!("{report}");
    report.verdict().unwrap();
    recorder.stop().unwrap().verdict().unwrap();

    // Nothing depends on the stand-in: all may die, and start as they usually do.
    end(holder);
    kill_all(&[program(&lab, "weft-proxy")]).unwrap();
    lab.lab_mut().restart_node("n1").unwrap();
    load::echo(&lab.netns("a"), to, 1000).unwrap();
}

/// Names of the enrolled pods of n1, as its agent tells.
fn enrolled(lab: &TestLab) -> anyhow::Result<BTreeSet<String>> {
    let pods = admin::get_json(&lab.lab().place().admin("n1", "agent"), "/pods")?;
    let list = pods.as_array().into_iter().flatten();
    Ok(list
        .filter(|pod| pod["state"] == "enrolled")
        .filter_map(|pod| pod["name"].as_str().map(ToOwned::to_owned))
        .collect())
}

/// Changes the pods' label in the controller's source, past the lab, which would wait for the agent.
fn set_modes(lab: &TestLab, names: &[String], mode: &str) {
    let path = lab.lab().place().source().join("lab-3-pods.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let documents = text.split_inclusive("---\n").map(|document| {
        let is_meant = |line: &str| {
            let name = line.trim().strip_prefix("name: ");
            name.is_some_and(|name| names.iter().any(|wanted| wanted == name.trim_matches('"')))
        };
        if !document.lines().any(is_meant) {
            return document.to_owned();
        }
        let other = if mode == "none" { "ambient" } else { "none" };
        let changed = document.replace(
            &format!("weft.dev/dataplane-mode: {other}"),
            &format!("weft.dev/dataplane-mode: {mode}"),
        );
        assert_ne!(changed, document, "the label stands there in another form");
        changed
    });
    let changed: String = documents.collect();
    assert_ne!(changed, text);
    let beside = path.with_file_name(".pods");
    std::fs::write(&beside, changed).unwrap();
    std::fs::rename(&beside, &path).unwrap();
}
