//! Which port answers whom, in which protocol: dialled from every side, compared with the table in `ports.txt`.
//!
//! A cell says what came back first: `http`, `h2`, `app` for the application's greeting, `-` for nothing (refused, reset, closed
//! without a byte, a TLS alert). In the TLS columns it is what came out of TLS. `tls` has no client certificate, `foreign` one of
//! another trust domain's authority. Written anew with `WEFT_TEST_WRITE=1`, to be read before it is committed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use weft_testkit::netns::{Netns, has_ipv6};
use weft_testkit::peer::{Behaviour, Server};
use weft_tests::lab::{Builder, TestLab};

use crate::mesh::{HBONE, credentials, identity};

#[path = "ports/probe.rs"]
mod probe;

use probe::{GREETING, PROTOCOLS, Prober};

const TABLE: &str = include_str!("ports.txt");
/// Ports of programs on a node, all of them: metrics of the proxy, readiness, metrics of node and agent.
const NODE_PORTS: [u16; 4] = [15020, 15021, 15023, 15025];
/// Ports of the controller: ADS and certificates, metrics.
const CONTROLLER_PORTS: [u16; 2] = [15012, 15014];
/// The application's.
const APPLICATION: u16 = 8080;
/// Ports that meshes take elsewhere, and one where nobody listens.
const FREE: [u16; 6] = [15001, 15006, 15020, 15021, 15090, 9];
/// Where to look for ports that nobody knows of.
const RANGE: std::ops::RangeInclusive<u16> = 15000..=15090;
/// Least size of the table that counts as a search.
const CELLS_MIN: usize = 200;

/// Something to dial.
struct Target {
    name: String,
    to: SocketAddr,
}

/// a and o are in the mesh, o in another namespace; p is not; b serves.
fn lab() -> TestLab {
    Builder::two_nodes()
        .pod("a", "n1")
        .plain_pod("p", "n1")
        .pod("b", "n2")
        .pod_with("o", "n2", |pod| "other".clone_into(&mut pod.namespace))
        .up()
        .unwrap()
}

/// Every side that can dial.
fn sources(lab: &TestLab) -> [(&'static str, Netns); 5] {
    let topology = lab.lab().topology();
    [
        ("pod", lab.netns("a")),
        ("plain-pod", lab.netns("p")),
        ("other-namespace", lab.netns("other/o")),
        ("host", topology.node("n2")),
        ("other-node", topology.node("n1")),
    ]
}

fn targets(lab: &TestLab, node: IpAddr) -> Vec<Target> {
    let target = |name: String, address, port| Target {
        name,
        to: SocketAddr::new(address, port),
    };
    let mut all: Vec<Target> = NODE_PORTS
        .map(|port| target(format!("node:{port}"), node, port))
        .into();
    let controller = [10, 77, 255, 1].into();
    let of_controller = |port| target(format!("controller:{port}"), controller, port);
    all.extend(CONTROLLER_PORTS.map(of_controller));
    let mut addresses = vec![("pod4", lab.v4("b"))];
    if has_ipv6() {
        addresses.push(("pod6", lab.v6("b")));
    }
    let inside: Vec<u16> = listening(&lab.netns("b"))
        .iter()
        .filter(|to| to.ip().is_loopback())
        .map(SocketAddr::port)
        .collect();
    assert_eq!(inside.len(), 3, "outbound, inbound, tunnel: {inside:?}");
    for (name, address) in addresses {
        let ports = [HBONE, APPLICATION].into_iter().chain(FREE);
        all.extend(ports.map(|port| target(format!("{name}:{port}"), address, port)));
        let inside = inside.iter().enumerate();
        all.extend(inside.map(|(n, port)| target(format!("{name}:inside-{n}"), address, *port)));
    }
    all
}

#[test]
fn every_port_answers_those_of_the_table_and_nobody_else() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let any = if has_ipv6() { "[::]" } else { "0.0.0.0" };
    let any = format!("{any}:{APPLICATION}").parse().unwrap();
    let greet = Behaviour::Greet(GREETING.to_owned());
    let _server = Server::start(&lab.netns("b"), any, greet).unwrap();
    let node = lab.lab().record().plan.nodes[1].addresses[0];
    let targets = targets(&lab, node);
    let sources = sources(&lab);
    let prober = Prober::new();
    let columns: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads = sources.each_ref().map(|(name, netns)| {
            let (prober, targets) = (&prober, &targets);
            scope.spawn(move || {
                assert_scan_finds_nothing_new(prober, name, netns, node);
                let rows = targets.iter().map(|target| row(prober, netns, target));
                rows.collect()
            })
        });
        threads.map(|thread| thread.join().unwrap()).into()
    });
    let mut found = Vec::new();
    for (number, target) in targets.iter().enumerate() {
        for ((source, _), column) in sources.iter().zip(&columns) {
            let head = format!("{:<16} {source:<16}", target.name);
            found.push(format!("{head}{}", column[number]).trim_end().to_owned());
        }
    }
    compare(&found);
    // The control: a tunnel port answers whoever shows a certificate of the mesh.
    let prober = Prober::showing(&credentials(&lab, "n1", "a"), &identity("b"));
    let to = SocketAddr::new(lab.v4("b"), HBONE);
    assert_eq!(prober.dial(&sources[3].1, to, PROTOCOLS[2]), "h2");
}

