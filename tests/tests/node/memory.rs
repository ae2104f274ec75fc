//! An agent that starts with a copy of its pods on disk that is older than one of them.
//!
//! Method: the copy from before the pod joined is put back, the controller is killed and then the agent. What the next agent
//! remembers lets go of nothing: the pod stays held and captured, and its connections stay inside TLS.

use std::path::{Path, PathBuf};

use weft_testkit::lab::file::PodEntry;
use weft_testkit::lab::program::kill_all;
use weft_testkit::load;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};

use super::{TestLab, program, status, two_pods, until_ready};

fn copy_on_disk(lab: &TestLab) -> PathBuf {
    lab.lab()
        .place()
        .state("n1")
        .join("agent/enrollments.config")
}

/// Waits until the copy names a pod, or names it no more.
fn until_named(copy: &Path, pod: &str, named: bool) -> Vec<u8> {
    until("the copy on disk", LONG, || {
        let bytes = std::fs::read(copy)?;
        let found = bytes.windows(pod.len()).any(|at| at == pod.as_bytes());
        anyhow::ensure!(found == named, "{pod} in it: {found}");
        Ok(bytes)
    })
    .unwrap()
}

#[test]
fn an_agent_whose_copy_on_disk_is_older_than_a_pod_lets_go_of_nothing() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = two_pods();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let copy = copy_on_disk(&lab);
    let first = status(&lab).unwrap()["pods"][0]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let old = until_named(&copy, &first, true);
    lab.change(|file| file.pods.push(PodEntry::new("late", "n1")))
        .unwrap();
    let pods = status(&lab).unwrap()["pods"].clone();
    let late = pods
        .as_array()
        .unwrap()
        .iter()
        .find(|pod| pod["name"] == "late")
        .unwrap();
    until_named(&copy, late["uid"].as_str().unwrap(), true);

    kill_all(&[lab.lab().record().controller.unwrap()]).unwrap();
    std::fs::write(&copy, old).unwrap();
    let recorder = lab.record().unwrap();
    let agent = program(&lab, "weft-agent");
    kill_all(&[agent]).unwrap();
    until("the next agent has spoken", LONG, || {
        let status = status(&lab)?;
        anyhow::ensure!(
            status["agent"]["pid"] != agent.pid && status["agent"]["ready"] == true,
            "{status}"
        );
        Ok(())
    })
    .unwrap();
    until_ready(&lab);
    assert_eq!(status(&lab).unwrap()["pods"].as_array().unwrap().len(), 2);
    for pod in ["a", "late"] {
        load::echo(&lab.netns(pod), to, 10_000).unwrap();
    }
    recorder.stop().unwrap().verdict().unwrap();
}
