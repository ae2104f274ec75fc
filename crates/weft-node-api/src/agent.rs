//! The agent's side: the pods that it wants held, and what the holder answered. Pure.
//!
//! ```text
//!            put()              PodReady            remove()            Ack
//! (unknown) -------> asked ---------------> held ------------> leaving -----> (unknown)
//!                      | Nack: Refused, then (unknown)
//! ```
//!
//! In: wishes and packets. Out: packets and events. A lost connection loses nothing: the next one starts with
//! every wish again, and ends with SnapshotSent once the agent knows all pods of its node. An agent that has only its memory of
//! an earlier process ends with LastKnownSent: pods that it does not remember stay held.
//! Deliberately not here: eBPF, retries of refused pods (the agent's reconcile loop has the reasons and the clock).

use std::collections::{BTreeMap, VecDeque};

use weft_types::PodUid;

use crate::link::{Link, Outgoing};
use crate::message::{
    Hello, Incoming, Listeners, Message, NackReason, PodFacts, PodSpec, Removal, Role, VERSION,
    compatible,
};
use crate::refusals::{Hearer, NotTaken, RefusalChange, RefusedSet};

/// What the agent has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent<F> {
    /// The holder greeted; wishes are on their way.
    Connected,
    /// The pod is held. Comes again after a reconnect: the listeners may be others then.
    PodReady {
        /// Which.
        uid: PodUid,
        /// What the holder read inside.
        facts: PodFacts,
        /// Its listeners.
        listeners: Listeners<F>,
    },
    /// The holder refused the pod and forgot the wish; put it again to retry.
    PodRefused {
        /// Which.
        uid: PodUid,
        /// Why, for programs.
        reason: NackReason,
        /// Why, for people.
        detail: String,
    },
    /// The holder has let go, or never heard of the pod.
    PodRemoved {
        /// Which.
        uid: PodUid,
    },
    /// The pod's namespace was deleted; the holder has let go and the wish is forgotten.
    PodGone {
        /// Which.
        uid: PodUid,
    },
    /// Connects to exactly these destinations fail at once. Comes after every reconnect too.
    Refusals {
        /// The whole set.
        set: RefusedSet,
    },
    /// The holder speaks a version that is not a neighbour of ours.
    Incompatible {
        /// Its words.
        detail: String,
    },
}

/// The state machine. `F` is a descriptor that can be shared.
#[derive(Debug)]
pub struct AgentSide<F> {
    link: Option<Link<F, Note>>,
    welcomed: bool,
    last_generation: u64,
    pods: BTreeMap<PodUid, Wish<F>>,
    leaving: BTreeMap<PodUid, u64>,
    maps: Option<F>,
    refusals: Hearer,
    last_known: bool,
    complete: bool,
    events: VecDeque<AgentEvent<F>>,
}

#[derive(Debug)]
struct Wish<F> {
    generation: u64,
    spec: PodSpec,
    netns: F,
    listeners: Option<Listeners<F>>,
}

#[derive(Debug)]
enum Note {
    Hello,
    Put(PodUid, u64),
    Remove(PodUid, u64),
    Other,
}

impl<F: Clone> AgentSide<F> {
    /// An agent without pods. Generations start above `generation_base`: microseconds since 1970 make those of a
    /// later process higher, unless the clock went back, which the holder's `Stale` answer repairs.
    pub fn new(generation_base: u64) -> Self {
        Self {
            link: None,
            welcomed: false,
            last_generation: generation_base,
            pods: BTreeMap::new(),
            leaving: BTreeMap::new(),
            maps: None,
            refusals: Hearer::default(),
            last_known: false,
            complete: false,
            events: VecDeque::new(),
        }
    }

    /// A connection stands: greet.
    pub fn connected(&mut self) {
        let mut link = Link::new();
        let hello = Hello {
            version: VERSION,
            role: Role::Agent,
        };
        link.request(Note::Hello, Message::Hello(hello), Vec::new());
        self.link = Some(link);
        self.welcomed = false;
        self.refusals.restart();
    }

    /// The connection is lost.
    pub fn disconnected(&mut self) {
        self.link = None;
        self.welcomed = false;
    }

