//! Programs killed at random moments, alone and in pairs, on both sides, with the controller there and away.
//!
//! Method: two open-loop streams of new connections, one in each direction and family, and in each direction a handful of
//! long connections. A blow kills programs at a random phase of the schedule. New connections must all succeed, but for those
//! that a dying proxy held at that very moment; long ones end with their proxy, at once and visibly, and with nothing else.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use weft_testkit::lab::program::{Running, kill_all};
use weft_testkit::load::{self, Churn, Churning, Death, Held};
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, Server};
use weft_testkit::wait::{LONG, until};
use weft_testkit::{admin, leak};
use weft_tests::lab::{Builder, TestLab};

use super::{files, is_long, ping_all, program, records, until_none_is_left, until_replaced};

/// New connections a second in each direction.
const RATE: u32 = 100;
/// Good connections of each stream between two blows.
const BETWEEN: u64 = 40;
/// Long connections in each direction.
const LONG_CONNECTIONS: usize = 10;
/// Rounds over all blows, the second half of them without controller.
const ROUNDS: usize = 2;
const ROUNDS_LONG: usize = 50;
/// No connection may hang: ten times the second within which one should have its first byte, whatever dies.
const HANG: Duration = Duration::from_secs(10);

/// Keys are in the proxy and, sealed, in the holder: who loses both needs the controller for new ones. Without it only the holder
/// of that pair is killed.
const HOLDER_AND_PROXY: &[(&str, &str)] = &[("n2", "weft-node"), ("n2", "weft-proxy")];

/// What is killed at once: programs by node. One of the three always lives on: nobody else has the listeners.
const BLOWS: [&[(&str, &str)]; 10] = [
    &[("n1", "weft-proxy")],
    &[("n2", "weft-proxy")],
    &[("n1", "weft-agent")],
    &[("n2", "weft-agent")],
    &[("n1", "weft-node")],
    HOLDER_AND_PROXY,
    &[("n1", "weft-node"), ("n1", "weft-agent")],
    &[("n1", "weft-agent"), ("n1", "weft-proxy")],
    &[("n1", "weft-proxy"), ("n2", "weft-proxy")],
    &[("n2", "weft-agent"), ("n2", "weft-proxy")],
];

/// The nodes of client and server of each stream.
const WAYS: [[&str; 2]; 2] = [["n1", "n2"], ["n2", "n1"]];

/// A program, what became of it, and the node that it was on.
struct Killed {
    node: &'static str,
    name: &'static str,
    death: Death,
}

/// The lab under load.
struct Arena {
    lab: TestLab,
    servers: [Server; 2],
    streams: [Churning; 2],
    long: Vec<TcpStream>,
    random: StdRng,
    killed: Vec<Killed>,
}

impl Arena {
    fn new(seed: u64) -> Self {
        let lab = Builder::two_nodes()
            .pod("a", "n1")
            .pod("b", "n2")
            .up()
            .unwrap();
        let servers = ["b", "a"].map(|pod| lab.serve(pod, Behaviour::Echo).unwrap().0);
        let targets = targets(&lab, &servers);
        let streams = [0, 1].map(|way| {
            let churn = Churn::new(&lab.netns(["a", "b"][way]), targets[way]);
            churn.per_second(RATE).start().unwrap()
        });
        let mut this = Self {
            lab,
            servers,
            streams,
            long: Vec::new(),
            random: StdRng::seed_from_u64(seed),
            killed: Vec::new(),
        };
        this.wait();
        this
    }

    /// Good connections in both directions.
    fn wait(&mut self) {
        for stream in &self.streams {
            stream.wait_for(BETWEEN).unwrap();
        }
    }

    fn strike(&mut self, blow: &[(&'static str, &'static str)]) {
        let targets = targets(&self.lab, &self.servers);
        for (pod, to) in ["a", "b"].into_iter().zip(targets) {
            let netns = self.lab.netns(pod);
            let missing = LONG_CONNECTIONS * 2 - self.long.len();
            let count = missing.min(LONG_CONNECTIONS);
            self.long
                .extend(load::connect_many(&netns, to, count).unwrap());
        }
        ping_all(&mut self.long);
        let old: Vec<Running> = blow
            .iter()
            .map(|(node, name)| program(&self.lab, node, name))
            .collect();
        self.pause();
        let mut killed = kill_each(blow, &old);
        if killed.iter().any(|killed| killed.name == "weft-proxy") {
            for stream in self.long.drain(..) {
                ends(stream);
            }
        }
        for ((node, name), old) in blow.iter().zip(old) {
            if *name == "weft-node" {
                self.lab.lab_mut().restart_node(node).unwrap();
            } else {
                until_replaced(&self.lab, node, name, old);
            }
        }
        for node in ["n1", "n2"] {
            let socket = self.lab.lab().place().admin(node, "node");
            until("agent and proxy are back", LONG, || {
                admin::get(&socket, "/healthz/ready")
            })
            .unwrap();
        }
        let ready = Instant::now();
        for killed in &mut killed {
            killed.death.ready = ready;
        }
        self.killed.append(&mut killed);
        // Whatever this death did to them shows now: the next one must not end, and so excuse, a connection that hangs.
        for stream in &self.streams {
            stream.settle().unwrap();
        }
        self.wait();
        ping_all(&mut self.long);
    }

