//! An address that changes hands: one pod goes and another, of another service account, has its address ten milliseconds later.
//!
//! Ten clients on two nodes never stop calling. The pods take turns on one address with one link address, as a bridge plugin gives
//! them; the old pod's server lives on in its deleted namespace, so that a delivery into it would be answered. Every answer tells
//! which pod gave it; the access records of that connection must name this pod's service account, and no client that
//! has heard the new pod may hear the old one again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpSocket;
use weft_testkit::admin;
use weft_testkit::lab::place::write_atomically;
use weft_testkit::netns::{Netns, runtime};
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_tests::lab::{Builder, TestLab};

use crate::mesh;
use crate::record::{Record, by_source, records};

/// Owners of the address, one after the other; `WEFT_TEST_LONG=1` takes the long run.
const ROUNDS: usize = 20;
const ROUNDS_LONG: usize = 500;
/// Clients in each of two pods.
const CLIENTS: usize = 5;
/// From one call of a client to its next.
const PACE: Duration = Duration::from_millis(4);
/// Bound of one call: an address between two owners answers nothing.
const CALL_LIMIT: Duration = Duration::from_secs(2);
/// After this long nobody may be sent to a pod that has gone. It takes a few milliseconds.
const STALE_MAX: Duration = Duration::from_secs(1);

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 200, 1));
const LINK_ADDRESS: &str = "02:77:00:00:c8:01";
const PORT: u16 = 7000;
/// Ports that the kernel gives to clients; outside of them a bound one could be one that stands for a destination.
const EPHEMERAL: std::ops::Range<u16> = 32_768..60_999;
/// Service accounts in turn.
const ACCOUNTS: [&str; 2] = ["blue", "green"];

/// A call that was answered.
#[derive(Clone, Debug)]
struct Answer {
    began: Instant,
    ended: Instant,
    client: SocketAddr,
    /// Number of the pod that answered.
    owner: usize,
}

/// Calls of one pod.
struct Calls {
    address: IpAddr,
    begun: AtomicUsize,
    heard: Mutex<Vec<Answer>>,
}

struct Clients {
    calls: Arc<Calls>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

/// A pod with the address.
struct Owner {
    netns: Netns,
    port: String,
    _server: Server,
}

/// The address and who has had it.
struct Turns<'l> {
    lab: &'l TestLab,
    owners: Vec<Option<Owner>>,
    /// When each got the address.
    began: Vec<Instant>,
    slowest: Duration,
}

#[test]
fn an_address_that_changes_hands_takes_no_identity_along() {
    if !weft_tests::is_root() {
        return;
    }
    let rounds = if std::env::var_os("WEFT_TEST_LONG").is_some() {
        ROUNDS_LONG
    } else {
        ROUNDS
    };
    let lab = Builder::two_nodes()
        .pod("far", "n1")
        .pod("near", "n2")
        .up()
        .unwrap();
    let mut turns = Turns::new(&lab);
    turns.next(account);
    turns.until_known();
    let clients = ["far", "near"].map(|pod| Clients::start(&lab.netns(pod), lab.v4(pod)));
    turns.until_heard(&clients);
    for _ in 1..rounds {
        turns.next(account);
        turns.until_heard(&clients);
    }
    // The control: in the last round the mesh is told that the address has not changed hands.
    let lie = rounds;
    turns.next(|number| account(number + 1));
    turns.until_heard(&clients);

    let began = turns.began.clone();
    let answers: Vec<Vec<Answer>> = clients.map(Clients::stop).into();
    for answers in &answers {
        assert_nobody_hears_the_dead(answers, &began);
    }
    let all: Vec<Answer> = answers.concat();
    let (truths, lies): (Vec<_>, Vec<_>) = all.iter().partition(|answer| answer.owner != lie);
    println!(
        "{rounds} owners, {} answers, slowest change of hands {:?}",
        truths.len(),
        turns.slowest
    );
    assert!(truths.len() > rounds * CLIENTS, "{}", truths.len());
    let wrong = wrong_identities(&lab, &truths);
    assert!(wrong.is_empty(), "{} wrong: {}", wrong.len(), wrong[0]);
    assert!(lies.len() >= 2 * CLIENTS);
    // In a long run ports return, and an earlier owner may have been called from the same one.
    let wrong = wrong_identities(&lab, &lies).len();
    assert!(
        wrong == lies.len() || rounds == ROUNDS_LONG && wrong > 0,
        "{wrong} of {}",
        lies.len()
    );
}

fn account(number: usize) -> &'static str {
    ACCOUNTS[number % ACCOUNTS.len()]
}

