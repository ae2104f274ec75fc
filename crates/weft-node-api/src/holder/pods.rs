//! The life of a pod in the holder.

use weft_types::PodUid;

use super::{AgentNote, Held, Holder, HolderAction, Offered, Pending, Pod, Refusal};
use crate::message::{Incoming, Listeners, Message, NackReason, PodFacts, PodSpec, Removal};

impl<F: Clone> Holder<F> {
    /// The outcome of `Prepare`. An outcome that nobody waits for any more is dropped, descriptors and all.
    pub fn prepared(
        &mut self,
        uid: &PodUid,
        generation: u64,
        netns: F,
        outcome: Result<(PodFacts, Listeners<F>), Refusal>,
    ) {
        let (pending, spec) = match self.pods.get(uid) {
            Some(
                Pod::Preparing { pending, spec, .. }
                | Pod::Ready {
                    pending: Some((pending, spec)),
                    ..
                },
            ) => (*pending, spec.clone()),
            _ => return,
        };
        if pending.generation != generation {
            return;
        }
        match outcome {
            Ok((facts, listeners)) => {
                let held = Held {
                    generation,
                    spec,
                    facts,
                    netns,
                    listeners,
                };
                self.hold(held, pending.of);
            }
            Err(refusal) => self.refused(uid, pending.of, refusal),
        }
    }

    /// The pod's network namespace was deleted.
    pub fn netns_gone(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.remove(uid) else {
            return;
        };
        let generation = pod.generation();
        self.actions
            .push_back(HolderAction::Release { uid: uid.clone() });
        self.tell_removed(uid, generation, Removal::Gone);
        if let Pod::Ready {
            pending: Some((pending, spec)),
            ..
        } = pod
        {
            // The newer revision that is in work names another namespace, or it will be refused.
            let old = None;
            let preparing = Pod::Preparing { pending, spec, old };
            self.pods.insert(uid.clone(), preparing);
            return;
        }
        if let Some(agent) = &mut self.agent {
            agent.named.remove(uid);
            let message = Message::PodGone {
                uid: uid.clone(),
                generation,
            };
            agent.link.request(AgentNote::PodGone, message, Vec::new());
        }
    }

    pub(super) fn put_pod(
        &mut self,
        id: u64,
        generation: u64,
        spec: PodSpec,
        mut descriptors: Vec<F>,
    ) {
        if descriptors.len() != 1 && descriptors.len() != 4 {
            let detail = "PutPod carries one or four descriptors";
            return self.agent_nack(id, NackReason::Malformed, detail);
        }
        let uid = spec.uid.clone();
        // Named, whatever is wrong with the request: what is held of the pod stays until the agent has got it right.
        if let Some(agent) = &mut self.agent {
            agent.named.insert(uid.clone());
        }
        if self.id_taken(&spec) {
            let detail = format!("another pod has number {}", spec.id);
            return self.agent_nack(id, NackReason::IdTaken, &detail);
        }
        let known = self.pods.get(&uid).map(Pod::generation);
        // The same generation with another spec: an agent was started again after its clock went back.
        let same = |pod: &Pod<F>| generation == pod.generation() && spec == *pod.spec();
        if let Some(pod) = self.pods.get(&uid)
            && generation <= pod.generation()
            && !same(pod)
        {
            let known = pod.generation();
            let detail = format!("generation {known} is known");
            return self.agent_nack(id, NackReason::Stale { generation: known }, &detail);
        }
        if self.awaiting_offers && known.is_none() && descriptors.len() == 1 {
            self.deferred.push(Incoming {
                id,
                message: Message::PutPod { generation, spec },
                descriptors,
            });
            return;
        }
        if self.same_again(id, &uid, generation) {
            return;
        }
        let given = Listeners::from_vec(descriptors.split_off(1));
        let netns = descriptors.swap_remove(0);
        self.prepare(
            Pending {
                generation,
                of: Some(id),
            },
            spec,
            netns,
            given,
        );
    }

