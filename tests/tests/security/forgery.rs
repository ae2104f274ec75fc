//! A neighbour on the same cable that writes packets under any address: the victim's own, other pods', link-local ones, the node's.
//!
//! Forged segments use source ports below 1024, which no client here has, so one that gets through shows in what applications and
//! proxies have accepted. The control completes a handshake from another pod's address, which is possible for
//! whoever owns the cable, and is seen at once; it is a caller without identity.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};
use weft_testkit::forge::{ACK, Forger, Link, PSH, SYN, Segment};
use weft_testkit::lab::program::Running;
use weft_testkit::lab::report::program_of_node;
use weft_testkit::load::{self, Churn};
use weft_testkit::netns::{Netns, has_ipv6};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

use crate::mesh::HBONE;
use crate::ports::{listening, socket_address};
use crate::record::records;

/// Segments of one attack.
const SEGMENTS: u32 = 10_000;
/// Ports that only forgers have.
const PRIVILEGED: u16 = 1024;
/// Connections that show that the victim's go on.
const STEADY: u64 = 50;
/// Connections that are held in their handshake, beside those that fill the queue.
const IN_FLIGHT: usize = 8;
/// Length of the queue of the victim's listeners in that test.
const QUEUE: usize = 4;
/// Connections that are begun: the queue takes one more than its length, and the proxy may have taken some before it stopped.
const BEGUN: usize = QUEUE + 4 + IN_FLIGHT;

const ONLY_A: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-a, namespace: default}
spec:
  selector: {matchLabels: {app: b}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/a]}}]}]
";

/// The victim b, its neighbour p outside of the mesh on the same bridge, and a on another node.
fn lab() -> Builder {
    Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .plain_pod("p", "n2")
}

fn addresses(lab: &TestLab, pod: &str) -> Vec<IpAddr> {
    let mut found = vec![lab.v4(pod)];
    if has_ipv6() {
        found.push(lab.v6(pod));
    }
    found
}

/// Addresses that p has no right to, of the family of the victim's.
fn claimed(lab: &TestLab, victim: IpAddr) -> Vec<IpAddr> {
    let mut all = addresses(lab, "a");
    all.push(victim);
    all.extend(
        lab.lab()
            .record()
            .plan
            .nodes
            .iter()
            .flat_map(|node| node.addresses.clone()),
    );
    let known = [
        "169.254.7.127",
        "169.254.169.254",
        "127.0.0.1",
        "10.77.255.1",
    ];
    let known6 = ["fe80::7f", "::1", "::ffff:10.77.255.1", "fd77::dead"];
    all.extend(
        known
            .iter()
            .chain(&known6)
            .map(|text| text.parse::<IpAddr>().unwrap()),
    );
    all.retain(|address| address.is_ipv4() == victim.is_ipv4());
    all
}

fn forger(lab: &TestLab) -> Forger {
    let victim = Link::of(&lab.netns("b"), "eth0").unwrap().address;
    Forger::open(&lab.netns("p"), "eth0", victim).unwrap()
}

/// Everything of the victim that was accepted from a forger, by applications and by its proxy.
fn accepted(lab: &TestLab, server: &Server) -> Vec<String> {
    let is_forged = |from: &SocketAddr| from.port() < PRIVILEGED;
    let seen = server.seen().into_iter();
    let by_server = seen
        .filter(is_forged)
        .map(|from| format!("application: {from}"));
    let records = records(lab, "n2").into_iter();
    let by_proxy = records
        .filter(|record| record.source.as_ref().is_some_and(is_forged))
        .map(|record| format!("{record:?}"));
    by_server.chain(by_proxy).collect()
}

