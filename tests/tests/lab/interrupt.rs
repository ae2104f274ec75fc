//! Ctrl-C, SIGTERM and SIGHUP in the middle: what was begun is taken down, what was adopted stays.
//!
//! Method: a verb is started as a program of its own; when the machine shows that it has come to a certain point, it gets the
//! signal, and then nothing of it may be left.

use std::io::Read as _;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use weft_testkit::lab::program::{Running, TEST_RUN};
use weft_testkit::lab::report::program_of_node;
use weft_testkit::wait::in_vain;

use super::adoption::{Foreign, setting};
use super::*;

/// A verb that is to be interrupted; killed when dropped.
struct Verb {
    child: Child,
    running: Running,
}

impl Verb {
    fn start(command: &Command) -> Self {
        let child = hears_hangups(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let running = Running::of(child.id().cast_signed()).unwrap();
        Self { child, running }
    }

    fn up(lab: &CommandLine, text: &str) -> Self {
        let path = lab.write("lab.yaml", text);
        Self::start(&lab.command(&["up", path.to_str().unwrap()]))
    }

    /// Sends the signal when the condition holds.
    fn interrupt_when(&self, signal: Signal, what: &str, holds: impl Fn() -> bool) {
        until(what, LONG, || {
            if holds() {
                return Ok(());
            }
            if !self.running.alive() {
                return Err(in_vain(format!("the verb ended before {what}")));
            }
            anyhow::bail!("not yet")
        })
        .unwrap();
        assert!(self.running.signal(signal), "it ended before the signal");
    }

    /// Waits for its end; exit code, standard output, standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut errors) = (String::new(), String::new());
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut errors)
            .unwrap();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        (self.child.wait().unwrap().code(), out, errors)
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same command under `env`, which goes on as it: SIGHUP has its usual meaning there, also when it is ignored here, as under nohup.
fn hears_hangups(command: &Command) -> Command {
    let mut fresh = Command::new("env");
    fresh
        .arg("--default-signal=HUP")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => fresh.env(name, value),
            None => fresh.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        fresh.current_dir(folder);
    }
    fresh
}

/// A program that somebody else runs in a namespace; killed when dropped.
struct Application {
    child: Child,
    running: Running,
}

impl Application {
    fn inside(netns: &Netns) -> Self {
        netns
            .enter(|| Ok(Self::start(&mut Command::new("sleep"))))
            .unwrap()
    }

    fn start(command: &mut Command) -> Self {
        let child = command
            .arg("600")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running::of(child.id().cast_signed()).unwrap();
        Self { child, running }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node's proxy, also while `up` is under way.
fn proxy(lab: &CommandLine, node: &str) -> Option<Running> {
    let inode = Netns::named(format!("weft.{}.node.{node}", lab.name))
        .inode()
        .ok()?;
    of_lab(&lab.name, &[inode])
        .into_iter()
        .find(|program| program.name() == "weft-proxy" && program.is_inside(inode))
}

const FILE: &str = "nodes: [{name: n1}, {name: n2}]
pods:
- {name: a, node: n1}
- {name: b, node: n2, run: [weft-peer, echo, --port, '7000']}
";

#[test]
fn up_that_is_interrupted_leaves_nothing_however_far_it_came() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("int");
    let name = lab.name.clone();
    let netns = |word: &str| Netns::named(format!("weft.{name}.{word}"));
    let points: [(&str, &dyn Fn() -> bool); 4] = [
        ("the first namespace", &|| netns("fabric").exists()),
        ("the first program", &|| !of_lab(&name, &[]).is_empty()),
        ("a node's programs", &|| proxy(&lab, "n1").is_some()),
        ("a pod", &|| netns("pod.default.a").exists()),
    ];
    for (signal, code, word) in [
        (Signal::INT, 130, "SIGINT"),
        (Signal::TERM, 143, "SIGTERM"),
        (Signal::HUP, 129, "SIGHUP"),
    ] {
        for (what, holds) in &points {
            let up = Verb::up(&lab, FILE);
            up.interrupt_when(signal, what, holds);
            let (ended, out, errors) = up.end();
            assert_eq!(ended, Some(code), "at {what}: {errors}");
            assert_eq!(out, "", "JSON although it was interrupted");
            for word in [word, "taking down", "was taken down"] {
                assert!(errors.contains(word), "{word:?} is not in {errors}");
            }
            lab.assert_nothing_left();
        }
    }
    // The name is free, and the same file comes up.
    lab.up(FILE).unwrap();
}

#[test]
fn under_nohup_a_closed_terminal_ends_nothing() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("nohup");
    let path = lab.write("lab.yaml", FILE);
    let up = lab.command(&["up", path.to_str().unwrap()]);
    let mut nohup = Command::new("nohup");
    nohup.arg(up.get_program()).args(up.get_args());
    let set = up.get_envs();
    nohup.envs(set.filter_map(|(name, value)| Some((name, value?))));
    let up = Verb::start(&nohup);
    up.interrupt_when(Signal::HUP, "the first program", || {
        !of_lab(&lab.name, &[]).is_empty()
    });
    let (ended, out, errors) = up.end();
    assert_eq!(ended, Some(0), "{errors}");
    assert!(out.contains("\"nodePid\""), "{out}");
}

