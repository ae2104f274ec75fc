//! What each program of a node may do, compared with the list that is checked in here: all of it, in both directions.
//!
//! Method: a lab that has carried a connection; `/proc` of its programs. Control: a program that was started beside them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use weft_runtime::privileges::{Capability, bound_children};
use weft_testkit::lab::program::Running;
use weft_testkit::load;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, until};

use super::{program, two_pods};

/// One program's privileges.
struct Expected {
    program: &'static str,
    /// Real, effective, saved and of files; the group is the same number.
    uid: u32,
    /// Numbers of capabilities (linux/capability.h), as far as this machine has them: effective, permitted and bounding.
    /// Ambient and inheritable are empty.
    capabilities: &'static [u32],
    /// Filters of system calls besides those that this test runs under; two make one, and the node's are inherited.
    filters: u32,
    /// Kinds of its open files: what `/proc/PID/fd` says, without numbers, below the lab's folder or the node's.
    files: &'static [&'static str],
}

const EXPECTED: [Expected; 3] = [
    Expected {
        program: "weft-node",
        uid: 0,
        // chown, dac_override, fowner, kill, setgid, setuid, setpcap, net_admin, sys_admin, perfmon, bpf
        capabilities: &[0, 1, 3, 5, 6, 7, 8, 12, 21, 38, 39],
        filters: 2,
        files: &[
            "/dev/null",
            "/run/netns/",
            "anon_inode:[eventfd]",
            "anon_inode:[eventpoll]",
            "anon_inode:[pidfd]",
            "anon_inode:bpf-map",
            "anon_inode:inotify",
            "log/n1.node.log",
            "memfd:weft-keys",
            "net",
            "run/node.lock",
            "socket",
        ],
    },
    Expected {
        program: "weft-agent",
        uid: 0,
        // net_admin, perfmon, bpf
        capabilities: &[12, 38, 39],
        filters: 4,
        files: &[
            "/dev/null",
            "/run/netns/",
            "anon_inode:[eventfd]",
            "anon_inode:[eventpoll]",
            "anon_inode:bpf-map",
            "bpf/weft/n1",
            "log/agent.log",
            "socket",
        ],
    },
    Expected {
        program: "weft-proxy",
        uid: 65532,
        capabilities: &[],
        filters: 4,
        files: &[
            "/dev/null",
            "anon_inode:[eventfd]",
            "anon_inode:[eventpoll]",
            "anon_inode:bpf-map",
            "log/proxy.log",
            "memfd:weft-keys",
            "socket",
        ],
    },
];

#[test]
fn privileges_and_open_files_are_those_of_the_list() {
    if !weft_tests::is_root() {
        return;
    }
    // What the caller left open for whomever it starts, such as a lock, is nobody's business below.
    let inherited = fs::File::open("/etc/passwd").unwrap();
    fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
    let lab = two_pods();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    load::echo(&lab.netns("a"), to, 1000).unwrap();
    let folders = [
        lab.lab().place().node("n1"),
        lab.lab().place().root().to_owned(),
    ];
    let own = Status::of(std::process::id());
    for expected in EXPECTED {
        let running = program(&lab, expected.program);
        let what = expected.program;
        let status = Status::of(running.pid.cast_unsigned());
        let ids = vec![expected.uid.to_string(); 4];
        assert_eq!(status.words("Uid"), ids, "{what}");
        assert_eq!(status.words("Gid"), ids, "{what}");
        let machine = own.capabilities("CapBnd");
        let want: BTreeSet<u32> = expected.capabilities.iter().copied().collect();
        let want: BTreeSet<u32> = want.intersection(&machine).copied().collect();
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(status.capabilities(set), want, "{set} of {what}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(status.capabilities(set), BTreeSet::new(), "{set} of {what}");
        }
        assert_eq!(status.words("NoNewPrivs"), ["1"], "{what}");
        assert_eq!(status.words("Seccomp"), ["2"], "{what}");
        let filters = status.number("Seccomp_filters") - own.number("Seccomp_filters");
        assert_eq!(filters, expected.filters, "filters of {what}");
        assert_eq!(core_limits(running), ["0", "0"], "{what}");
        assert!(!is_dumpable(running.pid.cast_unsigned()), "{what}");
        let want: BTreeSet<String> = expected.files.iter().map(ToString::to_string).collect();
        // Keys reach the node a moment after they are used, and an enrolment holds a program for a moment.
        until("the open files are those of the list", LONG, || {
            let files = open_files(running, &folders);
            anyhow::ensure!(files == want, "{what} has {files:?}, not {want:?}");
            Ok(())
        })
        .unwrap();
    }
}

