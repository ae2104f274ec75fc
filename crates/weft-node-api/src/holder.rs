//! The holder's side: whose word decides about a pod, and who must hear of it. Pure.
//!
//! A pod as the holder sees it:
//!
//! ```text
//!              Offer (proxy, after a node restart)
//! (unknown) ------------------------------------------> offered
//!     | PutPod                                             | PutPod
//!     v                                                    v
//! preparing --prepared: Ok--> ready --PutPod, higher generation--> ready + preparing
//!     | Err: Nack               | RemovePod, or missing from the agent's snapshot: RemovePod(unenrolled) to the proxy
//!     v                         | netns_gone(): RemovePod(gone) to the proxy, PodGone to the agent
//! (unknown) <-------------------'
//! ```
//!
//! The agent's word decides which pods exist; the proxy's offer only bridges the time until the agent has spoken.
//! In: packets of agent and proxy, outcomes of work in namespaces. Out: packets and actions.
//! Deliberately not here: sockets, processes, time.

mod early;
mod peers;
mod pods;
mod takeover;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use weft_types::PodUid;

use crate::link::{Link, Outgoing};
use crate::message::{Family, Incoming, Listeners, NackReason, PodFacts, PodSpec, Removal};
use crate::refusals::{Hearer, RefusedSet, Teller};

/// What the holder's owner has to do. The outcomes come back by the methods named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HolderAction<F> {
    /// Check the namespace, read the facts, make the listeners unless given ones fit: [`Holder::prepared`].
    Prepare {
        /// The pod.
        spec: PodSpec,
        /// Its revision.
        generation: u64,
        /// Its network namespace.
        netns: F,
        /// Listeners that exist already.
        listeners: Option<Listeners<F>>,
    },
    /// Keep stock for the pod and watch its namespace.
    Hold {
        /// The pod.
        spec: PodSpec,
        /// What was read inside.
        facts: PodFacts,
        /// Its network namespace.
        netns: F,
    },
    /// Drop stock and watch, restore the namespace's settings.
    Release {
        /// Which pod.
        uid: PodUid,
    },
    /// Give sockets: [`Holder::stocked`] or [`Holder::not_stocked`].
    Stock {
        /// The proxy's request.
        of: u64,
        /// In which pod.
        uid: PodUid,
        /// Of which family.
        family: Family,
        /// How many at most.
        count: usize,
    },
    /// New sockets must be flagged in this map.
    Maps {
        /// Map of socket storage.
        sockets: F,
    },
    /// The proxy serves every pod.
    ProxyReady,
    /// The agent has named every pod.
    AgentComplete,
}

/// Why a pod could not be prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: NackReason,
    /// For people.
    pub detail: String,
}

/// A pod that is held and ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<F> {
    /// The agent's revision.
    pub generation: u64,
    /// The pod.
    pub spec: PodSpec,
    /// What was read inside.
    pub facts: PodFacts,
    /// Its network namespace.
    pub netns: F,
    /// Its listeners.
    pub listeners: Listeners<F>,
}

/// Pods remembered after they were let go of. Forgetting one too early only delays its end to the agent's next snapshot.
const LET_GO_MAX: usize = 4096;

/// The state machine. `F` is a descriptor that can be shared.
#[derive(Debug)]
pub struct Holder<F> {
    pods: BTreeMap<PodUid, Pod<F>>,
    agent: Option<AgentLink<F>>,
    proxy: Option<ProxyLink<F>>,
    maps: Option<F>,
    keys: Option<Keys<F>>,
    /// A living proxy has not yet named its listeners: pods whose listeners nobody else has must wait for it.
    awaiting_offers: bool,
    deferred: Vec<Incoming<F>>,
    /// Pods that this holder let go of, with generation and reason: a proxy that has not heard of it may still offer them.
    let_go: BTreeMap<PodUid, (u64, Removal)>,
    /// What the proxy wants refused early, and what the agent was told of it.
    refusals: Hearer,
    refusals_told: Teller,
    actions: VecDeque<HolderAction<F>>,
}