/// Answers by who answered, held against what both records of the connection say.
fn wrong_identities(lab: &TestLab, answers: &[&Answer]) -> Vec<String> {
    // Ports return after tens of thousands of connections: an address may have called more than one owner.
    let mut owners: HashMap<SocketAddr, Vec<usize>> = HashMap::new();
    for answer in answers {
        owners.entry(answer.client).or_default().push(answer.owner);
    }
    let mut wrong = until("every record", LONG, || {
        let mut all = records(lab, "n1");
        all.extend(records(lab, "n2"));
        let mut wrong = Vec::new();
        for inbound in [false, true] {
            let found = by_source(&all, inbound);
            for (client, owners) in &owners {
                // One that was cut after its answer counts as well.
                let good: Vec<_> = found.get(client).into_iter().flatten().collect();
                anyhow::ensure!(good.len() >= owners.len(), "{client}: {good:?}");
                // Which workload was meant is another matter: a connect that waited may be answered by the next owner but one.
                let named = |owner: usize| {
                    let identity = mesh::identity(account(owner)).to_string();
                    let is =
                        |record: &&&Record| record.destination_identity.as_ref() == Some(&identity);
                    good.iter().any(is)
                };
                if let Some(owner) = owners.iter().find(|owner| !named(**owner)) {
                    wrong.push((
                        *client,
                        format!("owner-{owner} answered {client}: {good:?}"),
                    ));
                }
            }
        }
        Ok(wrong)
    })
    .unwrap();
    wrong.sort();
    wrong.dedup_by_key(|(client, _)| *client);
    wrong.into_iter().map(|(_, text)| text).collect()
}

/// No call that begins after an answer of one owner ends with an answer of an earlier one, nor long after that one has gone.
fn assert_nobody_hears_the_dead(answers: &[Answer], began: &[Instant]) {
    let mut by_begin: Vec<&Answer> = answers.iter().collect();
    by_begin.sort_by_key(|answer| answer.began);
    let mut by_end = by_begin.clone();
    by_end.sort_by_key(|answer| answer.ended);
    let mut ended = by_end.into_iter().peekable();
    let mut newest = None;
    for answer in by_begin {
        while let Some(before) = ended.next_if(|before| before.ended < answer.began) {
            newest = newest.max(Some(before.owner));
        }
        assert!(newest <= Some(answer.owner), "{newest:?} before {answer:?}");
        if let Some(gone) = began.get(answer.owner + 1) {
            let stale = answer.began.saturating_duration_since(*gone);
            assert!(stale < STALE_MAX, "{answer:?} was sent {stale:?} too late");
        }
    }
}

// === impl Turns ===

impl<'l> Turns<'l> {
    fn new(lab: &'l TestLab) -> Self {
        let mut this = Self {
            lab,
            owners: Vec::new(),
            began: Vec::new(),
            slowest: Duration::ZERO,
        };
        let first = this.make();
        this.owners.push(Some(first));
        this
    }

