//! Programs that die, are replaced, or come and go: applications must not notice.
//!
//! A steady stream of new connections runs on a fixed schedule while something is done to the
//! mesh. Every one of them must succeed and none may be in plaintext; the negative controls show
//! that the stream does notice when the mesh really is not there.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use weft_testkit::lab::program::{Running, kill_all};
use weft_testkit::lab::{report, upgrade};
use weft_testkit::leak::Recorder;
use weft_testkit::load::{self, Churn, Churning};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab, build_folder};

#[path = "failure/enrolment.rs"]
mod enrolment;

/// Good connections before and after the blow.
const STEADY: u64 = 100;

/// Connections under way at the moment of a blow: one begins every 10 ms and takes a few, on a
/// busy machine as long as the slowest.
const UNDER_WAY_MAX: u64 = 5;

/// A lab with a stream of new connections from a on n1 to b on n2.
struct Steady {
    lab: TestLab,
    recorder: Recorder,
    churn: Churning,
    server: Server,
}

impl Steady {
    fn new() -> Self {
        let lab = Builder::two_nodes()
            .pod("a", "n1")
            .pod("b", "n2")
            .up()
            .unwrap();
        let (server, to) = lab.serve("b", Behaviour::Echo).unwrap();
        let recorder = lab.record().unwrap();
        let churn = Churn::new(&lab.netns("a"), to).start().unwrap();
        churn.wait_for(STEADY).unwrap();
        Self {
            lab,
            recorder,
            churn,
            server,
        }
    }

    fn program(&self, node: &str, name: &str) -> Running {
        report::program_of_node(self.lab.lab(), node, name)
            .unwrap_or_else(|| panic!("{name} does not run on {node}"))
    }

    /// Kills programs at once and waits until each has a successor.
    fn kill(&self, node: &str, names: &[&str]) {
        let old: Vec<Running> = names.iter().map(|name| self.program(node, name)).collect();
        self.churn.wait_for_pause();
        kill_all(&old).unwrap();
        for (name, old) in names.iter().zip(old) {
            until(&format!("another {name}"), LONG, || {
                let now = report::program_of_node(self.lab.lab(), node, name);
                anyhow::ensure!(now.is_some_and(|now| now != old), "none yet");
                Ok(())
            })
            .unwrap();
        }
    }

    /// Waits until a node's proxy has both pods on disk: it writes at most every few seconds.
    fn wait_for_snapshot(&self, node: &str) {
        let folder = self.lab.lab().place().state(node);
        until("the snapshot on disk", LONG, || {
            let known = files(&folder)
                .iter()
                .filter(|path| path.to_string_lossy().contains("proxy"))
                .filter_map(|path| std::fs::read(path).ok())
                .any(|bytes| {
                    ["Pod/default/a", "Pod/default/b"]
                        .iter()
                        .all(|uid| bytes.windows(uid.len()).any(|at| at == uid.as_bytes()))
                });
            anyhow::ensure!(known, "not in {:?}", files(&folder));
            Ok(())
        })
        .unwrap();
    }

    /// More good connections, then the verdicts: of those that were under way inside a killed
    /// proxy, which takes its sockets along, a few may break; nothing else may happen to any.
    fn survives(self) {
        self.churn.wait_for(STEADY).unwrap();
        let mut report = self.churn.stop().unwrap();
        println!("{report:?}");
        let slow = report.slowest.as_millis() as u64 / 10;
        assert!(report.broken <= UNDER_WAY_MAX + 2 * slow, "{report:?}");
        report.good += std::mem::take(&mut report.broken);
        report.verdict().unwrap();
        self.recorder.stop().unwrap().verdict().unwrap();
    }
}

fn killed(node: &str, names: &[&str]) {
    if !weft_tests::is_root() {
        return;
    }
    let steady = Steady::new();
    steady.kill(node, names);
    steady.survives();
}

