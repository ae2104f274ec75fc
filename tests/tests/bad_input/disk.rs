//! A disk without space for the last configuration.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weft_testkit::lab::program::kill_all;
use weft_testkit::peer::Behaviour;
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

#[test]
fn a_full_disk_costs_the_copy_alone_and_is_told() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let folder = lab.lab().place().state("n2").join("proxy");
    let disk = Small::over(&folder);
    // The next proxy starts on the small disk.
    let old = program(&lab, "n2", "weft-proxy");
    kill_all(&[old]).unwrap();
    let file = folder.join("proxy.config");
    let good = until("the copy on the small disk", LONG, || {
        Ok(std::fs::read(&file)?)
    })
    .unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    until("a connection", LONG, || load::echo(&lab.netns("a"), to, 10)).unwrap();

    disk.fill();
    lab.set_resource(0, DENY).unwrap();
    // What cannot be written is in force all the same.
    until("the policy to deny", LONG, || {
        anyhow::ensure!(load::echo(&lab.netns("a"), to, 10).is_err(), "not yet");
        Ok(())
    })
    .unwrap();
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
    assert_eq!(
        std::fs::read(&file).unwrap(),
        good,
        "the last good copy stays"
    );

    disk.free();
    lab.set_resource(0, &DENY.replace("nobody", "nobody-again"))
        .unwrap();
    until("the copy to be written again", LONG, || {
        let status = controller_of(&lab)?;
        anyhow::ensure!(status["diskError"].is_null(), "{status}");
        anyhow::ensure!(std::fs::read(&file)? != good, "still the old copy");
        Ok(())
    })
    .unwrap();
    assert!(load::echo(&lab.netns("a"), to, 10).is_err());
}
