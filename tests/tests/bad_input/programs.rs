//! Programs that are started with what they cannot use.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;
use weft_testkit::load::Churn;
use weft_testkit::peer::Behaviour;
use weft_tests::lab::{Builder, build_folder};

use super::program;

/// Connections that show that a mesh works.
const STEADY: u64 = 50;

const PROGRAMS: [&str; 4] = ["weft-node", "weft-agent", "weft-proxy", "weft-controller"];

/// Runs a program to its end, with nothing from our own environment.
fn run(mut command: Command) -> (Option<i32>, String) {
    let output: Output = command
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the program is built");
    assert!(output.stdout.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

/// Claims exit code 64 and one line that names what to fix.
fn refused(command: Command, words: &[&str]) {
    let shown = format!("{command:?}");
    let (code, text) = run(command);
    assert_eq!(code, Some(64), "{shown}: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{shown}: {text}");
    for word in words {
        assert!(text.contains(word), "{shown}: {word:?} is not in {text}");
    }
}

/// The flags with which agent and proxy could start, below a folder of the test's own.
fn flags(folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--run-dir={}", path("run")),
        format!("--state-dir={}", path("state")),
        format!("--root-cert={}", path("root.pem")),
        format!("--token-file={}", path("token")),
    ]
}

fn with(program: &str, folder: &TempDir, more: &[&str]) -> Command {
    let mut command = Command::new(build_folder().join(program));
    command.args(flags(folder.path())).args(more);
    command
}

#[test]
fn a_command_line_that_cannot_be_used_is_told_in_one_line() {
    for name in PROGRAMS {
        let command = |words: &[&str]| {
            let mut command = Command::new(build_folder().join(name));
            command.args(words);
            command
        };
        let needed = match name {
            "weft-controller" => ["--source", "--state-dir", "--tokens", "--root-cert-out"],
            "weft-node" => ["--node", "--controller", "--root-cert", "--token-file"],
            _ => ["--run-dir", "--controller", "--root-cert", "--token-file"],
        };
        refused(command(&[]), &needed);
        refused(command(&["--no-such-flag"]), &["--no-such-flag"]);
    }
}

#[test]
fn values_that_cannot_work_are_told_before_anything_is_done() {
    for name in ["weft-agent", "weft-proxy"] {
        let folder = TempDir::new().unwrap();
        let good = ["--node=n1", "--controller=https://127.0.0.1:1"];
        let pins = format!("--bpffs={}", folder.path().display());
        for (bad, words) in [
            (
                "--controller=http://127.0.0.1:1",
                &["https://HOST:PORT"][..],
            ),
            ("--log-level=a=b=c", &["a=b=c", "info"]),
            ("--node=", &["node name"]),
        ] {
            let flag = bad.split('=').next().unwrap();
            let kept = good
                .iter()
                .filter(|word| !word.starts_with(&format!("{flag}=")));
            let mut command = with(name, &folder, &[bad]);
            command.args(kept);
            if name == "weft-agent" {
                command.arg(&pins);
            }
            refused(command, words);
            assert!(!folder.path().join("weft").exists(), "nothing is pinned");
        }
    }
    let folder = TempDir::new().unwrap();
    let words = [
        "--node=n1",
        "--controller=https://127.0.0.1:1",
        "--workers=0",
    ];
    refused(with("weft-proxy", &folder, &words), &["--workers"]);
}

#[test]
fn files_that_cannot_be_read_are_named_with_their_flag() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("root.pem"), "x").unwrap();
    let words = ["--node=n1", "--controller=https://127.0.0.1:1"];
    let missing = folder.path().join("token").display().to_string();
    refused(
        with("weft-node", &folder, &words),
        &["--token-file", &missing],
    );
    std::fs::remove_file(folder.path().join("root.pem")).unwrap();
    std::fs::write(folder.path().join("token"), "x").unwrap();
    let missing = folder.path().join("root.pem").display().to_string();
    refused(
        with("weft-node", &folder, &words),
        &["--root-cert", &missing],
    );
    let mut controller = Command::new(build_folder().join("weft-controller"));
    let path = |name: &str| folder.path().join(name);
    controller
        .arg("--source")
        .arg(path("nowhere"))
        .arg("--state-dir")
        .arg(path("state"))
        .arg("--tokens")
        .arg(path("tokens"))
        .arg("--root-cert-out")
        .arg(path("out.pem"));
    let missing = path("nowhere").display().to_string();
    refused(controller, &["--source", &missing]);
}

#[test]
fn a_kernel_that_is_too_old_is_named_and_nothing_is_touched() {
    if !weft_tests::is_root() || !weft_tests::has_program("setarch") {
        return;
    }
    let folder = TempDir::new().unwrap();
    for file in ["root.pem", "token"] {
        std::fs::write(folder.path().join(file), "x").unwrap();
    }
    let pins = format!("--bpffs={}", folder.path().join("bpf").display());
    let words = ["--node=n1", "--controller=https://127.0.0.1:1", &pins];
    let agent = with("weft-agent", &folder, &words);
    // The kernel tells programs under this personality that it is a 2.6 (UNAME26, personality(2)).
    let mut old = Command::new("/usr/bin/setarch");
    old.arg("--uname-2.6")
        .arg(agent.get_program())
        .args(agent.get_args());
    refused(old, &["kernel 2.6.", "too old", "6.1 or newer"]);
    assert!(!folder.path().join("bpf").exists(), "nothing is mounted");
}

#[test]
fn a_missing_capability_is_named() {
    if !weft_tests::is_root() || !weft_tests::has_program("setpriv") {
        return;
    }
    let folder = TempDir::new().unwrap();
    for file in ["root.pem", "token"] {
        std::fs::write(folder.path().join(file), "x").unwrap();
    }
    let bare = |command: &Command| {
        let mut bare = Command::new("/usr/bin/setpriv");
        bare.args(["--inh-caps=-all", "--bounding-set=-all"])
            .arg(command.get_program())
            .args(command.get_args());
        bare
    };
    let pins = format!("--bpffs={}", folder.path().join("bpf").display());
    let words = ["--node=n1", "--controller=https://127.0.0.1:1", &pins];
    let agent = bare(&with("weft-agent", &folder, &words));
    refused(agent, &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
    assert!(!folder.path().join("bpf").exists(), "nothing is mounted");
    let node = bare(&with("weft-node", &folder, &words));
    refused(node, &["run weft-node as root"]);
}

#[test]
fn a_second_agent_that_was_not_handed_the_node_ends_and_disturbs_nobody() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    let churn = Churn::new(&lab.netns("a"), to).start().unwrap();
    churn.wait_for(STEADY).unwrap();
    let first = program(&lab, "n1", "weft-agent");
    let line = std::fs::read(format!("/proc/{}/cmdline", first.pid)).unwrap();
    let line = String::from_utf8(line).unwrap();
    let mut words = line.split_terminator('\0');
    let mut second = Command::new(words.next().unwrap());
    second.args(words);
    let node = lab.lab().topology().node("n1");
    let (code, text) = node.enter(|| Ok(run(second))).unwrap();
    assert_eq!(code, Some(1), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert!(errors[0].contains("another agent holds"), "{text}");
    assert!(errors[0].contains("stop it first"), "{text}");
    assert_eq!(program(&lab, "n1", "weft-agent"), first);
    churn.wait_for(STEADY).unwrap();
    churn.stop().unwrap().verdict().unwrap();
}
