//! Private keys of a running mesh, looked for wherever a key has no business.
//!
//! The truth comes from the one place that holds keys outside of a proxy: the sealed memory file in `weft-node`, read as root. Each
//! key's secret number is then searched for, raw, in hex and in base64, in every file of the lab, in every answer of every
//! admin socket and metrics port, in environments, command lines and the memory of all programs that must not know it. The proxy's
//! own memory, which must hold its keys, shows that the search finds keys in memory; planted ones, that it finds them in files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use weft_identity::Credentials;
use weft_identity::handover::import;
use weft_testkit::lab::program::{Running, kill_all};
use weft_testkit::lab::report::program_of_node;
use weft_testkit::peer::Behaviour;
use weft_testkit::secrets::{Needles, forms, secrets_in};
use weft_testkit::wait::{LONG, until};
use weft_testkit::{admin, load};
use weft_tests::lab::{Builder, TestLab};

/// Metrics ports of node, agent and proxy.
const METRICS: [u16; 3] = [15023, 15025, 15020];
/// What the admin sockets of a node's programs answer.
const ADMIN: [(&str, &[&str]); 3] = [
    ("node", &["/", "/config_dump", "/healthz/ready", "/metrics"]),
    (
        "agent",
        &[
            "/pods",
            "/refusals",
            "/counters",
            "/config_dump",
            "/logging",
        ],
    ),
    (
        "proxy",
        &[
            "/",
            "/config_dump",
            "/connections",
            "/certificates",
            "/logging",
        ],
    ),
];
/// Name of the memory file with a proxy's keys.
const MEMFD: &str = "/memfd:weft-keys";

/// Pods of three service accounts on two nodes, some traffic, and proxies that took keys over from predecessors.
fn lab() -> TestLab {
    let lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .pod("c", "n1")
        .up()
        .unwrap();
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    load::echo(&lab.netns("a"), to, 100_000).unwrap();
    kill_all(&[program(&lab, "n1", "weft-proxy")]).unwrap();
    until("the next proxy", LONG, || {
        load::echo(&lab.netns("a"), to, 100)
    })
    .unwrap();
    lab
}

fn program(lab: &TestLab, node: &str, name: &str) -> Running {
    program_of_node(lab.lab(), node, name).unwrap_or_else(|| panic!("{name} does not run"))
}

/// The memory files with keys that a program has open, oldest first.
fn memory_files(running: Running) -> Vec<PathBuf> {
    let folder = format!("/proc/{}/fd", running.pid);
    let links = std::fs::read_dir(folder).unwrap().flatten();
    let mut found: Vec<PathBuf> = links
        .map(|entry| entry.path())
        .filter(|path| {
            std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with(MEMFD))
        })
        .collect();
    found.sort();
    found
}

/// What a node's holder keeps for the next proxy, once that is the keys of this many service accounts.
fn held(lab: &TestLab, node: &str, accounts: usize) -> Vec<u8> {
    let holder = program(lab, node, "weft-node");
    until("the keys to be handed over", LONG, || {
        let files = memory_files(holder);
        anyhow::ensure!(files.len() == 1, "{files:?}");
        let file = File::open(&files[0])?;
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
        file.read_exact_at(&mut bytes, 0)?;
        let count = secrets_in(&bytes).len();
        anyhow::ensure!(count == accounts, "{count} keys");
        Ok(bytes)
    })
    .unwrap()
}

/// The credentials that somebody who owns a node has.
pub(crate) fn stolen(lab: &TestLab, node: &str, accounts: usize) -> Vec<Credentials> {
    let bytes = held(lab, node, accounts);
    import(&bytes, std::time::SystemTime::now()).unwrap()
}

/// The secret numbers of every key of the lab: of workloads, by node, and of the certificate authority.
fn all_secrets(lab: &TestLab) -> (Needles, Needles) {
    let mut workloads = Needles::default();
    for (node, accounts) in [("n1", 2), ("n2", 1)] {
        let secrets = secrets_in(&held(lab, node, accounts));
        for (number, secret) in secrets.iter().enumerate() {
            workloads.add(&format!("key {number} of {node}"), secret);
        }
    }
    let pem = std::fs::read_to_string(authority_key(lab)).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let [secret] = secrets_in(key.secret_pkcs8_der()).try_into().unwrap();
    let mut authority = Needles::default();
    authority.add("the authority's key", &secret);
    (workloads, authority)
}