/// Without this, "not dumpable" might be what the test says of every program.
#[test]
fn a_program_that_does_nothing_about_it_is_dumpable() {
    if !weft_tests::is_root() {
        return;
    }
    for uid in [0, 65532] {
        let start = weft_runtime::spawn_thread("bounded", move || {
            // As few capabilities as the programs of a node have: looking into a process takes all of its own.
            bound_children(&[Capability::CAP_NET_ADMIN]).unwrap();
            Command::new("sleep").arg("600").uid(uid).spawn().unwrap()
        });
        let child = Ended(start.unwrap().join().unwrap());
        assert!(is_dumpable(child.0.id()), "uid {uid}");
        let bounding = Status::of(child.0.id()).capabilities("CapBnd");
        assert!(bounding.is_subset(&BTreeSet::from([12])), "{bounding:?}");
    }
}

/// A child that ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `/proc/PID/status`.
struct Status(String);

impl Status {
    fn of(pid: u32) -> Self {
        Self(fs::read_to_string(format!("/proc/{pid}/status")).unwrap())
    }

    fn words(&self, name: &str) -> Vec<&str> {
        let line = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("no {name} in {}", self.0));
        line.split_whitespace().collect()
    }

    fn number(&self, name: &str) -> u32 {
        self.words(name)[0].parse().unwrap()
    }

    fn capabilities(&self, name: &str) -> BTreeSet<u32> {
        let bits = u64::from_str_radix(self.words(name)[0], 16).unwrap();
        (0..64).filter(|bit| bits >> bit & 1 == 1).collect()
    }
}

/// Soft and hard limit of core files.
fn core_limits(running: Running) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.pid)).unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .unwrap();
    let words = line.split_whitespace().take(2);
    words.map(ToOwned::to_owned).collect()
}

/// Whether its memory may be dumped, and read by others of its user.
fn is_dumpable(pid: u32) -> bool {
    let status = fs::metadata(format!("/proc/{pid}/status")).unwrap();
    if Status::of(pid).words("Uid")[1] != "0" {
        // The kernel gives the files of a process that is not dumpable to root.
        return status.uid() != 0;
    }
    // Who has CAP_SYS_PTRACE may look at everything: this thread gives it up, and looks at what only ptrace(2) protects.
    let look = weft_runtime::spawn_thread("look", move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_PTRACE);
        set_capabilities(None, sets).unwrap();
        fs::read_link(format!("/proc/{pid}/exe"))
    });
    match look.unwrap().join().unwrap() {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            false
        }
    }
}

/// Kinds of open files: numbers are left out, and what is below one of the folders is named from there.
fn open_files(running: Running, folders: &[PathBuf]) -> BTreeSet<String> {
    fs::read_dir(format!("/proc/{}/fd", running.pid))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|link| kind(&link, folders))
        .collect()
}

fn kind(link: &Path, folders: &[PathBuf]) -> String {
    let below = folders
        .iter()
        .find_map(|folder| link.strip_prefix(folder).ok());
    let text = below.unwrap_or(link).display().to_string();
    if text.starts_with("/run/netns/") {
        return "/run/netns/".to_owned();
    }
    if let Some(memory) = text.strip_prefix("/memfd:") {
        return format!("memfd:{}", memory.trim_end_matches(" (deleted)"));
    }
    match text.split_once(":[") {
        // socket:[123], pipe:[123], net:[123]; but anon_inode:[eventpoll].
        Some((kind, number)) if number.trim_end_matches(']').parse::<u64>().is_ok() => {
            kind.to_owned()
        }
        _ => text,
    }
}
