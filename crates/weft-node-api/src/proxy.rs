//! The proxy's side: what it was told to serve, and what it keeps for a holder that starts again. Pure.
//!
//! ```text
//! apart --connected()--> greeting --Welcome--> offering --Ack of SnapshotSent--> synced
//!   ^                                                                              |
//!   '------------------------------- disconnected() -------------------------------'
//! ```
//!
//! In: packets, wishes for sockets, keys to keep. Out: packets and events for the proxy.
//! Deliberately not here: accepting, and counting the sockets that are in stock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;

use weft_types::PodUid;

use crate::link::{Link, Outgoing};
use crate::message::{
    DESCRIPTORS_MAX, Family, Hello, Incoming, Listeners, Message, NackReason, PodFacts, PodSpec,
    Removal, Role, VERSION, compatible,
};
use crate::refusals::{RefusedSet, Teller};

/// What the proxy has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyEvent<F> {
    /// The map of socket storage; replaces an earlier one, and with it all sockets in stock.
    Maps {
        /// Map of socket storage.
        sockets: F,
    },
    /// The keys that the proxy before left; once at most, before the first `Synced`.
    Keys {
        /// Sealed memfd, read it from offset 0.
        memfd: F,
    },
    /// Serve this pod from now on. For a pod that is served already: replace spec and listeners.
    PodAdded {
        /// The pod.
        spec: PodSpec,
        /// What the holder read inside its namespace, once the agent has vouched for the pod.
        facts: Option<PodFacts>,
        /// Its listeners, listening.
        listeners: Listeners<F>,
    },
    /// Close the pod's listeners and stock; with [`Removal::Gone`] its connections as well.
    PodRemoved {
        /// Which.
        uid: PodUid,
        /// Why.
        reason: Removal,
    },
    /// Every pod of the node has been named.
    Synced,
    /// Unconnected sockets inside a pod, flagged as the proxy's.
    Sockets {
        /// In which pod.
        uid: PodUid,
        /// Their family.
        family: Family,
        /// The sockets.
        sockets: Vec<F>,
    },
    /// No sockets came; ask again when they are needed, after a pause.
    SocketsRefused {
        /// In which pod.
        uid: PodUid,
        /// Of which family.
        family: Family,
        /// The holder's words.
        detail: String,
    },
    /// The holder speaks a version that is not a neighbour of ours.
    Incompatible {
        /// Its version, or what it said.
        detail: String,
    },
}

/// The state machine. `F` is a descriptor that can be shared.
#[derive(Debug)]
pub struct ProxySide<F> {
    link: Option<Link<F, Note>>,
    synced: bool,
    pods: BTreeMap<PodUid, Pod<F>>,
    /// Pods named on this connection; the others are dropped when the snapshot is complete.
    named: BTreeSet<PodUid>,
    wanted: BTreeMap<(PodUid, Family), usize>,
    keys: Option<F>,
    refusals: Teller,
    ready: bool,
    events: VecDeque<ProxyEvent<F>>,
}

#[derive(Debug)]
struct Pod<F> {
    generation: u64,
    spec: PodSpec,
    facts: Option<PodFacts>,
    listeners: Listeners<F>,
}

#[derive(Debug)]
enum Note {
    Hello,
    Offer,
    OffersSent,
    Want(PodUid, Family),
    /// A part of a change of refusals; `true` is its last.
    Refusals(bool),
    Other,
}

impl<F: Clone> ProxySide<F> {
    /// A proxy that serves nothing yet.
    pub fn new() -> Self {
        Self {
            link: None,
            synced: false,
            pods: BTreeMap::new(),
            named: BTreeSet::new(),
            wanted: BTreeMap::new(),
            keys: None,
            refusals: Teller::default(),
            ready: false,
            events: VecDeque::new(),
        }
    }

    /// A connection stands: greet.
    pub fn connected(&mut self) {
        let mut link = Link::new();
        let hello = Hello {
            version: VERSION,
            role: Role::Proxy,
        };
        link.request(Note::Hello, Message::Hello(hello), Vec::new());
        self.link = Some(link);
        self.synced = false;
        self.named.clear();
        self.refusals.restart();
    }

    /// The connection is lost; what is served goes on.
    pub fn disconnected(&mut self) {
        self.link = None;
        self.synced = false;
    }