fn authority_key(lab: &TestLab) -> PathBuf {
    lab.lab().place().controller().join("ca/ca-key.pem")
}

/// Everything below the lab's folder that can be read, but the authority's own file.
fn files(lab: &TestLab) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![lab.lab().place().root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                // Pins are no files: the kernel does not let them be opened.
                if path != lab.lab().place().bpffs() {
                    folders.push(path);
                }
            } else if kind.is_file() && path != authority_key(lab) {
                // Files come and go.
                if let Ok(bytes) = std::fs::read(&path) {
                    found.insert(path, bytes);
                }
            }
        }
    }
    assert!(found.len() > 20, "{:?}", found.keys());
    found
}

/// Files in which a key of these is, or the beginning of any.
fn found_in_files(lab: &TestLab, needles: &Needles) -> Vec<String> {
    let files = files(lab).into_iter();
    let any = Needles::any_key();
    let judged =
        files.map(|(path, bytes)| (path, needles.find(&bytes).or_else(|| any.find(&bytes))));
    judged
        .filter_map(|(path, found)| Some(format!("{}: {}", path.display(), found?)))
        .collect()
}

#[test]
fn no_key_is_in_a_file_or_an_answer_or_an_environment() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let (mut needles, authority) = all_secrets(&lab);
    needles.extend(&authority);
    // Every log at its most talkative.
    for node in ["n1", "n2"] {
        for name in ["node", "agent", "proxy"] {
            let socket = lab.lab().place().admin(node, name);
            let _ = admin::get(&socket, "/logging?level=trace");
        }
    }
    let (_server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    load::echo(&lab.netns("c"), to, 1000).unwrap();

    assert_eq!(found_in_files(&lab, &needles), Vec::<String>::new());
    let any = Needles::any_key();
    for (name, text) in answers(&lab) {
        assert_eq!(needles.find(text.as_bytes()), None, "{name}");
        assert_eq!(any.find(text.as_bytes()), None, "{name}");
    }
    for running in programs(&lab) {
        for file in ["environ", "cmdline"] {
            let bytes = std::fs::read(format!("/proc/{}/{file}", running.pid)).unwrap();
            assert_eq!(needles.find(&bytes), None, "{file} of {}", running.name());
        }
    }
    assert_eq!(mode(&authority_key(&lab)), 0o600);
    assert_eq!(mode(authority_key(&lab).parent().unwrap()), 0o700);

    // The control: a key in a log, in each of the forms in which keys end up in logs.
    let log = lab.lab().place().log("controller");
    let clean = std::fs::read(&log).unwrap();
    for planted in forms(&held(&lab, "n2", 1)) {
        std::fs::write(&log, [&clean[..], b" key=", &planted, b"\n"].concat()).unwrap();
        let found = found_in_files(&lab, &needles);
        assert_eq!(found.len(), 1, "{found:?} for {planted:02x?}");
        assert!(found[0].contains("controller.log"), "{found:?}");
    }
}

/// Every answer of every program that answers anything.
fn answers(lab: &TestLab) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let place = lab.lab().place();
    let mut take = |socket: &Path, paths: &[&str]| {
        for path in paths {
            let text = admin::get(socket, path).unwrap();
            all.push((format!("{} {path}", socket.display()), text));
        }
    };
    let of_controller = [
        "/status",
        "/config_dump",
        "/subscribers",
        "/logging",
        "/metrics",
    ];
    take(&place.controller_admin(), &of_controller);
    for node in ["n1", "n2"] {
        for (name, paths) in ADMIN {
            take(&place.admin(node, name), paths);
        }
    }
    let topology = lab.lab().topology();
    for node in ["n1", "n2"] {
        for port in METRICS {
            let at = SocketAddr::new([127, 0, 0, 1].into(), port);
            let text = admin::get_tcp(&topology.node(node), at, "/metrics").unwrap();
            all.push((format!("metrics {port} of {node}"), text));
        }
    }
    all
}