#[test]
fn forged_segments_are_accepted_by_nobody_and_stop_nobody() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = lab().up().unwrap();
    // Forged segments are in clear between addresses of the mesh.
    lab.breaks_on_purpose();
    let (_echo, to_a) = lab.serve("a", Behaviour::Echo).unwrap();
    let server = Server::on_any(&lab.netns("b"), Behaviour::Echo).unwrap();
    let inside = listening(&lab.netns("b")).into_iter().map(|to| to.port());
    let targets: Vec<u16> = inside.chain([HBONE, 15001, 9]).collect();
    let forger = forger(&lab);
    let out = Churn::new(&lab.netns("b"), to_a).start().unwrap();
    let into = Churn::new(&lab.netns("a"), server.at(lab.v4("b")))
        .start()
        .unwrap();
    for victim in addresses(&lab, "b") {
        let sources = claimed(&lab, victim);
        for number in 0..SEGMENTS {
            let nth = number as usize;
            // Mostly SYNs; some go on as if they had been answered.
            let (flags, payload) = match number % 5 {
                4 => (ACK | PSH, b"forged".to_vec()),
                _ => (SYN, Vec::new()),
            };
            let segment = Segment {
                from: SocketAddr::new(sources[nth % sources.len()], 1 + (nth % 1000) as u16),
                to: SocketAddr::new(victim, targets[nth / 7 % targets.len()]),
                flags,
                sequence: number * 64_000,
                acknowledged: number * 32_000,
                payload,
            };
            forger.send(&segment).unwrap();
        }
    }
    // Connections that come through now have passed behind all of it.
    for churn in [out, into] {
        churn.wait_for(STEADY).unwrap();
        churn.stop().unwrap().verdict().unwrap();
    }
    assert_eq!(accepted(&lab, &server), Vec::<String>::new());
    a_completed_handshake_is_seen_and_has_no_identity(&mut lab, &server);
}

/// The control: p takes the address of a on its cable, and the victim's neighbour table believes it.
fn a_completed_handshake_is_seen_and_has_no_identity(lab: &mut TestLab, server: &Server) {
    let (thief, stolen) = (lab.netns("p"), lab.v4("a"));
    let mac = Link::of(&thief, "eth0").unwrap().address;
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    thief
        .ip_batch(&format!("address add {stolen}/32 dev eth0\n"))
        .unwrap();
    lab.netns("b")
        .ip_batch(&format!(
            "neigh replace {stolen} lladdr {mac} dev eth0 nud permanent\n"
        ))
        .unwrap();
    let to = server.at(lab.v4("b"));
    let reaches = |port: u16| from_port(&thief, SocketAddr::new(stolen, port), to);
    assert!(reaches(999), "whoever owns the cable can do that");
    assert!(!accepted(lab, server).is_empty());
    let record = until("its record", LONG, || {
        let found = records(lab, "n2").into_iter();
        let mut of_thief =
            found.filter(|record| record.source.is_some_and(|from| from.port() == 999));
        of_thief.next().ok_or_else(|| anyhow::anyhow!("none yet"))
    })
    .unwrap();
    assert_eq!(record.source_identity, None, "{record:?}");
    // Where an identity is asked for, the address opens nothing.
    lab.set_resource(0, ONLY_A).unwrap();
    until("the policy", LONG, || {
        anyhow::ensure!(
            !from_port(&thief, SocketAddr::new(stolen, 998), to),
            "let in"
        );
        Ok(())
    })
    .unwrap();
}

/// Whether an echo comes back to a client at this address and port.
fn from_port(netns: &Netns, from: SocketAddr, to: SocketAddr) -> bool {
    use std::io::{Read as _, Write as _};
    let exchange = || -> anyhow::Result<()> {
        let socket =
            netns.enter(|| Ok(Socket::new(Domain::for_address(from), Type::STREAM, None)?))?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), weft_testkit::wait::SHORT)?;
        let mut stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(weft_testkit::wait::SHORT))?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        Ok(())
    };
    exchange().is_ok()
}

