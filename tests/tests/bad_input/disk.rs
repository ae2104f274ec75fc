//! A disk without space for the last configuration.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weft_testkit::lab::program::kill_all;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_testkit::{admin, load};
use weft_tests::lab::{Builder, TestLab};

use super::{logged, program};

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {action: DENY, rules: [{}]}
";

/// A small file system over a folder, gone when dropped.
struct Small(PathBuf);

impl Small {
    fn over(folder: &Path) -> Self {
        let status = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                "size=256k,mode=700,uid=65532,gid=65532",
            ])
            .arg("weft-small")
            .arg(folder)
            .status();
        assert!(status.unwrap().success());
        Self(folder.to_owned())
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[0; 1024]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Programs may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn controller_of(lab: &TestLab) -> anyhow::Result<Value> {
    let socket = lab.lab().place().admin("n2", "proxy");
    Ok(admin::get_json(&socket, "/config_dump")?["controller"].clone())
}

/// Pods a on n1 and b on n2. An echo server in b.
fn lab() -> (TestLab, Server, SocketAddr) {
    let lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    (lab, server, to)
}

/// Starts the proxy of n2 anew on a small disk: the disk, the copy on it, and what the copy says. Calls reach b.
fn on_small_disk(lab: &TestLab, to: SocketAddr) -> (Small, PathBuf, Vec<u8>) {
    let folder = lab.lab().place().state("n2").join("proxy");
    let disk = Small::over(&folder);
    kill_all(&[program(lab, "n2", "weft-proxy")]).unwrap();
    let file = folder.join("proxy.config");
    let copy = until("the copy on the small disk", LONG, || {
        Ok(std::fs::read(&file)?)
    })
    .unwrap();
    until("a connection", LONG, || load::echo(&lab.netns("a"), to, 10)).unwrap();
    (disk, file, copy)
}

#[test]
fn a_full_disk_costs_the_copy_alone_and_is_told() {
    if !weft_tests::is_root() {
        return;
    }
    let (mut lab, _server, to) = lab();
    let (disk, file, good) = on_small_disk(&lab, to);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    lab.set_resource(0, DENY).unwrap();
    refused(&lab, to);
    disk.fill();
    // Larger than the copy before, whose room would do otherwise.
    lab.set_resource(0, &large_deny()).unwrap();
    until("the disk to be told of", LONG, || {
        let status = controller_of(&lab)?;
        let error = status["diskError"].as_str().unwrap_or_default();
        anyhow::ensure!(error.contains("check space"), "{status}");
        anyhow::ensure!(error.contains("proxy.config"), "{status}");
        anyhow::ensure!(status["connection"] == "Synced", "{status}");
        Ok(())
    })
    .unwrap();
    logged(
        &lab,
        "n2",
        &["the configuration is not on disk", "check space"],
    );
    // What cannot be written is in force all the same.
    refused(&lab, to);
    assert!(!file.exists(), "an older copy may allow more");

    disk.free();
    lab.set_resource(0, DENY).unwrap();
    until("the copy to be written again", LONG, || {
        let status = controller_of(&lab)?;
        anyhow::ensure!(status["diskError"].is_null(), "{status}");
        anyhow::ensure!(std::fs::read(&file)? != good, "still the old copy");
        Ok(())
    })
    .unwrap();
    refused(&lab, to);
}

#[test]
fn without_room_for_a_stricter_policy_a_restart_serves_no_wider_one() {
    if !weft_tests::is_root() {
        return;
    }
    let (mut lab, _server, to) = lab();
    let (disk, file, _) = on_small_disk(&lab, to);
    disk.fill();
    lab.set_resource(0, &large_deny()).unwrap();
    refused(&lab, to);
    until("the older copy to be gone", LONG, || {
        anyhow::ensure!(!file.exists(), "it is there");
        Ok(())
    })
    .unwrap();
    let controller = lab.lab().record().controller.unwrap();
    let proxy = program(&lab, "n2", "weft-proxy");
    kill_all(&[controller, proxy]).unwrap();
    // A call waits for a proxy that knows nothing, and is refused.
    assert!(load::echo(&lab.netns("a"), to, 10).is_err());
}

/// A policy that denies everything, in some hundred kilobytes.
fn large_deny() -> String {
    let callers: Vec<String> = (0..4000)
        .map(|number| format!("cluster.local/ns/default/sa/caller-{number}"))
        .collect();
    let rule = format!(
        "{{from: [{{source: {{principals: [{}]}}}}]}}",
        callers.join(", ")
    );
    DENY.replace("[{}]", &format!("[{{}}, {rule}]"))
}

fn refused(lab: &TestLab, to: SocketAddr) {
    until("the policy to deny", LONG, || {
        anyhow::ensure!(load::echo(&lab.netns("a"), to, 10).is_err(), "not yet");
        Ok(())
    })
    .unwrap();
}
