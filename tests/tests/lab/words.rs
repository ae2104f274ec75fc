//! What the lab says: to whom it says nothing, which labs there are, and why one did not come up.

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

#[test]
fn the_reason_why_a_lab_does_not_come_up_is_its_last_line() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("last");
    let file = "nodes: [{name: n1}]\npods: [{name: a, node: n1, run: [/nosuchprogram]}]\n";
    let told = lab.up(file).unwrap_err();
    assert!(told.contains("controller.log"), "no logs: {told}");
    let last = told.trim_end().lines().last().unwrap();
    for word in [lab.name.as_str(), "default/a", "/nosuchprogram"] {
        assert!(last.contains(word), "{told}");
    }
    lab.assert_nothing_left();
}

#[test]
fn what_is_wrong_with_the_users_files_is_told_of_them_and_not_of_their_copies() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("copy");
    let path = lab.write("lab.yaml", FILE).display().to_string();
    let told = lab.up(&(FILE.to_owned() + "settings: {colour: red}\n"));
    let told = told.unwrap_err();
    let last = told.trim_end().lines().last().unwrap();
    for word in ["`settings` of", &path, "colour"] {
        assert!(last.contains(word), "{word:?} is not in {told}");
    }
    assert!(!told.contains("/source/"), "{told}");
    lab.assert_nothing_left();

    // One that does not keep the lab from coming up shows in the document.
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {colour: red}\n";
    let service = lab.write("svc.yaml", service).display().to_string();
    let document = lab
        .up(&(FILE.to_owned() + "resources: [svc.yaml]\n"))
        .unwrap();
    let problems = document["source"]["problems"].as_array().unwrap();
    let files: Vec<&str> = problems
        .iter()
        .map(|problem| problem["file"].as_str().unwrap())
        .collect();
    assert_eq!(files, [service.as_str()], "{problems:?}");
    assert_eq!(lab.status()["source"], document["source"]);
}