#[test]
fn nobody_notices_the_death_of_the_clients_proxy() {
    killed("n1", &["weft-proxy"]);
}

#[test]
fn nobody_notices_the_death_of_the_servers_proxy() {
    killed("n2", &["weft-proxy"]);
}

#[test]
fn nobody_notices_the_death_of_an_agent() {
    killed("n1", &["weft-agent"]);
}

#[test]
fn nobody_notices_the_death_of_agent_and_proxy_together() {
    killed("n1", &["weft-agent", "weft-proxy"]);
}

#[test]
fn nobody_notices_the_death_of_the_holder_and_its_return() {
    if !weft_tests::is_root() {
        return;
    }
    let mut steady = Steady::new();
    let holder = steady.program("n1", "weft-node");
    let proxy = steady.program("n1", "weft-proxy");
    kill_all(&[holder]).unwrap();
    // Agent and proxy serve on without it.
    steady.churn.wait_for(STEADY).unwrap();
    steady.lab.lab_mut().restart_node("n1").unwrap();
    assert_eq!(
        steady.program("n1", "weft-proxy"),
        proxy,
        "the next holder takes over the proxy that runs"
    );
    // The next holder holds again: the proxy may die.
    steady.kill("n1", &["weft-proxy"]);
    steady.survives();
}

#[test]
fn a_proxy_starts_and_serves_while_the_controller_is_away() {
    if !weft_tests::is_root() {
        return;
    }
    let steady = Steady::new();
    for node in ["n1", "n2"] {
        steady.wait_for_snapshot(node);
    }
    let controller = steady.lab.lab().record().controller.unwrap();
    kill_all(&[controller]).unwrap();
    steady.kill("n1", &["weft-proxy"]);
    steady.kill("n2", &["weft-proxy"]);
    steady.survives();
}

#[test]
fn without_holder_and_proxy_connections_are_refused_and_nothing_is_in_clear() {
    if !weft_tests::is_root() {
        return;
    }
    // The negative control: nobody holds the listeners, so the stream must notice, and what is
    // enrolled must stay closed rather than fall back to plaintext.
    let steady = Steady::new();
    let all: Vec<Running> = ["weft-node", "weft-agent", "weft-proxy"]
        .iter()
        .map(|name| steady.program("n1", name))
        .collect();
    kill_all(&all).unwrap();
    until("connections that fail", LONG, || {
        let failed = steady.churn.failed();
        anyhow::ensure!(failed >= UNDER_WAY_MAX * 2, "{failed} failed");
        Ok(())
    })
    .unwrap();
    let report = steady.churn.stop().unwrap();
    assert!(report.refused > 0, "{report:?}");
    steady.recorder.stop().unwrap().verdict().unwrap();
}

#[test]
fn an_upgrade_breaks_no_connection_old_or_new() {
    if !weft_tests::is_root() {
        return;
    }
    let count = if std::env::var_os("WEFT_TEST_LONG").is_some() {
        500
    } else {
        100
    };
    let mut steady = Steady::new();
    let to = load_target(&steady);
    let netns = steady.lab.netns("a");
    let mut long: Vec<TcpStream> = (0..count)
        .map(|_| load::connect(&netns, to).unwrap())
        .collect();
    ping_all(&mut long);
    upgrade(steady.lab.lab_mut(), &build_folder(), None).unwrap();
    ping_all(&mut long);
    steady.churn.wait_for(STEADY).unwrap();
    ping_all(&mut long);
    drop(long);
    steady.survives();
}

fn load_target(steady: &Steady) -> std::net::SocketAddr {
    steady.server.at(steady.lab.v4("b"))
}

/// Every file below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Every connection still echoes.
fn ping_all(streams: &mut [TcpStream]) {
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(b"~ping~").unwrap();
        let mut answer = [0; 6];
        stream
            .read_exact(&mut answer)
            .unwrap_or_else(|error| panic!("connection {number}: {error}"));
    }
}
