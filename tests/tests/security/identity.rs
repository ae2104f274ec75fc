//! Who talked to whom, as the mesh records it, against what really happened, a hundred thousand times.
//!
//! Servers answer every request with their own name and the address that they believe to serve. So each connection knows both of
//! its ends, whatever the mesh says; each of its two access records must name the service accounts of exactly these two pods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use weft_testkit::netns::runtime;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

use crate::mesh;
use crate::record::{Record, by_source, records};

/// Pods, and where they run. The service account of each has its name, as far as the truth goes.
const PODS: [(&str, &str); 4] = [("a", "n1"), ("b", "n1"), ("c", "n2"), ("liar", "n2")];
/// Who calls whom: between nodes and inside them.
const PAIRS: [(&str, &str); 6] = [
    ("a", "b"),
    ("a", "c"),
    ("b", "a"),
    ("b", "c"),
    ("c", "a"),
    ("c", "b"),
];
/// What the liar does.
const LIES: [(&str, &str); 2] = [("liar", "a"), ("b", "liar")];
/// Connections of a pair.
const CONNECTIONS: usize = 42;
/// Requests on each: 6 pairs times 42 times 400 are 100 800.
const REQUESTS: usize = 400;
/// Requests that are under way at once on a connection.
const BATCH: usize = 50;
/// Ten times what all of it takes.
const PATIENCE: Duration = Duration::from_mins(2);

/// One connection, as its two ends know it.
#[derive(Clone, Debug)]
struct Flow {
    client: &'static str,
    server: &'static str,
    address: SocketAddr,
}

#[test]
fn every_record_of_a_hundred_thousand_requests_names_the_two_that_talked() {
    if !weft_tests::is_root() {
        return;
    }
    let mut builder = Builder::two_nodes();
    for (pod, node) in PODS {
        builder = builder.pod_with(pod, node, |entry| {
            if pod == "liar" {
                // The control: configuration gives this pod an identity that is not its own.
                "a".clone_into(&mut entry.service_account);
            }
        });
    }
    let lab = builder.up().unwrap();
    let servers: BTreeMap<&str, Server> = PODS
        .map(|(pod, _)| {
            let witness = Behaviour::Witness(pod.to_owned());
            (pod, Server::on_any(&lab.netns(pod), witness).unwrap())
        })
        .into();
    let at = |pod: &str| servers[pod].at(lab.v4(pod));
    let honest = converse_all(&lab, &PAIRS, CONNECTIONS, at);
    let lies = converse_all(&lab, &LIES, 2, at);
    println!("{} requests", (honest.len() + lies.len()) * REQUESTS);

    let all = until("every record", LONG, || {
        let all: Vec<Record> = ["n1", "n2"]
            .iter()
            .flat_map(|node| records(&lab, node))
            .collect();
        let count = all.iter().filter(|record| !record.failed).count();
        let want = 2 * (honest.len() + lies.len());
        anyhow::ensure!(count >= want, "{count} of {want}");
        Ok(all)
    })
    .unwrap();
    let wrong = wrong_records(&honest, &all);
    assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), wrong[0]);
    // Each record of these names an account that is not the pod's.
    assert_eq!(wrong_records(&lies, &all).len(), 2 * lies.len());
}

/// What the records get wrong of these flows: one line for each side of each.
fn wrong_records(flows: &[Flow], all: &[Record]) -> Vec<String> {
    // A port may have served twice.
    let mut alike: BTreeMap<(SocketAddr, &str, &str), usize> = BTreeMap::new();
    for flow in flows {
        *alike
            .entry((flow.address, flow.client, flow.server))
            .or_default() += 1;
    }
    let mut wrong = Vec::new();
    for inbound in [false, true] {
        let found = by_source(all, inbound);
        for ((address, client, server), count) in &alike {
            let identity = |pod: &str| Some(mesh::identity(pod).to_string());
            let right = |record: &&&Record| {
                record.source_identity == identity(client)
                    && record.destination_identity == identity(server)
                    && record.source_workload.as_deref() == Some(*client)
                    && record.destination_workload.as_deref() == Some(*server)
                    && !record.failed
            };
            let records = found.get(address).map_or(&[][..], Vec::as_slice);
            let good = records.iter().filter(right).count();
            for _ in good..*count {
                wrong.push(format!(
                    "{client} to {server} from {address}, inbound={inbound}: {records:?}"
                ));
            }
        }
    }
    wrong
}

fn converse_all(
    lab: &TestLab,
    pairs: &[(&'static str, &'static str)],
    connections: usize,
    at: impl Fn(&str) -> SocketAddr,
) -> Vec<Flow> {
    let threads: Vec<_> = pairs
        .iter()
        .map(|&(client, server)| {
            let (to, own) = (at(server), lab.v4(client));
            lab.netns(client)
                .spawn("talk", move || {
                    runtime()?.block_on(async {
                        let mut flows = Vec::new();
                        for _ in 0..connections {
                            let talk = converse(client, server, to);
                            let address = tokio::time::timeout(PATIENCE, talk).await??;
                            anyhow::ensure!(address.ip() == own, "from {address}");
                            flows.push(Flow {
                                client,
                                server,
                                address,
                            });
                        }
                        Ok(flows)
                    })
                })
                .unwrap()
        })
        .collect();
    let flows = threads.into_iter().map(|thread| thread.join().unwrap());
    flows.flat_map(|flows| flows.unwrap()).collect()
}

/// All requests of one connection; the address that it came from.
async fn converse(client: &str, server: &str, to: SocketAddr) -> anyhow::Result<SocketAddr> {
    let mut stream = BufReader::new(TcpStream::connect(to).await?);
    stream.get_ref().set_nodelay(true)?;
    let address = stream.get_ref().local_addr()?;
    let mut line = String::new();
    for first in (0..REQUESTS).step_by(BATCH) {
        let numbers = first..first + BATCH;
        let batch: Vec<String> = numbers
            .clone()
            .map(|number| format!("{client} {address} {number}\n"))
            .collect();
        stream.write_all(batch.concat().as_bytes()).await?;
        for number in numbers {
            line.clear();
            stream.read_line(&mut line).await?;
            // The server is who was called, sees who calls, and was asked what was sent.
            let want = format!("{server} {address} {client} {address} {number}\n");
            anyhow::ensure!(line == want, "{line:?} instead of {want:?}");
        }
    }
    Ok(address)
}
