//! Bad input: what is wrong, unreadable, missing or hostile gets one clear message and a defined end, and widens nothing.
//!
//! Method: the real programs are started with what they cannot use, and real labs meet disks that are full, agents that
//! are one too many, and peers that lie, talk nonsense or flood. Elsewhere: mistakes in lab files (`lab`), broken resources
//! and the controller's flags (`control`), those of `weft-node` and processes that pose as others (`node`), every shape
//! of certificate and frame (`weft-identity`, `weft-hbone`).

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::path::PathBuf;

use weft_testkit::lab::program::Running;
use weft_testkit::lab::report;
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::TestLab;

#[path = "bad_input/authority.rs"]
mod authority;
#[path = "bad_input/disk.rs"]
mod disk;
#[path = "bad_input/frames.rs"]
mod frames;
#[path = "bad_input/peer.rs"]
mod peer;
#[path = "bad_input/programs.rs"]
mod programs;

fn program(lab: &TestLab, node: &str, name: &str) -> Running {
    report::program_of_node(lab.lab(), node, name).unwrap_or_else(|| panic!("{name} does not run"))
}

fn proxy_log(lab: &TestLab, node: &str) -> PathBuf {
    lab.lab().place().node_logs(node).join("proxy.log")
}

/// Waits for a line in a proxy's log that holds all of the words.
fn logged(lab: &TestLab, node: &str, words: &[&str]) {
    let log = proxy_log(lab, node);
    until(&format!("a line with {words:?}"), LONG, || {
        let text = std::fs::read_to_string(&log)?;
        let found = text
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        anyhow::ensure!(found, "none yet");
        Ok(())
    })
    .unwrap();
}