fn row(prober: &Prober, netns: &Netns, target: &Target) -> String {
    let cells = PROTOCOLS.map(|protocol| format!("{:<8}", prober.dial(netns, target.to, protocol)));
    cells.concat()
}

/// Every difference between the table and what was found, cell by cell.
fn differences(table: &str, found: &[String]) -> Vec<String> {
    let cells = |line: &str| -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (head, cells) = words.split_at(words.len().min(2));
        let name = head.join(" from ");
        let cells = cells.iter().zip(PROTOCOLS);
        cells
            .map(|(cell, protocol)| format!("{name} {protocol:?}: {cell}"))
            .collect()
    };
    let listed: BTreeSet<String> = table
        .lines()
        .filter(|line| !line.starts_with('#'))
        // Without IPv6 there is nothing to dial there.
        .filter(|line| has_ipv6() || !line.starts_with("pod6"))
        .flat_map(cells)
        .collect();
    let found: BTreeSet<String> = found.iter().flat_map(|line| cells(line)).collect();
    assert!(found.len() >= CELLS_MIN, "{} cells", found.len());
    let surplus = found.difference(&listed).map(|cell| format!("is {cell}"));
    let missing = listed.difference(&found).map(|cell| format!("not {cell}"));
    surplus.chain(missing).collect()
}

fn compare(found: &[String]) {
    let wrong = differences(TABLE, found);
    if std::env::var_os("WEFT_TEST_WRITE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/security/ports.txt");
        let comments = TABLE.lines().filter(|line| line.starts_with('#'));
        let lines: Vec<&str> = comments.chain(found.iter().map(String::as_str)).collect();
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The control: a table in which one cell differs is not this one.
    let tunnel = found.iter().position(|line| line.starts_with("pod4:15008"));
    let mut opened = found.to_vec();
    opened[tunnel.unwrap()] = opened[tunnel.unwrap()].replacen(" -", " h2", 1);
    assert_eq!(differences(TABLE, &opened).len(), 2);
}

/// Dials every port of a node that a mesh might use, except those that are known.
fn assert_scan_finds_nothing_new(prober: &Prober, source: &str, netns: &Netns, node: IpAddr) {
    for port in RANGE.filter(|port| !NODE_PORTS.contains(port)) {
        let to = SocketAddr::new(node, port);
        let answer = prober.dial(netns, to, PROTOCOLS[0]);
        assert_eq!(answer, "-", "{to} from {source}");
    }
}