fn programs(lab: &TestLab) -> Vec<Running> {
    let names = ["weft-node", "weft-agent", "weft-proxy"];
    let of_nodes = ["n1", "n2"]
        .into_iter()
        .flat_map(|node| names.map(|name| program(lab, node, name)));
    of_nodes.chain(lab.lab().record().controller).collect()
}

#[test]
fn no_key_is_in_the_memory_of_a_program_that_must_not_have_it() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let (workloads, authority) = all_secrets(&lab);
    for node in ["n1", "n2"] {
        for name in ["weft-node", "weft-agent"] {
            let running = program(&lab, node, name);
            for needles in [&workloads, &authority] {
                assert_eq!(found_in_memory(running, needles), None, "{name} of {node}");
            }
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", running.pid)).unwrap();
            assert!(
                !maps.contains(MEMFD),
                "{name} of {node} has the keys mapped"
            );
        }
        let proxy = program(&lab, node, "weft-proxy");
        assert_eq!(found_in_memory(proxy, &authority), None, "proxy of {node}");
        // The control: who must have keys is seen to have them.
        assert!(found_in_memory(proxy, &workloads).is_some(), "{node}");
    }
    let controller = lab.lab().record().controller.unwrap();
    assert_eq!(found_in_memory(controller, &workloads), None, "controller");
    assert!(found_in_memory(controller, &authority).is_some());
}

/// Searches everything that a process has mapped and that can be read.
fn found_in_memory(running: Running, needles: &Needles) -> Option<String> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", running.pid)).unwrap();
    let memory = File::open(format!("/proc/{}/mem", running.pid)).unwrap();
    let mut searched = 0;
    for line in maps.lines().filter(|line| !line.ends_with("[vvar]")) {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |hex| u64::from_str_radix(hex, 16).unwrap();
        let (start, end) = (number(start), number(end));
        if !rest.starts_with('r') {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // Mappings of devices, and those that went meanwhile, cannot be read.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            searched += bytes.len();
            if let Some(found) = needles.find(&bytes) {
                return Some(format!("{found} in {line}"));
            }
        }
    }
    // Code alone is more than this.
    assert!(searched > 1 << 20, "{searched} bytes of {}", running.name());
    None
}

#[test]
fn no_core_and_no_debugger_shows_keys() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    for running in programs(&lab) {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.pid)).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file"));
        let words: Vec<&str> = core.unwrap().split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{}: {words:?}", running.name());
    }
    // A process of the proxy's own user does not get at its memory; at that of another process of this user it does.
    let proxy = program(&lab, "n1", "weft-proxy");
    let reads = |pid: i32| {
        let mut command = Command::new("head");
        command
            .args(["-c", "1"])
            .arg(format!("/proc/{pid}/environ"));
        let output = command.uid(65532).gid(65532).output().unwrap();
        output.status.success()
    };
    let mut sleeping = Command::new("sleep");
    let mut own = sleeping.arg("600").uid(65532).gid(65532).spawn().unwrap();
    let (of_proxy, of_own) = (reads(proxy.pid), reads(own.id().cast_signed()));
    own.kill().unwrap();
    own.wait().unwrap();
    assert!(!of_proxy, "the proxy can be inspected by its own user");
    assert!(of_own, "the control");
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn the_memory_file_is_sealed_against_its_holder_and_everybody_else() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let accounts: BTreeSet<String> = stolen(&lab, "n1", 2)
        .iter()
        .map(|one| one.identity().service_account().to_owned())
        .collect();
    assert_eq!(accounts, ["a", "c"].map(str::to_owned).into());
    // It has no name in any file system, and the agent has no descriptor of it.
    let [path] = memory_files(program(&lab, "n1", "weft-node"))
        .try_into()
        .unwrap();
    assert_eq!(
        memory_files(program(&lab, "n1", "weft-agent")),
        Vec::<PathBuf>::new()
    );
    // Not even root changes what the next proxy will believe.
    let file = File::options().read(true).write(true).open(path).unwrap();
    // This file, whatever its successor holds: a proxy that took keys over hands them back in an order of its own.
    let content = || {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let before = content();
    assert!(before.starts_with(b"WEFTKEYS"));
    let refused = (&file).write_all(b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(file.set_len(0).is_err());
    assert_eq!(content(), before);
}