#[derive(Debug)]
enum Pod<F> {
    /// Only a proxy vouches for it.
    Offered(Offered<F>),
    /// The agent asked, nothing is made yet. `old` is what an offer brought.
    Preparing {
        pending: Pending,
        spec: PodSpec,
        old: Option<Offered<F>>,
    },
    /// It is held; `pending` is a newer revision in work.
    Ready {
        held: Held<F>,
        pending: Option<(Pending, PodSpec)>,
    },
}

#[derive(Clone, Debug)]
struct Offered<F> {
    generation: u64,
    spec: PodSpec,
    listeners: Listeners<F>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    generation: u64,
    /// The request that waits, unless its connection is gone.
    of: Option<u64>,
}

#[derive(Debug)]
struct AgentLink<F> {
    link: Link<F, AgentNote>,
    /// Pods put on this connection.
    named: BTreeSet<PodUid>,
    /// It has named what it remembers.
    last_known: bool,
    /// Its snapshot was complete.
    complete: bool,
}

/// What a request to the agent was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentNote {
    PodGone,
    /// A part of a change of refusals; `true` is its last.
    Refusals(bool),
}

#[derive(Debug)]
struct ProxyLink<F> {
    link: Link<F, ()>,
    pid: i32,
    /// Its offers are complete, and it was told everything.
    synced: bool,
    ready: bool,
    /// Requests for sockets in pods that are not ready yet.
    waiting: Vec<(u64, PodUid, Family, usize)>,
}

#[derive(Debug)]
struct Keys<F> {
    memfd: F,
    /// The process that left them, and needs them no more.
    of: i32,
}

impl<F: Clone> Holder<F> {
    /// A holder of nothing. With `proxy_lives`, a proxy of an earlier holder still runs and will offer its listeners.
    pub fn new(proxy_lives: bool) -> Self {
        Self {
            pods: BTreeMap::new(),
            agent: None,
            proxy: None,
            maps: None,
            keys: None,
            awaiting_offers: proxy_lives,
            deferred: Vec::new(),
            let_go: BTreeMap::new(),
            refusals: Hearer::default(),
            refusals_told: Teller::default(),
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn action(&mut self) -> Option<HolderAction<F>> {
        self.actions.pop_front()
    }

    /// The next packet for the agent.
    pub fn pop_agent(&mut self) -> Option<Outgoing<F>> {
        self.agent.as_mut()?.link.pop()
    }

    /// The next packet for the proxy.
    pub fn pop_proxy(&mut self) -> Option<Outgoing<F>> {
        self.proxy.as_mut()?.link.pop()
    }

    /// The oldest request that the agent has not answered.
    pub fn agent_oldest_unanswered(&self) -> Option<u64> {
        self.agent.as_ref()?.link.oldest_unanswered()
    }

    /// The oldest request that the proxy has not answered.
    pub fn proxy_oldest_unanswered(&self) -> Option<u64> {
        self.proxy.as_ref()?.link.oldest_unanswered()
    }

    /// Every pod that is held and ready.
    pub fn held(&self) -> impl Iterator<Item = &Held<F>> {
        self.pods.values().filter_map(|pod| match pod {
            Pod::Ready { held, .. } => Some(held),
            Pod::Offered(_) | Pod::Preparing { .. } => None,
        })
    }

    /// Uid and path of every pod for which only a proxy's offer vouches.
    pub fn offered_paths(&self) -> impl Iterator<Item = (&PodUid, &Path)> {
        self.pods.iter().filter_map(|(uid, pod)| match pod {
            Pod::Offered(offered) => Some((uid, offered.spec.netns.as_path())),
            Pod::Preparing { .. } | Pod::Ready { .. } => None,
        })
    }

    /// Destinations whose connects fail at once, as the proxy wants it.
    pub fn refusals(&self) -> &RefusedSet {
        self.refusals.set()
    }

    /// How many pods are known in any state.
    pub fn known(&self) -> usize {
        self.pods.len()
    }

    /// Whether an agent is connected, and whether it has named every pod that it can know of.
    pub fn agent_state(&self) -> (bool, bool) {
        match &self.agent {
            Some(agent) => (true, agent.complete || agent.last_known),
            None => (false, false),
        }
    }

    /// Whether a proxy is connected, and whether it serves.
    pub fn proxy_state(&self) -> (bool, bool) {
        match &self.proxy {
            Some(proxy) => (true, proxy.ready),
            None => (false, false),
        }
    }
}
