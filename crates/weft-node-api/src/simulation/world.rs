//! The world of the simulation: three state machines, the wires between them, namespaces, and a model of each program.

mod refusals;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use weft_types::PodUid;

use crate::agent::{AgentEvent, AgentSide};
use crate::holder::{Holder, HolderAction, Refusal};
use crate::link::Outgoing;
use crate::message::{
    Family, Incoming, Listeners, Message, NackReason, PodFacts, PodSpec, Removal,
};
use crate::proxy::{ProxyEvent, ProxySide};
use refusals::Refusals;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token {
    Netns(u64),
    Listener { netns: u64, serial: u64 },
    Socket,
    Maps,
    Keys,
}

type Fd = Rc<Token>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Agent,
    Node,
    Proxy,
}

#[derive(Debug)]
struct Pod {
    netns: u64,
    revision: u64,
}

#[derive(Debug)]
struct Job {
    spec: PodSpec,
    generation: u64,
    netns: Fd,
    listeners: Option<Listeners<Fd>>,
}

/// One connection: packets on their way to the holder and back.
#[derive(Debug, Default)]
struct Wire {
    up: VecDeque<Incoming<Fd>>,
    down: VecDeque<Incoming<Fd>>,
    greeted: bool,
}

pub(super) struct World {
    pub(super) rng: StdRng,
    serial: u64,
    all_tokens: Vec<Weak<Token>>,
    /// What should be: the agent's truth.
    truth: BTreeMap<PodUid, Pod>,
    living_netns: BTreeSet<u64>,

    agent: AgentSide<Fd>,
    agent_base: u64,
    refused: BTreeSet<PodUid>,
    /// Pods that the agent does not remember; the controller will tell.
    forgotten: BTreeSet<PodUid>,
    /// Pinned state of the kernel: which listener a pod's traffic is steered to. It survives processes, and holds no socket.
    steered: BTreeMap<PodUid, Weak<Token>>,

    holder: Holder<Fd>,
    jobs: Vec<Job>,
    node_maps: bool,
    stock_asked: Vec<u64>,

    proxy: ProxySide<Fd>,
    proxy_pid: i32,
    served: BTreeMap<PodUid, Listeners<Fd>>,
    /// How often the proxy was told to let go of a pod.
    pub(super) removals: usize,
    maps_seen: bool,

    refusals: Refusals,