    /// A pod that is ready but for its cable.
    fn make(&self) -> Owner {
        let number = self.owners.len();
        // With the prefix of the lab's own namespaces, `down` finds it.
        let fabric = self.lab.lab().topology().fabric();
        let prefix = fabric.name().strip_suffix("fabric").unwrap();
        let netns = Netns::create(format!("{prefix}owner-{number}")).unwrap();
        let port = format!("owner{number}");
        self.node(&format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0\n",
            netns.name()
        ));
        netns
            .ip_batch(&format!(
                "link set eth0 address {LINK_ADDRESS}\nlink set eth0 up\n\
                 address add {ADDRESS}/16 dev eth0\nroute add default dev eth0\n"
            ))
            .unwrap();
        let listen = SocketAddr::new([0, 0, 0, 0].into(), PORT);
        let witness = Behaviour::Witness(number.to_string());
        Owner {
            _server: Server::start(&netns, listen, witness).unwrap(),
            netns,
            port,
        }
    }

    /// The next pod gets the address; configuration gives it the service account that it is told.
    fn next(&mut self, account: impl Fn(usize) -> &'static str) {
        let number = self.began.len();
        let old = number.checked_sub(1);
        let old = old.map(|old| self.owners[old].as_ref().unwrap());
        let new = self.owners[number].as_ref().unwrap();
        let yaml = pod(number, account(number), &new.netns);
        let cut = old.map_or_else(String::new, |old| format!("link del {}\n", old.port));
        let started = Instant::now();
        self.node(&format!("{cut}link set {} up\n", new.port));
        if let Some(old) = old {
            old.netns.delete().unwrap();
        }
        let path = self.lab.lab().place().source().join("owner.yaml");
        write_atomically(&path, yaml.as_bytes(), 0o644).unwrap();
        if old.is_some() {
            self.slowest = self.slowest.max(started.elapsed());
        }
        self.began.push(started);
        // A pod that went two turns ago is not missed by anybody any more.
        if let Some(last) = number.checked_sub(2) {
            self.owners[last] = None;
        }
        let following = self.make();
        self.owners.push(Some(following));
    }

    /// Waits until both proxies know of the address: one that nobody knows of is dialled in plaintext.
    fn until_known(&self) {
        for node in ["n1", "n2"] {
            let socket = self.lab.lab().place().admin(node, "proxy");
            until("the first owner to be known", LONG, || {
                let dump = admin::get(&socket, "/config_dump")?;
                anyhow::ensure!(dump.contains("owner-0"), "it is not");
                Ok(())
            })
            .unwrap();
        }
    }

    /// Waits until clients of both nodes have heard the present owner.
    fn until_heard(&self, clients: &[Clients]) {
        let owner = self.began.len() - 1;
        until(&format!("owner {owner} to be heard"), LONG, || {
            for clients in clients {
                let heard = clients.calls.heard.lock().unwrap();
                let last = heard.iter().rev().take(2 * CLIENTS);
                let count = last.filter(|answer| answer.owner == owner).count();
                anyhow::ensure!(count >= CLIENTS, "{count} times, last {:?}", heard.last());
            }
            Ok(())
        })
        .unwrap();
    }

    fn node(&self, lines: &str) {
        let node = self.lab.lab().topology().node("n2");
        node.ip_batch(lines).unwrap();
    }
}

fn pod(number: usize, account: &str, netns: &Netns) -> String {
    let uid = format!("00000000-0000-4000-8000-{number:012}");
    let netns = netns.path().display().to_string();
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: owner-{number}
  namespace: default
  uid: {uid}
  labels: {{weft.dev/dataplane-mode: ambient}}
  annotations: {{weft.dev/netns: {netns}}}
spec: {{nodeName: n2, serviceAccountName: {account}, containers: [{{name: app, image: none}}]}}
status:
  phase: Running
  podIP: {ADDRESS}
  podIPs: [{{ip: {ADDRESS}}}]
  conditions: [{{type: Ready, status: 'True'}}]
"
    )
}

// === impl Clients ===

impl Clients {
    fn start(netns: &Netns, address: IpAddr) -> Self {
        let calls = Arc::new(Calls {
            address,
            begun: AtomicUsize::new(0),
            heard: Mutex::default(),
        });
        let stop = Arc::<AtomicBool>::default();
        let (noted, stopped) = (Arc::clone(&calls), Arc::clone(&stop));
        let thread = netns.spawn("callers", move || {
            runtime()?.block_on(async {
                let mut callers = tokio::task::JoinSet::new();
                for _ in 0..CLIENTS {
                    callers.spawn(call_on(Arc::clone(&noted), Arc::clone(&stopped)));
                }
                while let Some(ended) = callers.join_next().await {
                    ended?;
                }
                Ok(())
            })
        });
        Self {
            calls,
            stop,
            thread: thread.unwrap(),
        }
    }

    fn stop(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
        self.calls.heard.lock().unwrap().clone()
    }
}

async fn call_on(calls: Arc<Calls>, stop: Arc<AtomicBool>) {
    let mut schedule = tokio::time::interval(PACE);
    schedule.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        schedule.tick().await;
        // Each call has a port of its own, so that its records are found.
        let number = calls.begun.fetch_add(1, Ordering::Relaxed);
        let port = EPHEMERAL.start + (number % EPHEMERAL.len()) as u16;
        let client = SocketAddr::new(calls.address, port);
        let began = Instant::now();
        // No answer is an answer while the address changes hands; a wrong one never is.
        let called = tokio::time::timeout(CALL_LIMIT, call(client)).await;
        if let Ok(Ok(owner)) = called {
            let ended = Instant::now();
            calls.heard.lock().unwrap().push(Answer {
                began,
                ended,
                client,
                owner,
            });
        }
    }
}

async fn call(client: SocketAddr) -> anyhow::Result<usize> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(client)?;
    let mut stream = BufReader::new(socket.connect((ADDRESS, PORT).into()).await?);
    stream.write_all(b"who\n").await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.split(' ').next().unwrap_or_default().parse()?)
}
