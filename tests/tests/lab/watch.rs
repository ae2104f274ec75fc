//! What an edit may do to the files, and what others may do beside them: it takes effect all the same.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;

const FILE: &str = "nodes: [{name: n1}]
pods: [{name: a, node: n1, run: [weft-peer, echo, --port, '7000']}]
resources: [above/between/res]
";
const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {action: DENY, rules: [{}]}
";

/// Somebody who writes a file again and again, in pauses shorter than the quiet that the watcher waits for; ends when dropped.
struct Noise {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<u64>>,
}

impl Noise {
    fn start(path: PathBuf) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut writes = 0;
            while stopped.recv_timeout(Duration::from_millis(20)) == Err(RecvTimeoutError::Timeout)
            {
                writes += 1;
                std::fs::write(&path, writes.to_string()).unwrap();
            }
            writes
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Ends it; how often it has written.
    fn stop(&mut self) -> u64 {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

/// Waits until the controller knows so many policies, and the last edit is dealt with.
fn expect_policies(lab: &CommandLine, count: usize) {
    until(&format!("{count} policies"), LONG, || {
        let status = lab.status();
        anyhow::ensure!(
            status["policies"].as_array().map(Vec::len) == Some(count)
                && status["edit"]["applied"] == true
                && status["edit"]["pending"] == false,
            "{} {}",
            status["edit"],
            status["policies"]
        );
        Ok(())
    })
    .unwrap();
}

#[test]
fn edits_of_a_folder_that_was_replaced_take_effect() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("repl");
    let at = |path: &str| lab.folder.path().join(path);
    std::fs::create_dir_all(at("above/between/res")).unwrap();
    lab.up(FILE).unwrap();
    expect_policies(&lab, 0);

    // The folder itself, moved away or removed; then edits of the new one.
    std::fs::rename(at("above/between/res"), at("above/between/old")).unwrap();
    std::fs::create_dir(at("above/between/res")).unwrap();
    lab.write("above/between/res/deny.yaml", DENY);
    expect_policies(&lab, 1);
    std::fs::remove_file(at("above/between/res/deny.yaml")).unwrap();
    expect_policies(&lab, 0);
    std::fs::remove_dir(at("above/between/res")).unwrap();
    std::fs::create_dir(at("above/between/res")).unwrap();
    lab.write("above/between/res/deny.yaml", DENY);
    expect_policies(&lab, 1);

    // A folder above, which nothing in the watched ones tells of.
    std::fs::rename(at("above"), at("old")).unwrap();
    std::fs::create_dir_all(at("above/between/res")).unwrap();
    expect_policies(&lab, 0);
    lab.write("above/between/res/deny.yaml", DENY);
    expect_policies(&lab, 1);
}

#[test]
fn edits_take_effect_while_somebody_keeps_writing_beside_the_files() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("noise");
    std::fs::create_dir_all(lab.folder.path().join("above/between/res")).unwrap();
    let before = lab.up(FILE).unwrap();
    let mut noise = [".", "above/between/res"]
        .map(|folder| Noise::start(lab.folder.path().join(folder).join("noise.txt")));
    lab.write("above/between/res/deny.yaml", DENY);
    expect_policies(&lab, 1);
    std::fs::remove_file(lab.folder.path().join("above/between/res/deny.yaml")).unwrap();
    expect_policies(&lab, 0);
    for noise in &mut noise {
        assert!(noise.stop() > 0, "nobody wrote");
    }
    // None of it touched a program.
    let after = lab.status();
    for pointer in [
        "/nodes/0/nodePid",
        "/nodes/0/proxyPid",
        "/pods/0/pid",
        "/controller/pid",
    ] {
        assert!(
            after.pointer(pointer).is_some_and(Value::is_number),
            "{pointer}: {after}"
        );
        assert_eq!(after.pointer(pointer), before.pointer(pointer), "{pointer}");
    }
}