    /// Asks for sockets; a second wish for the same pod and family adds to the first while it waits.
    pub fn want_sockets(&mut self, uid: &PodUid, family: Family, count: usize) {
        let count = count.clamp(1, DESCRIPTORS_MAX);
        let key = (uid.clone(), family);
        if let Some(waiting) = self.wanted.get_mut(&key) {
            *waiting = (*waiting).max(count);
            return;
        }
        self.wanted.insert(key, count);
        if self.synced {
            self.send_want(uid, family, count);
        }
    }

    /// Leaves the keys with the holder; again after every reconnect.
    pub fn store_keys(&mut self, memfd: F) {
        if let Some(link) = self.link.as_mut().filter(|_| self.synced) {
            link.request(Note::Other, Message::StoreKeys, vec![memfd.clone()]);
        }
        self.keys = Some(memfd);
    }

    /// Wants connects to these destinations, at most [`crate::REFUSALS_MAX`], to fail at once; replaces an earlier set.
    pub fn refuse(&mut self, set: RefusedSet) {
        self.refusals.want(set);
        self.tell_refusals();
    }

    /// Tells that every pod is served. The refusals that are known by then are told before.
    pub fn ready(&mut self) {
        if let Some(link) = self.link.as_mut().filter(|_| self.synced) {
            link.request(Note::Other, Message::Ready, Vec::new());
        }
        self.ready = true;
    }

    /// The next packet to send.
    pub fn pop(&mut self) -> Option<Outgoing<F>> {
        self.link.as_mut()?.pop()
    }

    /// What happened.
    pub fn event(&mut self) -> Option<ProxyEvent<F>> {
        self.events.pop_front()
    }

    /// The oldest request that waits for its answer; when it stays the same for too long, the holder hangs.
    pub fn oldest_unanswered(&self) -> Option<u64> {
        self.link.as_ref()?.oldest_unanswered()
    }

    /// Whether the view of this connection is complete.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Uid and generation of every pod that is served.
    pub fn pods(&self) -> impl Iterator<Item = (&PodUid, u64)> {
        self.pods.iter().map(|(uid, pod)| (uid, pod.generation))
    }

    /// Takes in a packet of the holder.
    pub fn received(&mut self, packet: Incoming<F>) {
        let Incoming {
            id,
            message,
            descriptors,
        } = packet;
        match message {
            Message::Welcome { version } => self.welcomed(version),
            Message::Ack { of } => self.acked(of),
            Message::Nack { of, reason, detail } => self.nacked(of, &reason, detail),
            Message::Sockets { of } => self.got_sockets(of, descriptors),
            request => self.requested(id, request, descriptors),
        }
    }

    fn welcomed(&mut self, version: u32) {
        if !compatible(VERSION, version) {
            let detail = format!("it speaks version {version}, we speak {VERSION}");
            self.events.push_back(ProxyEvent::Incompatible { detail });
            return;
        }
        let Some(link) = self.link.as_mut() else {
            return;
        };
        // The greeting is request 1 and answered by Welcome instead of Ack.
        link.answered(1);
        for pod in self.pods.values() {
            let offer = Message::Offer {
                generation: pod.generation,
                spec: pod.spec.clone(),
            };
            link.request(Note::Offer, offer, pod.listeners.clone().into_vec());
        }
        link.request(Note::OffersSent, Message::SnapshotSent, Vec::new());
        if let Some(memfd) = &self.keys {
            link.request(Note::Other, Message::StoreKeys, vec![memfd.clone()]);
        }
    }

    fn acked(&mut self, of: u64) {
        let note = self.link.as_mut().and_then(|link| link.answered(of));
        if let Some(Note::Refusals(true)) = note {
            self.refusals.acknowledged();
            self.tell_refusals();
        }
    }

    fn nacked(&mut self, of: u64, reason: &NackReason, detail: String) {
        let note = self.link.as_mut().and_then(|link| link.answered(of));
        match note {
            Some(Note::Hello) => self.events.push_back(ProxyEvent::Incompatible { detail }),
            Some(Note::Want(uid, family)) => {
                self.wanted.remove(&(uid.clone(), family));
                self.events.push_back(ProxyEvent::SocketsRefused {
                    uid,
                    family,
                    detail: format!("{detail} ({reason:?})"),
                });
            }
            Some(Note::Refusals(_)) => self.refusals.refused(),
            // A refused offer is followed by Pod or RemovePod; the rest is repeated at the next connection.
            Some(Note::Offer | Note::OffersSent | Note::Other) | None => {}
        }
    }

