//! Programs that die, are replaced, or come and go: applications must not notice.
//!
//! A steady stream of new connections runs on a fixed schedule while something is done to the
//! mesh. Every one of them must succeed and none may be in plaintext; the negative controls show
//! that the stream does notice when the mesh really is not there.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use weft_testkit::lab::program::{Running, kill_all};
use weft_testkit::lab::report;
use weft_testkit::leak::Recorder;
use weft_testkit::load::{Churn, Churning, Failure};
use weft_testkit::netns::Netns;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

#[path = "failure/deaths.rs"]
mod deaths;
#[path = "failure/enrolment.rs"]
mod enrolment;
#[path = "failure/flips.rs"]
mod flips;
#[path = "failure/queue.rs"]
mod queue;
#[path = "failure/remains.rs"]
mod remains;
#[path = "failure/upgrade.rs"]
mod upgrade;

/// Good connections before and after the blow.
const STEADY: u64 = 100;

/// Failed connections that are enough to say that the stream notices.
const NOTICED: u64 = 10;

/// A lab with a stream of new connections from a on n1 to b on n2.
struct Steady {
    lab: TestLab,
    recorder: Recorder,
    churn: Churning,
    server: Server,
}

impl Steady {
    fn new(rate: u32) -> Self {
        let lab = Builder::two_nodes()
            .pod("a", "n1")
            .pod("b", "n2")
            .up()
            .unwrap();
        let (server, to) = lab.serve("b", Behaviour::Echo).unwrap();
        let recorder = lab.record().unwrap();
        let churn = Churn::new(&lab.netns("a"), to)
            .per_second(rate)
            .start()
            .unwrap();
        churn.wait_for(STEADY).unwrap();
        Self {
            lab,
            recorder,
            churn,
            server,
        }
    }

    fn to(&self) -> SocketAddr {
        self.server.at(self.lab.v4("b"))
    }

    /// More good connections, then the verdicts: nothing whatsoever may have happened to any.
    fn survives(self) -> (TestLab, Server) {
        self.churn.wait_for(STEADY).unwrap();
        let report = self.churn.stop().unwrap();
        println!("{report}");
        for failure in &report.failures {
            println!("failed: {}", failure.position(&[]));
            for record in records(&self.lab, failure) {
                println!("  {record}");
            }
        }
        report.verdict().unwrap();
        self.recorder.stop().unwrap().verdict().unwrap();
        (self.lab, self.server)
    }
}

fn program(lab: &TestLab, node: &str, name: &str) -> Running {
    report::program_of_node(lab.lab(), node, name)
        .unwrap_or_else(|| panic!("{name} does not run on {node}"))
}

fn until_replaced(lab: &TestLab, node: &str, name: &str, old: Running) {
    until(&format!("another {name}"), LONG, || {
        let now = report::program_of_node(lab.lab(), node, name);
        anyhow::ensure!(now.is_some_and(|now| now != old), "none yet");
        Ok(())
    })
    .unwrap();
}

/// What the proxies that outlived a connection recorded of its failure; one that was killed wrote nothing.
fn records(lab: &TestLab, failure: &Failure) -> Vec<String> {
    let Some(from) = failure.from else {
        return Vec::new();
    };
    let source = format!("src.addr={from} ");
    let lines = ["n1", "n2"].map(|node| {
        let log = lab.lab().place().node_logs(node).join("proxy.log");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| line.contains(&source) && line.contains("response_flags"));
        lines
            .map(|line| format!("{node}: {line}"))
            .collect::<Vec<_>>()
    });
    lines.concat()
}

/// Whether the long sizes were asked for.
fn is_long() -> bool {
    std::env::var_os("WEFT_TEST_LONG").is_some()
}

/// Takes the hard limit of open files: both ends of every connection are in this process.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
}

#[test]
fn nobody_notices_the_death_of_the_holder_and_its_return() {
    if !weft_tests::is_root() {
        return;
    }
    let mut steady = Steady::new(100);
    let holder = program(&steady.lab, "n1", "weft-node");
    let proxy = program(&steady.lab, "n1", "weft-proxy");
    kill_all(&[holder]).unwrap();
    // Agent and proxy serve on without it.
    steady.churn.wait_for(STEADY).unwrap();
    steady.lab.lab_mut().restart_node("n1").unwrap();
    assert_eq!(
        program(&steady.lab, "n1", "weft-proxy"),
        proxy,
        "the next holder takes over the proxy that runs"
    );
    steady.survives();
}

#[test]
fn without_holder_and_proxy_connections_are_refused_and_nothing_is_in_clear() {
    if !weft_tests::is_root() {
        return;
    }
    // The negative control: nobody holds the listeners, so the stream must notice, and what is
    // enrolled must stay closed rather than fall back to plaintext.
    let steady = Steady::new(100);
    let all =
        ["weft-node", "weft-agent", "weft-proxy"].map(|name| program(&steady.lab, "n1", name));
    kill_all(&all).unwrap();
    until("connections that fail", LONG, || {
        let failed = steady.churn.failed();
        anyhow::ensure!(failed >= NOTICED, "{failed} failed");
        Ok(())
    })
    .unwrap();
    let report = steady.churn.stop().unwrap();
    println!("{report}");
    assert!(report.refused > 0, "{report}");
    steady.recorder.stop().unwrap().verdict().unwrap();
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
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

/// Waits until no connection to a port is left in a server's namespace.
fn until_none_is_left(netns: &Netns, port: u16) {
    until("no connection to be left at the server", LONG, || {
        let left = connections(netns, port);
        anyhow::ensure!(left == 0, "{left} are left in {}", netns.name());
        Ok(())
    })
    .unwrap();
}

/// Connections with a local port that one side at least still holds (states 01, 04, 05, 08, 09 of `/proc/net/tcp`).
fn connections(netns: &Netns, port: u16) -> usize {
    let local = format!(":{port:04X}");
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .map(|path| {
            netns
                .enter(|| Ok(std::fs::read_to_string(path).unwrap_or_default()))
                .unwrap()
        })
        .map(|table| {
            let lines = table.lines().skip(1);
            let held = lines.filter(|line| {
                let mut words = line.split_whitespace().skip(1);
                let (at, state) = (words.next().unwrap_or(""), words.nth(1).unwrap_or(""));
                at.ends_with(&local) && ["01", "04", "05", "08", "09"].contains(&state)
            });
            held.count()
        })
        .sum()
}