#[test]
fn an_adopted_namespace_survives_the_interruption_and_is_as_it_was() {
    if !has_xtask() {
        return;
    }
    let pair = Foreign::pair("keep");
    let [x, y] = &pair.ends;
    let before = setting(x);
    let application = Application::inside(x);
    let lab = CommandLine::new("adopt");
    let up = Verb::up(
        &lab,
        &format!(
            "nodes: [{{name: n1}}]\npods: [{{name: x, node: n1, netns: {}}}]\n",
            x.name()
        ),
    );
    // With its proxy stopped the pod is enrolled and has no certificate: `up` waits.
    until("the proxy", LONG, || {
        if !up.running.alive() {
            return Err(in_vain("`up` ended"));
        }
        let proxy = proxy(&lab, "n1").ok_or_else(|| anyhow::anyhow!("none yet"))?;
        assert!(proxy.signal(Signal::STOP));
        Ok(())
    })
    .unwrap();
    up.interrupt_when(Signal::INT, "the namespace to be enrolled", || {
        setting(x) != before
    });
    let (code, _, errors) = up.end();
    assert_eq!(code, Some(130), "{errors}");
    lab.assert_nothing_left();
    assert!(
        application.running.alive(),
        "a process in an adopted namespace was ended"
    );
    assert_eq!(setting(x), before, "a setting is not put back");
    // It is whole, and no hook of the mesh is left in it.
    let server = Server::on_any(y, Behaviour::Echo).unwrap();
    load::echo(x, server.at("192.0.2.2".parse().unwrap()), 1000).unwrap();
}

#[test]
fn a_second_signal_ends_at_once_and_says_how_to_clean_up() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("second");
    // While somebody has the lock of the programs, `up` waits for it, and so does taking down.
    let lock = store_lock();
    let up = Verb::up(&lab, FILE);
    let place = Path::new("/run/weft-lab").join(&lab.name);
    up.interrupt_when(Signal::INT, "the lab's folder", || {
        place.join("lab.json").exists()
    });
    up.interrupt_when(Signal::INT, "the lab's folder to go", || !place.exists());
    let (code, _, errors) = up.end();
    drop(lock);
    assert_eq!(code, Some(130), "{errors}");
    for word in ["at once", "lab down --name", &lab.name] {
        assert!(errors.contains(word), "{word:?} is not in {errors}");
    }
    assert!(lab.lab(&["down"]).status.success());
    lab.assert_nothing_left();
}