#[test]
fn handshakes_that_are_in_flight_are_finished_by_nobody_else() {
    if !weft_tests::is_root() {
        return;
    }
    let mut lab = lab().up().unwrap();
    lab.breaks_on_purpose();
    // Listeners take the length of their queue from the namespace when they are made: now they are made anew.
    lab.set_mesh("b", false).unwrap();
    lab.wait_until_let_go("b").unwrap();
    let b = lab.netns("b");
    b.enter(|| {
        Ok(std::fs::write(
            "/proc/sys/net/core/somaxconn",
            QUEUE.to_string(),
        )?)
    })
    .unwrap();
    lab.set_mesh("b", true).unwrap();
    let victims = addresses(&lab, "b");
    let server = Server::on_any(&lab.netns("a"), Behaviour::Echo).unwrap();
    let application = Server::on_any(&b, Behaviour::Echo).unwrap();
    until("the way", LONG, || {
        load::echo(&b, server.at(lab.v4("a")), 10)
    })
    .unwrap();
    let proxy = program_of_node(lab.lab(), "n2", "weft-proxy").unwrap();
    let forger = forger(&lab);
    for (number, victim) in victims.into_iter().enumerate() {
        let to = server.at(addresses(&lab, "a")[number]);
        let before = server.seen().len();
        let stopped = Stopped::new(proxy);
        let sockets: Vec<Socket> = (0..BEGUN).map(|_| begin(&b, to)).collect();
        let pending = until("handshakes in flight", LONG, || {
            let pending = syn_sent(&b);
            anyhow::ensure!(pending.len() >= IN_FLIGHT, "{pending:?}");
            Ok(pending)
        })
        .unwrap();
        for nth in 0..SEGMENTS {
            let (from, at) = pending[nth as usize % pending.len()];
            // The pod's own address: its port of the handshake, or one close to it.
            let port = if nth % 2 == 0 {
                from.port()
            } else {
                1 + (nth % 1000) as u16
            };
            forger
                .send(&Segment {
                    from: SocketAddr::new(victim, port),
                    to: SocketAddr::new(victim, at.port()),
                    flags: if nth % 3 == 0 { SYN } else { ACK },
                    sequence: nth * 400_000,
                    acknowledged: nth * 300_000,
                    payload: Vec::new(),
                })
                .unwrap();
        }
        drop(stopped);
        // Each of the victim's own comes through, to where it was going, and nothing besides.
        for socket in sockets {
            echo_on(socket);
        }
        let clients = server.seen().len() - before;
        assert_eq!(clients, BEGUN);
        assert_eq!(accepted(&lab, &application), Vec::<String>::new());
    }
    assert_eq!(application.seen(), []);
}

/// A process that is stopped, and goes on when this is dropped.
struct Stopped(Running);

impl Stopped {
    fn new(running: Running) -> Self {
        assert!(running.signal(rustix::process::Signal::STOP));
        let this = Self(running);
        // Each thread stops when it gets to it, and accepts until then.
        until("all threads to stop", LONG, || {
            let states = thread_states(running)?;
            let stopped = states.iter().all(|state| state == "T");
            anyhow::ensure!(stopped, "{states:?}");
            Ok(())
        })
        .unwrap();
        this
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.signal(rustix::process::Signal::CONT);
    }
}

/// The state of each thread (`/proc/PID/task/TID/stat`, field 3).
fn thread_states(running: Running) -> anyhow::Result<Vec<String>> {
    let mut states = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", running.pid))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        states.extend(rest.split_whitespace().next().map(ToOwned::to_owned));
    }
    Ok(states)
}

/// A connection that has begun and is not waited for.
fn begin(netns: &Netns, to: SocketAddr) -> Socket {
    let socket = netns
        .enter(|| Ok(Socket::new(Domain::for_address(to), Type::STREAM, None)?))
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    let error = socket.connect(&to.into()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    socket
}

fn echo_on(socket: Socket) {
    use std::io::{Read as _, Write as _};
    socket.set_nonblocking(false).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).unwrap();
    // Written when the handshake is done.
    until("the handshake", LONG, || Ok(stream.write_all(b"x")?)).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"x");
}

/// Both ends of every handshake of a namespace that is not answered yet (proc(5), state 02).
fn syn_sent(netns: &Netns) -> Vec<(SocketAddr, SocketAddr)> {
    let read = || {
        let mut found = Vec::new();
        for file in ["tcp", "tcp6"] {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            for line in text.unwrap_or_default().lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                if fields[3] == "02" {
                    let ends = (socket_address(fields[1]), socket_address(fields[2]));
                    found.extend(ends.0.zip(ends.1));
                }
            }
        }
        Ok(found)
    };
    netns.enter(read).unwrap()
}