    fn got_sockets(&mut self, of: u64, sockets: Vec<F>) {
        let Some(Note::Want(uid, family)) = self.link.as_mut().and_then(|l| l.answered(of)) else {
            return;
        };
        self.wanted.remove(&(uid.clone(), family));
        self.events.push_back(ProxyEvent::Sockets {
            uid,
            family,
            sockets,
        });
    }

    fn requested(&mut self, id: u64, request: Message, descriptors: Vec<F>) {
        let outcome = match request {
            Message::Maps => one(descriptors).map(|sockets| {
                self.events.push_back(ProxyEvent::Maps { sockets });
            }),
            Message::Keys => one(descriptors).map(|memfd| {
                self.events.push_back(ProxyEvent::Keys { memfd });
            }),
            Message::Pod {
                generation,
                spec,
                facts,
            } => Listeners::from_vec(descriptors)
                .map(|listeners| self.serve(generation, spec, facts, listeners)),
            Message::RemovePod { uid, reason, .. } => {
                self.drop_pod(&uid, reason);
                Some(())
            }
            Message::SnapshotSent => {
                self.snapshot_complete();
                Some(())
            }
            _ => None,
        };
        let Some(link) = &mut self.link else { return };
        match outcome {
            Some(()) => link.ack(id),
            None => link.nack(id, NackReason::Malformed, "not a request to a proxy"),
        }
    }

    fn serve(
        &mut self,
        generation: u64,
        spec: PodSpec,
        facts: Option<PodFacts>,
        listeners: Listeners<F>,
    ) {
        self.named.insert(spec.uid.clone());
        // The same again is what a reconnect brings. The facts name the listeners by inode.
        let known = self.pods.get(&spec.uid);
        if known.is_some_and(|pod| {
            pod.generation == generation && (facts.is_none() || pod.facts == facts)
        }) {
            return;
        }
        let pod = Pod {
            generation,
            spec: spec.clone(),
            facts: facts.clone(),
            listeners: listeners.clone(),
        };
        self.pods.insert(spec.uid.clone(), pod);
        self.events.push_back(ProxyEvent::PodAdded {
            spec,
            facts,
            listeners,
        });
    }

    fn drop_pod(&mut self, uid: &PodUid, reason: Removal) {
        self.wanted.retain(|(wanted, _), _| wanted != uid);
        self.named.remove(uid);
        // An unenrolled pod's connections go on; when its namespace goes later, they must learn of it.
        if self.pods.remove(uid).is_some() || reason == Removal::Gone {
            let uid = uid.clone();
            self.events
                .push_back(ProxyEvent::PodRemoved { uid, reason });
        }
    }

    fn snapshot_complete(&mut self) {
        let named = mem::take(&mut self.named);
        let stale: Vec<PodUid> = self
            .pods
            .keys()
            .filter(|uid| !named.contains(*uid))
            .cloned()
            .collect();
        for uid in stale {
            self.drop_pod(&uid, Removal::Unenrolled);
        }
        self.synced = true;
        self.events.push_back(ProxyEvent::Synced);
        let wanted = self.wanted.clone();
        for ((uid, family), count) in wanted {
            self.send_want(&uid, family, count);
        }
        self.tell_refusals();
        if self.ready {
            self.ready();
        }
    }

    fn tell_refusals(&mut self) {
        let Some(link) = self.link.as_mut().filter(|_| self.synced) else {
            return;
        };
        let parts = self.refusals.parts();
        let count = parts.len();
        for (index, part) in parts.into_iter().enumerate() {
            let part = Message::Refusals(part);
            link.request(Note::Refusals(index + 1 == count), part, Vec::new());
        }
    }

    fn send_want(&mut self, uid: &PodUid, family: Family, count: usize) {
        if let Some(link) = &mut self.link {
            let want = Message::WantSockets {
                uid: uid.clone(),
                family,
                count,
            };
            link.request(Note::Want(uid.clone(), family), want, Vec::new());
        }
    }
}

impl<F: Clone> Default for ProxySide<F> {
    fn default() -> Self {
        Self::new()
    }
}

fn one<F>(descriptors: Vec<F>) -> Option<F> {
    let [only] = <[F; 1]>::try_from(descriptors).ok()?;
    Some(only)
}