    pub(super) fn remove_pod(&mut self, id: u64, uid: &PodUid, generation: u64) {
        let (dropped, deferred): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deferred)
            .into_iter()
            .partition(|packet| is_put_of(packet, uid));
        self.deferred = deferred;
        for packet in dropped {
            self.agent_nack(packet.id, NackReason::NoSuchPod, "it was removed meanwhile");
        }
        let known = self.pods.get(uid).map(Pod::generation);
        if let Some(known) = known.filter(|known| generation < *known) {
            let detail = format!("generation {known} is known");
            return self.agent_nack(id, NackReason::Stale { generation: known }, &detail);
        }
        self.agent_ack(id);
        if let Some(agent) = &mut self.agent {
            agent.named.remove(uid);
        }
        self.drop_pod(uid);
    }

    /// The agent has named every pod: what it did not name goes.
    pub(super) fn agent_complete(&mut self, id: u64) {
        self.agent_ack(id);
        let Some(agent) = &mut self.agent else { return };
        agent.complete = true;
        let named = agent.named.clone();
        let stale: Vec<PodUid> = self
            .pods
            .keys()
            .filter(|uid| !named.contains(*uid))
            .cloned()
            .collect();
        for uid in stale {
            self.drop_pod(&uid);
        }
        self.actions.push_back(HolderAction::AgentComplete);
    }

    /// Whether the agent named the pod, and its request waits for the offers of a living proxy.
    pub(super) fn is_deferred(&self, uid: &PodUid) -> bool {
        self.deferred.iter().any(|packet| is_put_of(packet, uid))
    }

    /// No answer can reach an agent that is gone.
    pub(super) fn forget_replies(&mut self) {
        for pod in self.pods.values_mut() {
            match pod {
                Pod::Preparing { pending, .. }
                | Pod::Ready {
                    pending: Some((pending, _)),
                    ..
                } => pending.of = None,
                Pod::Offered(_) | Pod::Ready { pending: None, .. } => {}
            }
        }
    }

    fn id_taken(&self, spec: &PodSpec) -> bool {
        self.pods
            .iter()
            .any(|(uid, pod)| *uid != spec.uid && pod.spec().id == spec.id)
    }

    /// Answers a repeated `PutPod`, or joins it to the work that runs for it.
    fn same_again(&mut self, id: u64, uid: &PodUid, generation: u64) -> bool {
        let reply = match self.pods.get_mut(uid) {
            Some(Pod::Preparing { pending, .. }) if pending.generation == generation => {
                pending.of = Some(id);
                return true;
            }
            Some(Pod::Ready {
                pending: Some((pending, _)),
                ..
            }) => {
                if pending.generation == generation {
                    pending.of = Some(id);
                    return true;
                }
                return false;
            }
            Some(Pod::Ready { held, .. }) if held.generation == generation => {
                (held.facts.clone(), held.listeners.clone())
            }
            _ => return false,
        };
        self.pod_ready(id, reply.0, reply.1);
        true
    }

    fn prepare(&mut self, pending: Pending, spec: PodSpec, netns: F, given: Option<Listeners<F>>) {
        let uid = spec.uid.clone();
        let pod = self.pods.remove(&uid);
        let known = match &pod {
            Some(Pod::Ready { held, .. }) => Some(held.listeners.clone()),
            Some(
                Pod::Offered(offered)
                | Pod::Preparing {
                    old: Some(offered), ..
                },
            ) => Some(offered.listeners.clone()),
            Some(Pod::Preparing { old: None, .. }) | None => None,
        };
        let old_answer = pod.as_ref().and_then(Pod::waiting_reply);
        if let Some(of) = old_answer {
            let generation = pending.generation;
            self.agent_nack(of, NackReason::Stale { generation }, "a newer one came");
        }
        let next = match pod {
            Some(Pod::Ready { held, .. }) => Pod::Ready {
                held,
                pending: Some((pending, spec.clone())),
            },
            Some(Pod::Offered(offered)) => Pod::Preparing {
                pending,
                spec: spec.clone(),
                old: Some(offered),
            },
            Some(Pod::Preparing { old, .. }) => Pod::Preparing {
                pending,
                spec: spec.clone(),
                old,
            },
            None => Pod::Preparing {
                pending,
                spec: spec.clone(),
                old: None,
            },
        };
        self.pods.insert(uid, next);
        self.actions.push_back(HolderAction::Prepare {
            spec,
            generation: pending.generation,
            netns,
            listeners: known.or(given),
        });
    }

    fn hold(&mut self, held: Held<F>, of: Option<u64>) {
        let uid = held.spec.uid.clone();
        if let Some(id) = of {
            self.pod_ready(id, held.facts.clone(), held.listeners.clone());
        }
        let message = Message::Pod {
            generation: held.generation,
            spec: held.spec.clone(),
            facts: Some(held.facts.clone()),
        };
        self.tell_proxy(message, held.listeners.clone().into_vec());
        self.actions.push_back(HolderAction::Hold {
            spec: held.spec.clone(),
            facts: held.facts.clone(),
            netns: held.netns.clone(),
        });
        self.pods.insert(
            uid.clone(),
            Pod::Ready {
                held,
                pending: None,
            },
        );
        self.serve_waiting(&uid);
    }

    /// A refused revision changes nothing for the revision that is held; an offer without a fitting namespace ends.
    fn refused(&mut self, uid: &PodUid, of: Option<u64>, refusal: Refusal) {
        if let Some(id) = of {
            self.agent_nack(id, refusal.reason, &refusal.detail);
        }
        match self.pods.get_mut(uid) {
            Some(Pod::Ready { pending, .. }) => *pending = None,
            Some(Pod::Preparing { pending, .. }) => {
                pending.of = None;
                if let Some(agent) = &mut self.agent {
                    agent.named.remove(uid);
                }
                self.drop_pod(uid);
            }
            Some(Pod::Offered(_)) | None => {}
        }
    }

    fn drop_pod(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.remove(uid) else {
            return;
        };
        let (generation, of) = (pod.generation(), pod.waiting_reply());
        if let Some(id) = of {
            self.agent_nack(id, NackReason::NoSuchPod, "the pod was removed meanwhile");
        }
        self.actions
            .push_back(HolderAction::Release { uid: uid.clone() });
        self.tell_removed(uid, generation, Removal::Unenrolled);
    }

    fn pod_ready(&mut self, of: u64, facts: PodFacts, listeners: Listeners<F>) {
        if let Some(agent) = &mut self.agent {
            let message = Message::PodReady { of, facts };
            agent.link.tell(message, listeners.into_vec());
        }
    }
}

impl<F> Pod<F> {
    /// The newest generation that the agent has named, or the offered one.
    fn generation(&self) -> u64 {
        match self {
            Self::Offered(Offered { generation, .. }) => *generation,
            Self::Preparing { pending, .. }
            | Self::Ready {
                pending: Some((pending, _)),
                ..
            } => pending.generation,
            Self::Ready { held, .. } => held.generation,
        }
    }

    fn spec(&self) -> &PodSpec {
        match self {
            Self::Offered(offered) => &offered.spec,
            Self::Preparing { spec, .. }
            | Self::Ready {
                pending: Some((_, spec)),
                ..
            } => spec,
            Self::Ready { held, .. } => &held.spec,
        }
    }

    fn waiting_reply(&self) -> Option<u64> {
        match self {
            Self::Preparing { pending, .. }
            | Self::Ready {
                pending: Some((pending, _)),
                ..
            } => pending.of,
            _ => None,
        }
    }
}

fn is_put_of<F>(packet: &Incoming<F>, uid: &PodUid) -> bool {
    matches!(&packet.message, Message::PutPod { spec, .. } if spec.uid == *uid)
}