#[test]
fn programs_listen_where_the_table_looks_and_nowhere_else() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let ports = |netns: &Netns| -> BTreeSet<u16> {
        listening(netns).into_iter().map(|to| to.port()).collect()
    };
    let topology = lab.lab().topology();
    for node in ["n1", "n2"] {
        assert_eq!(ports(&topology.node(node)), NODE_PORTS.into());
    }
    assert_eq!(ports(&topology.controller()), CONTROLLER_PORTS.into());
    assert!(ports(&lab.netns("p")).is_empty());
    for pod in ["a", "b", "other/o"] {
        let inside = listening(&lab.netns(pod));
        assert_eq!(inside.len(), 3, "{pod}: {inside:?}");
        assert!(inside.iter().all(|to| to.ip().is_loopback()), "{inside:?}");
    }
    // The control: a listener that nobody knows of is seen.
    let node = topology.node("n1");
    let _stray = Server::on_any(&node, Behaviour::Echo).unwrap();
    assert_ne!(ports(&node), NODE_PORTS.into());
}

/// Every TCP socket that listens in a namespace.
pub(crate) fn listening(netns: &Netns) -> Vec<SocketAddr> {
    netns
        .enter(|| {
            let mut found = Vec::new();
            for file in ["tcp", "tcp6"] {
                // Without IPv6 there is no second file.
                let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
                let text = text.unwrap_or_default();
                let lines = text.lines().skip(1);
                found.extend(lines.filter_map(listener));
            }
            Ok(found)
        })
        .unwrap()
}

/// The local address of a line of `/proc/net/tcp` whose state is LISTEN (proc(5), 0A).
fn listener(line: &str) -> Option<SocketAddr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if fields.get(3) != Some(&"0A") {
        return None;
    }
    socket_address(fields[1])
}

/// An address as `/proc/net/tcp` writes it: 32-bit words in the machine's order, in hex.
pub(crate) fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(bytes).ok()?.into(),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[test]
fn sockets_tokens_and_pins_are_closed_to_other_users() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = lab();
    let place = lab.lab().place();
    let reachable_of = |kinds: &[&str], test: &str, uid: u32| {
        use std::os::unix::process::CommandExt as _;
        let output = Command::new("find")
            .arg(place.root())
            .arg("(")
            .args(kinds)
            .args([")", test])
            .uid(uid)
            .gid(uid)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let reachable = |test, uid| reachable_of(&["-type", "f", "-o", "-type", "s"], test, uid);
    assert_eq!(reachable("-writable", 65534), BTreeSet::new());
    // Nobody else makes a file beside those of the mesh, the pins' file system included.
    let folders = |test, uid| reachable_of(&["-type", "d"], test, uid);
    assert_eq!(folders("-writable", 65534), BTreeSet::new());
    assert!(!folders("-readable", 65534).is_empty(), "it sees none");
    // What anybody may read: configuration and the controller's copy of it, logs, certificates, and the notes of lab and node
    // on processes and settings.
    let configuration = [place.source(), place.controller().join("last-good")];
    for path in reachable("-readable", 65534) {
        let open = configuration
            .iter()
            .any(|folder| Path::new(&path).starts_with(folder))
            || [".json", "lock", "root.pem", ".log"]
                .iter()
                .any(|name| path.ends_with(name));
        assert!(open, "others may read {path}");
    }
    // The control: the proxy's user reaches the holder, and nothing else of the control plane.
    let proxys = reachable("-writable", 65532);
    for node in ["n1", "n2"] {
        let holder = place.run(node).join("node.sock").display().to_string();
        assert!(proxys.contains(&holder), "{proxys:?}");
    }
    let forbidden = ["tokens", "node-admin", "agent-admin", "controller", "bpf"];
    for path in proxys {
        let inside = path.strip_prefix(&place.root().display().to_string());
        let inside = inside.unwrap();
        assert!(
            !forbidden.iter().any(|word| inside.contains(word)),
            "{path}"
        );
    }
}
