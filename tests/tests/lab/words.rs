//! What the lab says: to whom it says nothing, and which labs there are.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;

use rustix::io::{FdFlags, fcntl_setfd};

use super::*;

const FILE: &str = "nodes: [{name: n1}]\npods: [{name: a, node: n1}]\n";

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn to_another_user_than_root_status_says_nothing_instead_of_what_is_false() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("user");
    lab.up(FILE).unwrap();
    // By its descriptor, whose use needs no way through folders that may be closed to the user.
    let program = File::open(build_folder().join("xtask")).unwrap();
    fcntl_setfd(&program, FdFlags::empty()).unwrap();
    let output = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .args(["lab", "status", "--name", &lab.name])
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output()
        .unwrap();
    let told = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("as root"), "{told}");
    assert!(!told.contains("ended"), "{told}");
    assert!(output.stdout.is_empty(), "a document");
    // Root is told that all is well.
    let output = lab.lab(&["status"]);
    assert_eq!(
        (output.status.code(), errors(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn who_asks_for_a_lab_that_is_not_there_is_told_which_are() {
    if !has_xtask() {
        return;
    }
    let (lab, other) = (CommandLine::new("this"), CommandLine::new("other"));
    lab.up(FILE).unwrap();
    let output = other.lab(&["status"]);
    let told = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    for name in [&lab.name, &other.name] {
        assert!(told.contains(name.as_str()), "{told}");
    }
}