    /// Wants a pod held; the same spec again changes nothing while the wish stands.
    pub fn put(&mut self, spec: PodSpec, netns: F) {
        let uid = spec.uid.clone();
        if self.pods.get(&uid).is_some_and(|wish| wish.spec == spec) {
            return;
        }
        self.leaving.remove(&uid);
        self.last_generation += 1;
        let listeners = self.pods.remove(&uid).and_then(|old| old.listeners);
        let wish = Wish {
            generation: self.last_generation,
            spec,
            netns,
            listeners,
        };
        self.pods.insert(uid.clone(), wish);
        self.send_put(&uid);
    }

    /// Wants a pod let go; answered by `PodRemoved`, also when nobody held it.
    pub fn remove(&mut self, uid: &PodUid) {
        let generation = match self.pods.remove(uid) {
            Some(wish) => wish.generation,
            None => self.last_generation,
        };
        self.leaving.insert(uid.clone(), generation);
        self.send_remove(uid, generation);
    }

    /// Gives the map of socket storage to holder and proxy.
    pub fn set_maps(&mut self, sockets: F) {
        if let Some(link) = self.link.as_mut().filter(|_| self.welcomed) {
            link.request(Note::Other, Message::Maps, vec![sockets.clone()]);
        }
        self.maps = Some(sockets);
    }

    /// The pods of an agent's memory have been put, and the controller has not been heard: the holder keeps what it holds besides.
    pub fn set_last_known(&mut self) {
        if self.complete || self.last_known {
            return;
        }
        self.last_known = true;
        self.tell_known();
    }

    /// Every pod of the node has been put: the holder may drop what it holds besides.
    pub fn set_complete(&mut self) {
        if self.complete {
            return;
        }
        self.complete = true;
        self.tell_known();
    }

    /// The next packet to send.
    pub fn pop(&mut self) -> Option<Outgoing<F>> {
        self.link.as_mut()?.pop()
    }

    /// What happened.
    pub fn event(&mut self) -> Option<AgentEvent<F>> {
        self.events.pop_front()
    }

    /// The oldest request that waits for its answer.
    pub fn oldest_unanswered(&self) -> Option<u64> {
        self.link.as_ref()?.oldest_unanswered()
    }

    /// Uid and generation of every wish.
    pub fn wishes(&self) -> impl Iterator<Item = (&PodUid, u64)> {
        self.pods.iter().map(|(uid, wish)| (uid, wish.generation))
    }

    /// Takes in a packet of the holder.
    pub fn received(&mut self, packet: Incoming<F>) {
        let Incoming {
            id,
            message,
            descriptors,
        } = packet;
        match message {
            Message::Welcome { version } => self.greeted(version),
            Message::Ack { of } => self.acked(of),
            Message::Nack { of, reason, detail } => self.nacked(of, reason, detail),
            Message::PodReady { of, facts } => self.held(of, facts, descriptors),
            Message::PodGone { uid, generation } => self.gone(id, uid, generation),
            Message::Refusals(part) => self.refuse(id, &part),
            _ => {
                if let Some(link) = &mut self.link {
                    link.nack(id, NackReason::Malformed, "not a request to an agent");
                }
            }
        }
    }

    fn greeted(&mut self, version: u32) {
        if !compatible(VERSION, version) {
            let detail = format!("it speaks version {version}, we speak {VERSION}");
            self.events.push_back(AgentEvent::Incompatible { detail });
            return;
        }
        let Some(link) = self.link.as_mut() else {
            return;
        };
        link.answered(1);
        self.welcomed = true;
        if let Some(sockets) = &self.maps {
            link.request(Note::Other, Message::Maps, vec![sockets.clone()]);
        }
        let leaving: Vec<(PodUid, u64)> = self.leaving.clone().into_iter().collect();
        for (uid, generation) in leaving {
            self.send_remove(&uid, generation);
        }
        let wishes: Vec<PodUid> = self.pods.keys().cloned().collect();
        for uid in wishes {
            self.send_put(&uid);
        }
        self.tell_known();
        self.events.push_back(AgentEvent::Connected);
    }

    fn acked(&mut self, of: u64) {
        let note = self.link.as_mut().and_then(|link| link.answered(of));
        if let Some(Note::Remove(uid, generation)) = note
            && self.leaving.get(&uid) == Some(&generation)
        {
            self.leaving.remove(&uid);
            self.events.push_back(AgentEvent::PodRemoved { uid });
        }
    }

