//! What each program of a node may do, compared with the list that is checked in here.

use std::collections::BTreeSet;
use std::fs;

use weft_testkit::lab::program::Running;
use weft_testkit::load;
use weft_testkit::peer::Behaviour;

use super::{program, two_pods};

/// One program's privileges.
struct Expected {
    program: &'static str,
    uid: u32,
    /// Numbers of capabilities (linux/capability.h), effective and permitted, and for root bounding as well.
    capabilities: &'static [u32],
    /// `Seccomp` of `/proc/PID/status`: 0 none, 2 a filter.
    seccomp: u32,
    /// Folders, relative to the lab's, and devices under which its open files lie.
    files: &'static [&'static str],
}

const EXPECTED: [Expected; 3] = [
    Expected {
        program: "weft-node",
        uid: 0,
        // chown, dac_override, fowner, kill, setgid, setuid, setpcap, net_admin, sys_admin, perfmon, bpf
        capabilities: &[0, 1, 3, 5, 6, 7, 8, 12, 21, 38, 39],
        seccomp: 0,
        files: &["/dev/null", "/run/netns/", "log", "run"],
    },
    Expected {
        program: "weft-agent",
        uid: 0,
        // net_admin, perfmon, bpf
        capabilities: &[12, 38, 39],
        seccomp: 2,
        files: &[
            "/dev/null",
            "/run/netns/",
            "log",
            "run",
            "state/agent",
            "bpf",
        ],
    },
    Expected {
        program: "weft-proxy",
        uid: 65532,
        capabilities: &[],
        seccomp: 2,
        files: &["/dev/null", "log"],
    },
];

#[test]
fn privileges_and_open_files_are_those_of_the_list() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = two_pods();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    load::echo(&lab.netns("a"), to, 1000).unwrap();
    let root = lab.lab().place().root().to_owned();
    let node = lab.lab().place().node("n1");
    for expected in EXPECTED {
        let running = program(&lab, expected.program);
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
        let what = expected.program;
        assert_eq!(field(&status, "Uid"), expected.uid.to_string(), "{what}");
        // The proxy has no capability with which to empty its bounding set; NoNewPrivs closes that door.
        let bounding = (expected.uid == 0).then_some("CapBnd");
        for set in ["CapEff", "CapPrm"].into_iter().chain(bounding) {
            let have = capabilities(&field(&status, set));
            let want: BTreeSet<u32> = expected.capabilities.iter().copied().collect();
            // The machine may lack some; none may be there besides.
            let surplus: Vec<_> = have.difference(&want).collect();
            assert!(surplus.is_empty(), "{what} has {set} {surplus:?} too many");
        }
        assert_eq!(field(&status, "CapInh"), "0000000000000000", "{what}");
        assert_eq!(field(&status, "CapAmb"), "0000000000000000", "{what}");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "{what}");
        assert_eq!(
            field(&status, "Seccomp"),
            expected.seccomp.to_string(),
            "{what}"
        );
        let allowed: Vec<String> = expected
            .files
            .iter()
            .flat_map(|file| match file.strip_prefix('/') {
                Some(_) => vec![(*file).to_owned()],
                None => [&node, &root]
                    .iter()
                    .map(|base| base.join(file).display().to_string())
                    .collect(),
            })
            .collect();
        for path in open_files(running) {
            assert!(
                allowed.iter().any(|prefix| path.starts_with(prefix)),
                "{what} has {path} open, which is not under {allowed:?}"
            );
        }
    }
}

fn field(status: &str, name: &str) -> String {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in {status}"));
    line.split_whitespace().next().unwrap().to_owned()
}

fn capabilities(hex: &str) -> BTreeSet<u32> {
    let bits = u64::from_str_radix(hex, 16).unwrap();
    (0..64).filter(|bit| bits >> bit & 1 == 1).collect()
}

/// Paths of open files; sockets, pipes, anonymous inodes and namespaces have none.
fn open_files(running: Running) -> Vec<String> {
    fs::read_dir(format!("/proc/{}/fd", running.pid))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|path| path.display().to_string())
        .filter(|path| path.starts_with('/') && !path.starts_with("/memfd:"))
        .collect()
}
