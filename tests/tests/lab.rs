//! The lab: its life from `up` to `down`, and what it says of mistakes.
//!
//! Run as a person runs it, through `cargo xtask`'s program where the command line matters, and
//! through the testkit elsewhere.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use weft_testkit::lab::program::{of_lab, tail};
use weft_testkit::load;
use weft_testkit::netns::{Netns, with_prefix};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, build_folder};

#[path = "lab/adoption.rs"]
mod adoption;
#[path = "lab/interrupt.rs"]
mod interrupt;
#[path = "lab/life.rs"]
mod life;
#[path = "lab/upgrade.rs"]
mod upgrade;
#[path = "lab/watch.rs"]
mod watch;
#[path = "lab/words.rs"]
mod words;

/// A lab on the command line, taken down when dropped.
struct CommandLine {
    name: String,
    folder: TempDir,
}

impl CommandLine {
    fn new(word: &str) -> Self {
        Self {
            name: format!("{word}{}", std::process::id()),
            folder: TempDir::new().unwrap(),
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn lab(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(build_folder().join("xtask"));
        command
            .arg("lab")
            .args(words)
            .args(["--name", &self.name])
            // The programs of this build, as they are.
            .env("WEFT_XTASK_NO_BUILD", "1")
            .stdin(Stdio::null());
        command
    }

    fn up(&self, text: &str) -> Result<Value, String> {
        let path = self.write("lab.yaml", text);
        let output = self.lab(&["up", path.to_str().unwrap()]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            assert!(output.stdout.is_empty(), "JSON although it failed");
            return Err(errors);
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {errors}")))
    }

    fn status(&self) -> Value {
        let output = self.lab(&["status"]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Nothing of the lab is left, wherever it could be.
    fn assert_nothing_left(&self) {
        assert!(!Path::new("/run/weft-lab").join(&self.name).exists());
        assert_eq!(with_prefix(&format!("weft.{}.", self.name)), vec![]);
        assert_eq!(of_lab(&self.name, &[]), vec![]);
        // Agents and proxies do not carry the mark, but their flags name the lab's folder.
        let folder = format!("/run/weft-lab/{}/", self.name);
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            assert!(!words.contains(&folder), "{words:?} runs on");
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&format!("/weft-lab/{}/", self.name)));
    }
}

impl Drop for CommandLine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = Path::new("/run/weft-lab").join(&self.name).join("log");
            for name in ["watcher", "controller"] {
                println!("{name}: {}", tail(&log.join(format!("{name}.log")), 30));
            }
        }
        self.lab(&["down"]);
    }
}

/// The tests of the command line need its program, which a plain `cargo test` does not build.
fn has_xtask() -> bool {
    if !weft_tests::is_root() {
        return false;
    }
    let found = build_folder().join("xtask").exists();
    if !found {
        weft_tests::skip("xtask is not built: `cargo build -p xtask`");
    }
    found
}

#[test]
fn mistakes_in_the_file_are_named_and_nothing_is_made() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("bad");
    let gateway = "kind: Gateway\nmetadata: {name: front}\n";
    lab.write("gateway.yaml", gateway);
    for (text, words) in [
        ("nodes: [{name: n1}]\nbogus: 1\n", &["bogus", "line 2"][..]),
        ("nodes: [{name: n1, colour: red}]\n", &["colour"]),
        (
            "nodes: [{name: n1}]\npods: [{name: a, node: n9}]\n",
            &["n9", "n1"],
        ),
        (
            "nodes: [{name: n1}]\npods: [{name: a, node: n1, ip: 10.77.0.5}, {name: b, node: n1, ip: 10.77.0.5}]\n",
            &["10.77.0.5", "default/a", "default/b"],
        ),
        (
            "nodes: [{name: n1}]\npods: [{name: a, node: n1, netns: not-there}]\n",
            &["not-there", "does not exist"],
        ),
        (
            "nodes: [{name: n1}]\npods:\n- {name: a, node: n1, labels: {app: my web}}\n",
            &["line 3", "my web", "label value", "letters, digits"],
        ),
        (
            "nodes: [{name: n1}]\npods:\n- {name: a, node: n1, run: ['']}\n",
            &["line 3", "run", "program"],
        ),
        (
            "nodes: [{name: n1}]\nresources: [missing.yaml]\n",
            &["missing.yaml"],
        ),
        (
            "nodes: [{name: n1}]\nresources: [gateway.yaml]\n",
            &["Gateway", "front", "gateway.yaml"],
        ),
    ] {
        let error = lab.up(text).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{error:?} does not name {word:?}");
        }
        lab.assert_nothing_left();
    }
}

#[test]
fn two_labs_do_not_see_each_other() {
    if !weft_tests::is_root() {
        return;
    }
    let labs: Vec<_> = (0..2)
        .map(|_| {
            Builder::two_nodes()
                .pod_with("a", "n1", |pod| {
                    pod.ip = Some("10.77.0.10".parse().unwrap());
                })
                .pod_with("b", "n2", |pod| {
                    pod.ip = Some("10.77.0.11".parse().unwrap());
                })
                .up()
                .unwrap()
        })
        .collect();
    for (lab, word) in labs.iter().zip(["one\n", "two\n"]) {
        let (_server, to) = lab.serve("b", Behaviour::Greet(word.to_owned())).unwrap();
        let recorder = lab.record().unwrap();
        let answer = load::exchange(&lab.netns("a"), to, b"").unwrap();
        assert_eq!(answer, word.as_bytes());
        recorder.stop().unwrap().verdict().unwrap();
    }
}
