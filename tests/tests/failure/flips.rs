//! A server that joins and leaves the mesh while it is called: nobody notices.
//!
//! Method: an enrolled client calls two servers without pause, one of another node and one of its own, over IPv4, IPv6 and a
//! Service, a client outside of the mesh calls as well where policy lets it, and both servers are put into the mesh and taken out
//! again and again. Connections of each time stay open to the end. The leak oracle judges what is begun while a server is in.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use weft_testkit::load::{self, Churn, Churning};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

use super::{is_long, ping_all};

/// Times that the servers leave, and join again.
const FLIPS: usize = 4;
const FLIPS_LONG: usize = 40;
/// One time in so many they join again only when their node has let go of them for good; else while tunnels still find them.
const FOR_GOOD: usize = 5;
/// New connections a second of each client on each way.
const RATE: u32 = 40;
/// Good calls on each way after each change: half a second in which its consequences show.
const BETWEEN: u64 = 20;
/// The servers, of the client's own node and of another one.
const SERVERS: [&str; 2] = ["near", "far"];
/// Address of the Service in front of the first server, and of the second.
const VIRTUAL: [&str; 2] = ["10.96.0.71", "10.96.0.72"];

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
";

/// A way on which a server is called.
struct Way {
    client: &'static str,
    to: SocketAddr,
}

/// When the servers were told to join (or to leave), and how long it took to be true.
struct Change {
    joining: bool,
    begun: Instant,
    took: Duration,
}

#[test]
fn servers_join_and_leave_and_no_call_fails() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = Builder::two_nodes()
        .pod("client", "n1")
        .pod("near", "n1")
        .pod("far", "n2")
        .plain_pod("outside", "n2");
    flip(lab.up().unwrap(), &["client", "outside"]);
}

#[test]
fn servers_that_insist_on_identity_join_and_leave_and_no_call_fails() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = Builder::two_nodes()
        .pod("client", "n1")
        .pod("near", "n1")
        .pod("far", "n2")
        .resource(STRICT);
    flip(lab.up().unwrap(), &["client"]);
}

fn flip(mut lab: TestLab, clients: &[&'static str]) {
    let servers = SERVERS.map(|pod| lab.serve(pod, Behaviour::Echo).unwrap().0);
    lab.set_resource(1, &services(&servers)).unwrap();
    let ways = ways(&lab, clients, &servers);
    let streams: Vec<Churning> = ways
        .iter()
        .map(|way| {
            let churn = Churn::new(&lab.netns(way.client), way.to);
            churn.per_second(RATE).start().unwrap()
        })
        .collect();
    steady(&streams);
    let (mut changes, mut kept) = (Vec::new(), Vec::new());
    for flip in 0..if is_long() { FLIPS_LONG } else { FLIPS } {
        for joining in [false, true] {
            keep(&lab, &ways, &mut kept);
            changes.push(change(&mut lab, joining));
            steady(&streams);
            if !joining && flip % FOR_GOOD == 1 {
                for server in SERVERS {
                    lab.wait_until_let_go(server).unwrap();
                }
            }
        }
    }
    ping_all(&mut kept);
    let (mut calls, mut failed) = (0, 0);
    for (way, stream) in ways.iter().zip(streams) {
        let report = stream.stop().unwrap();
        println!("{} to {}: {report}", way.client, way.to);
        for failure in &report.failures {
            println!("  {}", place(&changes, failure));
        }
        calls += report.begun;
        failed += report.failed();
    }
    println!("{failed} of {calls} calls failed");
    if failed > 0 {
        print_refusals(&lab);
    }
    assert_eq!(failed, 0, "calls failed");
}

fn services(servers: &[Server; 2]) -> String {
    let service = |number: usize| {
        let (name, address, port) = (SERVERS[number], VIRTUAL[number], servers[number].port());
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: {address}, selector: {{app: {name}}}, ports: [{{port: 80, targetPort: {port}}}]}}
"
        )
    };
    format!("{}---{}", service(0), service(1))
}

fn ways(lab: &TestLab, clients: &[&'static str], servers: &[Server; 2]) -> Vec<Way> {
    let mut ways = Vec::new();
    for (pod, server) in SERVERS.into_iter().zip(servers) {
        for client in clients {
            for to in [server.at(lab.v4(pod)), server.at(lab.v6(pod))] {
                ways.push(Way { client, to });
            }
        }
    }
    for address in VIRTUAL {
        let to = SocketAddr::new(address.parse().unwrap(), 80);
        let client = "client";
        ways.push(Way { client, to });
    }
    ways
}

fn change(lab: &mut TestLab, joining: bool) -> Change {
    let begun = Instant::now();
    lab.change(|file| {
        for pod in &mut file.pods {
            if SERVERS.contains(&pod.name.as_str()) {
                pod.mesh = joining;
            }
        }
    })
    .unwrap();
    Change {
        joining,
        begun,
        took: begun.elapsed(),
    }
}

/// Opens a connection on every way, to be kept.
fn keep(lab: &TestLab, ways: &[Way], kept: &mut Vec<TcpStream>) {
    for way in ways {
        kept.push(load::connect(&lab.netns(way.client), way.to).unwrap());
    }
    ping_all(kept);
}

/// Waits until every stream has gone on for a while.
fn steady(streams: &[Churning]) {
    let goals: Vec<u64> = streams.iter().map(|s| s.good() + BETWEEN).collect();
    until("every stream to go on", LONG, || {
        for (stream, goal) in streams.iter().zip(&goals) {
            let good = stream.good();
            anyhow::ensure!(good >= *goal, "{good} of {goal}");
        }
        Ok(())
    })
    .unwrap();
}

/// What failed, in which change, and when after its begin.
fn place(changes: &[Change], failure: &load::Failure) -> String {
    let what = format!("{:?} {:?}", failure.phase, failure.kind);
    let Some(change) = changes.iter().rfind(|c| c.begun <= failure.ended) else {
        return format!("{what}, before any change");
    };
    let after = failure.ended.duration_since(change.begun);
    let lasted = failure.ended.duration_since(failure.begun);
    let way = if change.joining { "joining" } else { "leaving" };
    let took = change.took;
    format!(
        "{what}, {after:?} after the begin of {way} (which took {took:?}), {lasted:?} after its own"
    )
}

/// What the proxies say of connections that did not end well.
fn print_refusals(lab: &TestLab) {
    for node in ["n1", "n2"] {
        let log = lab.lab().place().node_logs(node).join("proxy.log");
        let log = std::fs::read_to_string(log).unwrap_or_default();
        let failed = |line: &&str| line.contains(" access connection ") && line.contains(" error=");
        for line in log.lines().filter(failed).take(100) {
            println!("{node}: {line}");
        }
    }
}