#[test]
fn a_terminal_that_is_closed_sends_two_hangups_and_the_second_one_ends_nothing() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("hangups");
    let lock = store_lock();
    let up = Verb::up(&lab, FILE);
    let place = Path::new("/run/weft-lab").join(&lab.name);
    up.interrupt_when(Signal::HUP, "the lab's folder", || {
        place.join("lab.json").exists()
    });
    up.interrupt_when(Signal::HUP, "the lab's folder to go", || !place.exists());
    // Whoever asks for an end at once asks with another signal.
    up.interrupt_when(Signal::INT, "the hang-up to be taken", || {
        !is_pending(up.running, 1)
    });
    let (code, _, errors) = up.end();
    drop(lock);
    assert_eq!(code, Some(129), "{errors}");
    assert!(errors.contains("SIGINT: ended at once"), "{errors}");
    assert!(lab.lab(&["down"]).status.success());
    lab.assert_nothing_left();
}

/// Whether a signal waits to be delivered to a process.
fn is_pending(process: Running, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    status
        .lines()
        .filter_map(|line| line.strip_prefix("ShdPnd:"))
        .any(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal - 1)) != 0)
}

#[test]
fn an_upgrade_that_is_interrupted_finishes_the_hand_over_and_leaves_the_lab_running() {
    if !has_xtask() {
        return;
    }
    let lab = CommandLine::new("upint");
    let document = lab.up(FILE).unwrap();
    let open = weft_testkit::lab::Lab::open(&lab.name, |_| ()).unwrap();
    let node = |name: &str| program_of_node(&open, name, "weft-node").unwrap();
    let before = ["n1", "n2"].map(node);
    let upgrade = Verb::start(&lab.command(&["upgrade"]));
    upgrade.interrupt_when(Signal::INT, "the successor on n1", || {
        node("n1") != before[0]
    });
    let (code, out, errors) = upgrade.end();
    assert_eq!(code, Some(130), "{errors}");
    assert_eq!(out, "");
    assert!(errors.contains("n1 upgraded, n2 not"), "{errors}");
    assert_ne!(node("n1"), before[0]);
    assert_eq!(node("n2"), before[1]);
    // The lab works, and its records are those of the programs that run.
    let to = document["pods"][1]["ip"].as_str().unwrap();
    let a = Netns::named(document["pods"][0]["netns"].as_str().unwrap());
    load::echo(&a, format!("{to}:7000").parse().unwrap(), 1000).unwrap();
    assert_eq!(lab.status()["nodes"][0]["nodePid"], node("n1").pid);
    assert!(lab.lab(&["upgrade"]).status.success());
}

/// The name of the demo's lab, of which there is one; none when it is taken.
fn demo_name() -> Option<(MutexGuard<'static, ()>, CommandLine)> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if Path::new("/run/weft-lab/demo").exists() {
        weft_tests::skip("a demo is running on this machine");
        return None;
    }
    let demo = CommandLine {
        name: "demo".to_owned(),
        folder: TempDir::new().unwrap(),
    };
    Some((guard, demo))
}

fn demo_command() -> Command {
    let mut command = Command::new(build_folder().join("xtask"));
    command.arg("demo").env("WEFT_XTASK_NO_BUILD", "1");
    command
}

#[test]
fn a_demo_leaves_a_lab_in_use_alone_and_clears_away_one_of_a_demo_that_was_killed() {
    if !has_xtask() {
        return;
    }
    let Some((_guard, demo)) = demo_name() else {
        return;
    };
    let expect_refusal = |what: &str| {
        let output = demo_command().output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {errors}");
        for word in ["in use", "lab down --name demo"] {
            assert!(errors.contains(word), "{what}: {word:?} is not in {errors}");
        }
    };
    let before = demo.up(FILE).unwrap();
    expect_refusal("a lab of somebody's own");
    assert_eq!(demo.status()["nodes"], before["nodes"]);
    assert!(demo.lab(&["down"]).status.success());

    let pod = Netns::named("weft.demo.pod.default.batch");
    let killed = Verb::start(&demo_command());
    killed.interrupt_when(Signal::STOP, "a pod", || pod.exists());
    expect_refusal("a demo that runs");
    assert!(pod.exists());
    assert!(killed.running.signal(Signal::KILL));
    killed.end();

    let next = Verb::start(&demo_command());
    next.interrupt_when(Signal::INT, "the next demo's own lab", || {
        let lab = weft_testkit::lab::Lab::open("demo", |_| ());
        lab.is_ok_and(|lab| lab.record().owner == Some(next.running))
    });
    let (code, _, errors) = next.end();
    assert_eq!(code, Some(130), "{errors}");
    assert!(errors.contains("left behind"), "{errors}");
    demo.assert_nothing_left();
}