    fn nacked(&mut self, of: u64, reason: NackReason, detail: String) {
        match self.link.as_mut().and_then(|link| link.answered(of)) {
            Some(Note::Hello) => self.events.push_back(AgentEvent::Incompatible { detail }),
            Some(Note::Put(uid, asked)) => self.put_nacked(uid, asked, reason, detail),
            Some(Note::Remove(uid, _)) => self.remove_nacked(&uid, &reason),
            Some(Note::Other) | None => {}
        }
    }

    fn put_nacked(&mut self, uid: PodUid, asked: u64, reason: NackReason, detail: String) {
        let Some(wish) = self.pods.get_mut(&uid) else {
            return;
        };
        if wish.generation != asked {
            return;
        }
        if let NackReason::Stale { generation } = reason {
            self.last_generation = self.last_generation.max(generation) + 1;
            wish.generation = self.last_generation;
            self.send_put(&uid);
            return;
        }
        self.pods.remove(&uid);
        self.events.push_back(AgentEvent::PodRefused {
            uid,
            reason,
            detail,
        });
    }

    fn remove_nacked(&mut self, uid: &PodUid, reason: &NackReason) {
        let NackReason::Stale { generation } = reason else {
            return;
        };
        self.last_generation = self.last_generation.max(*generation);
        if let Some(leaving) = self.leaving.get_mut(uid) {
            *leaving = self.last_generation;
            self.send_remove(uid, self.last_generation);
        }
    }

    fn held(&mut self, of: u64, facts: PodFacts, descriptors: Vec<F>) {
        let Some(Note::Put(uid, asked)) = self.link.as_mut().and_then(|l| l.answered(of)) else {
            return;
        };
        let Some(listeners) = Listeners::from_vec(descriptors) else {
            return;
        };
        let Some(wish) = self.pods.get_mut(&uid) else {
            return;
        };
        if wish.generation != asked {
            return;
        }
        wish.listeners = Some(listeners.clone());
        self.events.push_back(AgentEvent::PodReady {
            uid,
            facts,
            listeners,
        });
    }

    fn gone(&mut self, id: u64, uid: PodUid, generation: u64) {
        if let Some(link) = &mut self.link {
            link.ack(id);
        }
        // A wish of a later generation names another namespace, and stands.
        if self
            .pods
            .get(&uid)
            .is_some_and(|wish| wish.generation <= generation)
        {
            self.pods.remove(&uid);
            self.events.push_back(AgentEvent::PodGone { uid });
        }
    }

    fn refuse(&mut self, id: u64, part: &RefusalChange) {
        let first = !self.refusals.has_begun();
        let taken = self.refusals.take(part);
        let Some(link) = &mut self.link else { return };
        match taken {
            Ok(is_other) => {
                link.ack(id);
                // The first set of a connection is told even if it is the same: what the map holds may be another one.
                if is_other || (first && self.refusals.has_begun()) {
                    let set = self.refusals.set().clone();
                    self.events.push_back(AgentEvent::Refusals { set });
                }
            }
            Err(NotTaken(why)) => link.nack(id, NackReason::Malformed, why),
        }
    }

    fn tell_known(&mut self) {
        let known = match (self.complete, self.last_known) {
            (true, _) => Message::SnapshotSent,
            (false, true) => Message::LastKnownSent,
            (false, false) => return,
        };
        if let Some(link) = self.link.as_mut().filter(|_| self.welcomed) {
            link.request(Note::Other, known, Vec::new());
        }
    }

    fn send_put(&mut self, uid: &PodUid) {
        let (Some(link), true) = (&mut self.link, self.welcomed) else {
            return;
        };
        let wish = &self.pods[uid];
        let mut descriptors = vec![wish.netns.clone()];
        descriptors.extend(
            wish.listeners
                .clone()
                .into_iter()
                .flat_map(Listeners::into_vec),
        );
        let put = Message::PutPod {
            generation: wish.generation,
            spec: wish.spec.clone(),
        };
        link.request(Note::Put(uid.clone(), wish.generation), put, descriptors);
    }

    fn send_remove(&mut self, uid: &PodUid, generation: u64) {
        let (Some(link), true) = (&mut self.link, self.welcomed) else {
            return;
        };
        let remove = Message::RemovePod {
            uid: uid.clone(),
            generation,
            reason: Removal::Unenrolled,
        };
        link.request(Note::Remove(uid.clone(), generation), remove, Vec::new());
    }
}