    agent_wire: Option<Wire>,
    proxy_wire: Option<Wire>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            serial: 0,
            all_tokens: Vec::new(),
            truth: BTreeMap::new(),
            living_netns: BTreeSet::new(),
            agent: AgentSide::new(1000),
            agent_base: 1000,
            refused: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            steered: BTreeMap::new(),
            holder: Holder::new(false),
            jobs: Vec::new(),
            node_maps: false,
            stock_asked: Vec::new(),
            proxy: ProxySide::new(),
            proxy_pid: 1,
            served: BTreeMap::new(),
            removals: 0,
            maps_seen: false,
            refusals: Refusals::default(),
            agent_wire: None,
            proxy_wire: None,
        };
        let maps = world.token(Token::Maps);
        world.agent.set_maps(maps);
        world
    }

    fn token(&mut self, token: Token) -> Fd {
        let fd = Rc::new(token);
        self.all_tokens.push(Rc::downgrade(&fd));
        fd
    }

    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    // --- the agent's world ---

    pub(super) fn add_pod(&mut self) {
        let netns = self.next();
        self.living_netns.insert(netns);
        let uid = PodUid::from(format!("pod-{netns}"));
        self.truth.insert(uid.clone(), Pod { netns, revision: 0 });
        self.put(&uid);
    }

    pub(super) fn change_pod(&mut self) {
        let Some(uid) = self.any_pod() else { return };
        self.truth
            .get_mut(&uid)
            .expect("it was chosen there")
            .revision += 1;
        self.put(&uid);
    }

    pub(super) fn remove_pod(&mut self) {
        let Some(uid) = self.any_pod() else { return };
        self.truth.remove(&uid);
        self.refused.remove(&uid);
        self.forgotten.remove(&uid);
        self.steered.remove(&uid);
        self.agent.remove(&uid);
    }

    pub(super) fn delete_netns(&mut self) {
        if let Some(netns) = self.living_netns.iter().copied().choose(&mut self.rng) {
            self.living_netns.remove(&netns);
        }
    }

    pub(super) fn recreate_netns(&mut self) {
        let dead = self
            .truth
            .iter()
            .filter(|(_, pod)| !self.living_netns.contains(&pod.netns))
            .map(|(uid, _)| uid.clone())
            .choose(&mut self.rng);
        let Some(uid) = dead else { return };
        let netns = self.next();
        self.living_netns.insert(netns);
        self.truth.get_mut(&uid).expect("it was chosen there").netns = netns;
        self.put(&uid);
    }

    pub(super) fn retry_refused(&mut self) {
        for uid in std::mem::take(&mut self.refused) {
            self.put(&uid);
        }
    }

    /// The controller has told everything: stale steering goes first, then the holder hears that the list is complete.
    pub(super) fn agent_knows_all(&mut self) {
        for uid in std::mem::take(&mut self.forgotten) {
            self.put(&uid);
        }
        let truth = &self.truth;
        self.steered.retain(|uid, _| truth.contains_key(uid));
        self.agent.set_complete();
    }

    fn put(&mut self, uid: &PodUid) {
        let pod = &self.truth[uid];
        if !self.living_netns.contains(&pod.netns) {
            // Its namespace does not open: nothing is steered there any more.
            self.steered.remove(uid);
            self.refused.insert(uid.clone());
            return;
        }
        let spec = PodSpec {
            uid: uid.clone(),
            id: uid.as_str()[4..].parse().expect("pods are named by number"),
            namespace: "default".into(),
            name: uid.as_str().into(),
            service_account: format!("sa-{}", pod.revision).into(),
            addresses: Vec::new(),
            netns: format!("/run/netns/{}", pod.netns).into(),
        };
        let netns = Token::Netns(pod.netns);
        let netns = self.token(netns);
        self.agent.put(spec, netns);
    }

    fn agent_events(&mut self) {
        while let Some(event) = self.agent.event() {
            match event {
                AgentEvent::PodReady { uid, listeners, .. } => {
                    assert!(self.truth.contains_key(&uid), "a removed pod came back");
                    self.steered.insert(uid, Rc::downgrade(&listeners.outbound));
                }
                AgentEvent::PodRefused { uid, .. } => {
                    self.refused.insert(uid);
                }
                AgentEvent::PodGone { uid } => {
                    self.steered.remove(&uid);
                    if self.truth.contains_key(&uid) {
                        self.refused.insert(uid);
                    }
                }
                AgentEvent::PodRemoved { uid } => {
                    assert!(!self.truth.contains_key(&uid), "a living pod was removed");
                }
                AgentEvent::Refusals { set } => self.refuse_in_kernel(set),
                AgentEvent::Connected => {}
                AgentEvent::Incompatible { detail } => panic!("{detail}"),
            }
        }
    }

    fn any_pod(&mut self) -> Option<PodUid> {
        self.truth.keys().cloned().choose(&mut self.rng)
    }

    // --- the holder's world ---

    pub(super) fn finish_job(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self
            .jobs
            .swap_remove(self.rng.random_range(0..self.jobs.len()));
        let Token::Netns(netns) = *job.netns else {
            panic!("a pod without a namespace");
        };
        let outcome = if self.living_netns.contains(&netns) {
            let fits = |l: &Listeners<Fd>| matches!(*l.outbound, Token::Listener { netns: of, .. } if of == netns);
            let listeners = match job.listeners.filter(fits) {
                Some(listeners) => listeners,
                None => self.make_listeners(netns),
            };
            let Token::Listener { serial, .. } = *listeners.outbound else {
                panic!("a listener that is none");
            };
            let facts = PodFacts {
                netns_cookie: netns,
                local_ports: (32768, 60999),
                addresses: Vec::new(),
                ipv6: true,
                listener_inode: serial,
            };
            Ok((facts, listeners))
        } else {
            Err(Refusal {
                reason: NackReason::WrongNetns,
                detail: "deleted".into(),
            })
        };
        let uid = job.spec.uid.clone();
        self.holder
            .prepared(&uid, job.generation, job.netns, outcome);
        self.act();
    }

    pub(super) fn notice_deletions(&mut self) {
        let gone: Vec<PodUid> = self
            .holder
            .held()
            .filter(|held| !self.living_netns.contains(&held.facts.netns_cookie))
            .map(|held| held.spec.uid.clone())
            .collect();
        for uid in gone {
            self.holder.netns_gone(&uid);
        }
        self.act();
    }

    pub(super) fn give_up_offers(&mut self) {
        self.holder.offers_over();
        self.act();
    }

    fn make_listeners(&mut self, netns: u64) -> Listeners<Fd> {
        let mut one = || {
            let serial = self.next();
            self.token(Token::Listener { netns, serial })
        };
        Listeners {
            outbound: one(),
            inbound: one(),
            hbone: one(),
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.holder.action() {
            match action {
                HolderAction::Prepare {
                    spec,
                    generation,
                    netns,
                    listeners,
                } => self.jobs.push(Job {
                    spec,
                    generation,
                    netns,
                    listeners,
                }),
                HolderAction::Stock { of, count, .. } => {
                    if self.node_maps {
                        let sockets = (0..count).map(|_| self.token(Token::Socket)).collect();
                        self.holder.stocked(of, sockets);
                    } else {
                        self.stock_asked.push(of);
                    }
                }
                HolderAction::Maps { .. } => {
                    self.node_maps = true;
                    for of in std::mem::take(&mut self.stock_asked) {
                        let socket = self.token(Token::Socket);
                        self.holder.stocked(of, vec![socket]);
                    }
                }
                HolderAction::Hold { .. }
                | HolderAction::Release { .. }
                | HolderAction::ProxyReady
                | HolderAction::AgentComplete => {}
            }
        }
    }

    // --- the proxy's world ---

    pub(super) fn want_sockets(&mut self) {
        if let Some(uid) = self.served.keys().cloned().choose(&mut self.rng) {
            let count = self.rng.random_range(1..100);
            self.proxy.want_sockets(&uid, Family::V4, count);
        }
    }

    pub(super) fn store_keys(&mut self) {
        let memfd = self.token(Token::Keys);
        self.proxy.store_keys(memfd);
    }

    fn proxy_events(&mut self) {
        while let Some(event) = self.proxy.event() {
            match event {
                ProxyEvent::PodAdded {
                    spec, listeners, ..
                } => {
                    self.served.insert(spec.uid, listeners);
                }
                ProxyEvent::PodRemoved { uid, reason } => {
                    self.removals += 1;
                    let served = self.served.remove(&uid);
                    assert!(served.is_some() || reason == Removal::Gone);
                }
                ProxyEvent::Maps { .. } => self.maps_seen = true,
                ProxyEvent::Sockets { sockets, .. } => assert!(!sockets.is_empty()),
                ProxyEvent::Keys { .. }
                | ProxyEvent::Synced
                | ProxyEvent::SocketsRefused { .. } => {}
                ProxyEvent::Incompatible { detail } => panic!("{detail}"),
            }
        }
    }

    // --- processes and wires ---

    pub(super) fn kill(&mut self, process: Process) {
        match process {
            Process::Agent => {
                self.break_agent();
                // Now and then the clock went back, and generations with it.
                self.agent_base = match self.rng.random_range(0..4) {
                    0 => 0,
                    _ => self.agent_base + 10_000,
                };
                self.agent = AgentSide::new(self.agent_base);
                let maps = self.token(Token::Maps);
                self.agent.set_maps(maps);
                self.refused.clear();
                self.forgotten.clear();
                // Its memory may be older than some pods.
                let pods: Vec<PodUid> = self.truth.keys().cloned().collect();
                for uid in pods {
                    if self.rng.random_range(0..4) > 0 {
                        self.put(&uid);
                    } else {
                        self.forgotten.insert(uid);
                    }
                }
                self.agent.set_last_known();
            }
            Process::Node => {
                self.break_agent();
                self.break_proxy();
                self.holder = Holder::new(true);
                self.jobs.clear();
                self.stock_asked.clear();
                self.node_maps = false;
            }
            Process::Proxy => {
                self.break_proxy();
                self.proxy = ProxySide::new();
                self.proxy_pid += 1;
                self.served.clear();
                self.maps_seen = false;
                self.forget_refusals();
                self.proxy.ready();
                self.holder.offers_over();
                self.act();
            }
        }
    }

    pub(super) fn break_agent(&mut self) {
        if self.agent_wire.take().is_some() {
            self.agent.disconnected();
            self.holder.agent_gone();
        }
    }

    pub(super) fn break_proxy(&mut self) {
        if self.proxy_wire.take().is_some() {
            self.proxy.disconnected();
            self.holder.proxy_disconnected();
            self.stock_asked.clear();
        }
    }

    pub(super) fn connect(&mut self) {
        if self.agent_wire.is_none() {
            self.agent.connected();
            self.agent_wire = Some(Wire::default());
        }
        if self.proxy_wire.is_none() {
            self.proxy.connected();
            self.proxy_wire = Some(Wire::default());
        }
    }

    /// Puts on the wires what is ready, and delivers one packet of one direction. False: nothing was on its way.
    pub(super) fn deliver(&mut self) -> bool {
        self.fill_wires();
        let first = self.rng.random_range(0..4);
        let moved = (0..4).any(|i| self.deliver_in((first + i) % 4));
        self.act();
        self.agent_events();
        self.proxy_events();
        moved
    }

    fn fill_wires(&mut self) {
        if let Some(wire) = &mut self.agent_wire {
            wire.up
                .extend(std::iter::from_fn(|| self.agent.pop()).map(arrive));
            if wire.greeted {
                wire.down
                    .extend(std::iter::from_fn(|| self.holder.pop_agent()).map(arrive));
            }
        }
        if let Some(wire) = &mut self.proxy_wire {
            wire.up
                .extend(std::iter::from_fn(|| self.proxy.pop()).map(arrive));
            if wire.greeted {
                wire.down
                    .extend(std::iter::from_fn(|| self.holder.pop_proxy()).map(arrive));
            }
        }
    }

    fn deliver_in(&mut self, direction: u32) -> bool {
        let to_agent_side = direction < 2;
        let wire = if to_agent_side {
            &mut self.agent_wire
        } else {
            &mut self.proxy_wire
        };
        let Some(wire) = wire else { return false };
        let upward = direction.is_multiple_of(2);
        let queue = if upward { &mut wire.up } else { &mut wire.down };
        let Some(mut packet) = queue.pop_front() else {
            return false;
        };
        let reader = match (to_agent_side, upward) {
            (_, true) => Process::Node,
            (true, false) => Process::Agent,
            (false, false) => Process::Proxy,
        };
        packet.message = self.as_read_by(reader, packet.message);
        match (to_agent_side, upward, &packet.message) {
            (true, true, Message::Hello(hello)) => {
                greeted(&mut self.agent_wire);
                assert!(self.holder.agent_connected(packet.id, hello));
            }
            (false, true, Message::Hello(hello)) => {
                greeted(&mut self.proxy_wire);
                assert!(
                    self.holder
                        .proxy_connected(packet.id, hello, self.proxy_pid)
                );
            }
            (true, true, _) => self.holder.agent_sent(packet),
            (false, true, _) => self.holder.proxy_sent(packet),
            (true, false, _) => self.agent.received(packet),
            (false, false, _) => self.proxy.received(packet),
        }
        true
    }

    // --- the end of chaos, and what must hold ---

    /// Ends the chaos: everyone is connected, everything is delivered and retried, until nothing moves.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            self.connect();
            self.agent_knows_all();
            self.retry_refused();
            self.notice_deletions();
            self.deliver_all();
        }
    }

    /// Delivers everything, while the controller stays silent.
    pub(super) fn deliver_all(&mut self) {
        self.connect();
        while self.deliver() || !self.jobs.is_empty() {
            self.finish_job();
        }
    }

    /// Serials of the outbound listeners that the proxy serves, by pod.
    pub(super) fn served_listeners(&self) -> BTreeMap<PodUid, u64> {
        self.served
            .iter()
            .map(|(uid, listeners)| match *listeners.outbound {
                Token::Listener { serial, .. } => (uid.clone(), serial),
                _ => panic!("a listener that is none"),
            })
            .collect()
    }

    pub(super) fn check_always(&self) {
        let ids: Vec<u32> = self.holder.held().map(|held| held.spec.id).collect();
        let unique: BTreeSet<u32> = ids.iter().copied().collect();
        assert_eq!(ids.len(), unique.len(), "two pods with one number");
        self.check_refusals_always();
    }

    pub(super) fn check_settled(&self) {
        let living: BTreeSet<&PodUid> = self
            .truth
            .iter()
            .filter(|(_, pod)| self.living_netns.contains(&pod.netns))
            .map(|(uid, _)| uid)
            .collect();
        let held: BTreeSet<&PodUid> = self.holder.held().map(|held| &held.spec.uid).collect();
        assert_eq!(held, living, "the holder disagrees with the truth");
        assert_eq!(self.holder.known(), living.len(), "a pod hangs half-way");
        assert_eq!(
            self.served.keys().collect::<BTreeSet<_>>(),
            living,
            "the proxy disagrees"
        );
        let generations: BTreeMap<&PodUid, u64> = self
            .holder
            .held()
            .map(|held| (&held.spec.uid, held.generation))
            .collect();
        assert_eq!(self.proxy.pods().collect::<BTreeMap<_, _>>(), generations);
        assert_eq!(self.agent.wishes().collect::<BTreeMap<_, _>>(), generations);
        for held in self.holder.held() {
            let uid = &held.spec.uid;
            let revision = self.truth[uid].revision;
            assert_eq!(
                *held.spec.service_account,
                *format!("sa-{revision}"),
                "an old spec"
            );
            let listener = &held.listeners.outbound;
            assert!(
                Rc::ptr_eq(listener, &self.served[uid].outbound),
                "other listeners served"
            );
            let steered = self.steered[uid].upgrade().expect("traffic goes nowhere");
            assert!(
                Rc::ptr_eq(listener, &steered),
                "traffic goes to other listeners"
            );
        }
        assert!(self.steered.keys().all(|uid| living.contains(uid)));
        assert_eq!(self.agent.oldest_unanswered(), None);
        assert_eq!(self.proxy.oldest_unanswered(), None);
        assert_eq!(self.holder.agent_oldest_unanswered(), None);
        assert_eq!(self.holder.proxy_oldest_unanswered(), None);
        assert!(self.maps_seen && self.proxy.is_synced());
        self.check_refusals_settled();
        self.check_leaks(living.len());
    }

    fn check_leaks(&self, pods: usize) {
        let alive: Vec<Rc<Token>> = self.all_tokens.iter().filter_map(Weak::upgrade).collect();
        let count = |is: fn(&Token) -> bool| alive.iter().filter(|token| is(token)).count();
        assert_eq!(
            count(|t| matches!(t, Token::Listener { .. })),
            3 * pods,
            "listeners leak"
        );
        assert_eq!(count(|t| matches!(t, Token::Socket)), 0, "sockets leak");
        // One in the agent's wish, and possibly another one in the holder from the agent before.
        assert!(
            count(|t| matches!(t, Token::Netns(_))) <= 2 * pods,
            "namespaces leak"
        );
        assert!(count(|t| matches!(t, Token::Maps)) <= 1, "maps leak");
        assert!(count(|t| matches!(t, Token::Keys)) <= 2, "keys leak");
    }
}

fn greeted(wire: &mut Option<Wire>) {
    if let Some(wire) = wire {
        wire.greeted = true;
    }
}

fn arrive(packet: Outgoing<Fd>) -> Incoming<Fd> {
    Incoming {
        id: packet.id,
        message: packet.message,
        descriptors: packet.descriptors,
    }
}