#[test]
fn a_bench_leaves_a_lab_in_use_alone() {
    if !has_xtask() {
        return;
    }
    if Path::new("/run/weft-lab/bench").exists() {
        weft_tests::skip("a lab named bench is up on this machine");
        return;
    }
    let lab = CommandLine {
        name: "bench".to_owned(),
        folder: TempDir::new().unwrap(),
    };
    let before = lab.up(FILE).unwrap();
    let mut bench = Command::new(build_folder().join("xtask"));
    // With nothing to build and nothing to measure it would be done at once, and have ended the lab.
    bench.args(["bench", "l4", "--rounds", "0", "--build"]);
    bench.arg(build_folder());
    bench.arg("--json").arg(lab.folder.path().join("l4.json"));
    let output = bench.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    for word in ["in use", "lab down --name bench"] {
        assert!(errors.contains(word), "{word:?} is not in {errors}");
    }
    assert_eq!(lab.status()["nodes"], before["nodes"]);
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    if !has_xtask() {
        return;
    }
    let Some((_guard, demo)) = demo_name() else {
        return;
    };
    let verb = Verb::start(&demo_command());
    let pod = Netns::named("weft.demo.pod.default.batch");
    verb.interrupt_when(Signal::INT, "a pod", || pod.exists());
    let (code, out, errors) = verb.end();
    assert_eq!(code, Some(130), "{out}{errors}");
    assert!(!out.contains("Everything was taken down"), "{out}");
    demo.assert_nothing_left();
}

#[test]
fn labs_and_programs_of_a_run_of_the_tests_that_was_ended_go_and_no_others() {
    if !has_xtask() {
        return;
    }
    let (lab, other) = (CommandLine::new("run"), CommandLine::new("norun"));
    let run = format!("t-{}", std::process::id());
    let path = lab.write("lab.yaml", FILE);
    let up = lab
        .command(&["up", path.to_str().unwrap()])
        .env(TEST_RUN, &run)
        .output()
        .unwrap();
    assert!(up.status.success(), "{up:?}");
    other.up(FILE).unwrap();
    let begun = other.write("lab.yaml", FILE);
    // A command of the run that is just making another lab, and a program that belongs to none.
    let half = CommandLine::new("half");
    let mut command = half.command(&["up", begun.to_str().unwrap()]);
    let verb = Verb::start(command.env(TEST_RUN, &run));
    let stray = Application::start(Command::new("sleep").env(TEST_RUN, &run));
    until("the first program", LONG, || {
        anyhow::ensure!(!of_lab(&half.name, &[]).is_empty(), "none yet");
        Ok(())
    })
    .unwrap();

    weft_testkit::lab::down_of_run(&run).unwrap();
    let (code, _, errors) = verb.end();
    assert_eq!(code, Some(143), "{errors}");
    half.assert_nothing_left();
    lab.assert_nothing_left();
    assert!(!stray.running.alive());
    assert_eq!(other.status()["pods"].as_array().unwrap().len(), 2);
}

/// The lock of the copies of programs that labs run, as every lab takes it.
fn store_lock() -> std::fs::File {
    use std::os::unix::fs::MetadataExt as _;
    let folder = Path::new("/var/lib/weft-lab");
    loop {
        std::fs::create_dir_all(folder).unwrap();
        let Ok(file) = std::fs::File::create(folder.join("lock")) else {
            continue;
        };
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        // Whoever cleaned up meanwhile removed the file that was waited for.
        let ours = file.metadata().unwrap().ino();
        if std::fs::metadata(folder.join("lock")).is_ok_and(|now| now.ino() == ours) {
            return file;
        }
    }
}