    /// A random part of the time between two connections, so that a blow may fall into any phase of one.
    fn pause(&mut self) {
        let interval = Duration::from_secs(1) / RATE;
        let pause = self.random.random_range(Duration::ZERO..interval);
        let start = Instant::now();
        while start.elapsed() < pause {
            std::thread::yield_now();
        }
    }

    /// From here on nodes know only what they have on disk: waits until both pods are there, then kills the controller.
    fn lose_the_controller(&self) {
        for node in ["n1", "n2"] {
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
        let controller = self.lab.lab().record().controller.unwrap();
        kill_all(&[controller]).unwrap();
    }

    /// The verdicts.
    fn end(self, recorder: leak::Recorder) {
        drop(self.long);
        for (way, stream) in WAYS.into_iter().zip(self.streams) {
            let deaths: Vec<Death> = self.killed.iter().map(|k| k.seen_from(way)).collect();
            let mut report = stream.stop().unwrap();
            report.excuse(&deaths);
            println!("{report}");
            for (word, list) in [("excused", &report.explained), ("failed", &report.failures)] {
                for failure in list {
                    println!("{word}: {}", failure.position(&deaths));
                    for record in records(&self.lab, failure) {
                        println!("  {record}");
                    }
                }
            }
            report.verdict().unwrap();
            assert!(report.first_byte.max < HANG, "{report}");
        }
        for (pod, server) in ["b", "a"].into_iter().zip(&self.servers) {
            until_none_is_left(&self.lab.netns(pod), server.port());
        }
        let recorded = recorder.stop().unwrap();
        println!("{} packets between the pods", recorded.packets);
        recorded.verdict().unwrap();
    }
}

impl Killed {
    /// What the death was to connections between two nodes.
    fn seen_from(&self, [client, server]: [&str; 2]) -> Death {
        let held = match self.name {
            "weft-proxy" if self.node == client => Held::Near,
            "weft-proxy" if self.node == server => Held::Far,
            _ => Held::None,
        };
        Death {
            held,
            ..self.death.clone()
        }
    }
}

#[test]
fn deaths_at_random_moments_are_noticed_by_nobody() {
    if !weft_tests::is_root() {
        return;
    }
    let seed = std::env::var("WEFT_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    println!("WEFT_TEST_SEED={seed} repeats this order");
    let rounds = if is_long() { ROUNDS_LONG } else { ROUNDS };
    let mut arena = Arena::new(seed);
    let recorder = arena.lab.record().unwrap();
    for round in 0..rounds {
        if round == rounds / 2 {
            arena.lose_the_controller();
        }
        let mut blows = BLOWS;
        blows.shuffle(&mut arena.random);
        for mut blow in blows {
            if blow == HOLDER_AND_PROXY && round >= rounds / 2 {
                blow = &HOLDER_AND_PROXY[..1];
            }
            let started = Instant::now();
            arena.strike(blow);
            println!("{blow:?}: over after {:?}", started.elapsed());
        }
    }
    println!("{} blows, seed {seed}", rounds * BLOWS.len());
    arena.end(recorder);
}

/// Kills programs at once and watches each of them end.
fn kill_each(blow: &[(&'static str, &'static str)], processes: &[Running]) -> Vec<Killed> {
    let send = |process: &Running| {
        let signal = Instant::now();
        assert!(process.signal(Signal::KILL), "{process:?} has ended");
        signal
    };
    let signals: Vec<Instant> = processes.iter().map(send).collect();
    let watch = |process: &Running| {
        assert!(process.wait(LONG), "{process:?} does not end");
        Instant::now()
    };
    let ends: Vec<Instant> = std::thread::scope(|scope| {
        let watches: Vec<_> = processes
            .iter()
            .map(|process| scope.spawn(move || watch(process)))
            .collect();
        watches.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let spans = signals.into_iter().zip(ends);
    let killed = |(&(node, name), (signal, gone)): (&(&'static str, &'static str), _)| Killed {
        node,
        name,
        death: Death {
            who: format!("{name} of {node}"),
            held: Held::None,
            signal,
            gone,
            ready: gone,
        },
    };
    blow.iter().zip(spans).map(killed).collect()
}

/// From a to b over IPv4, from b to a over IPv6 where there is one.
fn targets(lab: &TestLab, servers: &[Server; 2]) -> [SocketAddr; 2] {
    let back = if has_ipv6() { lab.v6("a") } else { lab.v4("a") };
    [servers[0].at(lab.v4("b")), servers[1].at(back)]
}

/// A connection whose proxy died, near or far, ends by itself, soon, and never as if the other application had ended it.
fn ends(mut stream: TcpStream) {
    stream.set_read_timeout(Some(HANG)).unwrap();
    match stream.read(&mut [0; 1]) {
        Ok(0) => panic!("a connection that was cut ended cleanly"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("a connection outlives its proxy or hangs: {other:?}"),
    }
}
