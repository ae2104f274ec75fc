//! What is to be done about each pod of the node. Pure: events in, steps out, `now` is an argument.
//!
//! ```text
//!               Hold              PodReady: Capture         captured()
//! (new) ----> holding -----------------------------> capturing -------> enrolled <---- wanted again: Stay
//!   ^           | refused                               | failed           | not wanted: Loosen     |
//!   |           v                                       v                  v                        |
//!   '------- waiting (retry time) <---------------------'               leaving --------------------'
//!                  | not wanted: Release                                   | LINGER later: Release
//!                  v                                                       v
//!               (gone)                                                  (gone)
//! ```
//!
//! A pod that is let go is still reached through tunnels for a while: its peers hear later than this node that they must not.
//!
//! Not here: namespaces, sockets, eBPF; `app` carries the steps out and tells the outcome.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::{EnrollmentSet, Origin};
use weft_node_api::{PodFacts, PodSpec};
use weft_runtime::Backoff;
use weft_types::{DataplaneMode, Enrollment, PodUid};

use crate::ids::PodIds;

/// First wait before another try: a pod's address often comes some milliseconds after its namespace.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest wait: somebody who repairs a pod should see it join without asking.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long tunnels to a pod that left still find it: a push reaches every proxy of a mesh of 100 000 workloads within a second,
/// and a proxy that has just lost its controller is back at another one within as much again; the rest is for busy nodes.
const LINGER: Duration = Duration::from_secs(5);

/// The pods of the node that have something to do with the mesh.
#[derive(Debug)]
pub(crate) struct Roster {
    pods: BTreeMap<PodUid, Pod>,
    leaving: BTreeMap<PodUid, Leaving>,
    ids: PodIds,
}

/// A pod that is not wanted any more, and that its peers may not know to be gone.
#[derive(Debug)]
struct Leaving {
    pod: Pod,
    until: Instant,
}

/// What has to be done next for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Open the namespace and have the pod's sockets made.
    Hold(PodSpec),
    /// Stop capturing, but for tunnels to it.
    Loosen {
        /// Which.
        uid: PodUid,
        /// Its number.
        id: u32,
    },
    /// Capture again what was loosened; holder and proxy have not heard of it.
    Stay(PodUid),
    /// Stop capturing, then let the holder close the listeners.
    Release {
        /// Which.
        uid: PodUid,
        /// Its number.
        id: u32,
    },
    /// Its namespace is gone and the holder knows: only the maps and the link are left.
    Forget {
        /// Its number.
        id: u32,
    },
}

/// One pod.
#[derive(Debug)]
pub(crate) struct Pod {
    /// The controller's word.
    pub(crate) enrollment: Arc<Enrollment>,
    /// Its number in eBPF keys.
    pub(crate) id: u32,
    /// How far it has come.
    pub(crate) state: State,
    retry: Backoff,
}

/// How far a pod has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Something is missing or was refused; tried again at the time given.
    Waiting {
        /// What is missing.
        reason: String,
        /// When it is tried again; never, when only the controller can change it.
        retry_at: Option<Instant>,
    },
    /// The holder has been asked for sockets.
    Holding,
    /// Its connections are captured.
    Enrolled(PodFacts),
}

impl Step {
    fn uid(&self) -> Option<&PodUid> {
        match self {
            Self::Hold(spec) => Some(&spec.uid),
            Self::Loosen { uid, .. } | Self::Release { uid, .. } | Self::Stay(uid) => Some(uid),
            Self::Forget { .. } => None,
        }
    }
}

impl Roster {
    /// An empty roster.
    pub(crate) fn new(ids: PodIds) -> Self {
        Self {
            pods: BTreeMap::new(),
            leaving: BTreeMap::new(),
            ids,
        }
    }

    /// All pods.
    pub(crate) fn pods(&self) -> &BTreeMap<PodUid, Pod> {
        &self.pods
    }

    /// Numbers of all pods of which something is to stay for now.
    pub(crate) fn known_ids(&self) -> Vec<u32> {
        let leaving = self.leaving.values().map(|leaving| &leaving.pod);
        self.pods
            .values()
            .chain(leaving)
            .map(|pod| pod.id)
            .collect()
    }

    /// Whether a pod is wanted, or leaves and may still stay.
    pub(crate) fn knows(&self, uid: &PodUid) -> bool {
        self.pods.contains_key(uid) || self.leaving.contains_key(uid)
    }

    /// Whether no pod is on its way.
    pub(crate) fn all_enrolled(&self) -> bool {
        self.pods
            .values()
            .all(|pod| matches!(pod.state, State::Enrolled(_)))
    }

    /// Takes the controller's current word. Idempotent.
    pub(crate) fn reconcile(&mut self, set: &EnrollmentSet, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let unwanted: Vec<PodUid> = self
            .pods
            .keys()
            .filter(|uid| !set.get(uid).is_some_and(|pod| is_wanted(pod)))
            .cloned()
            .collect();
        for uid in unwanted {
            steps.extend(self.leave(&uid, now));
        }
        let room = self.make_room(set);
        // Who goes at once need not be loosened first.
        steps.retain(|step| !room.iter().any(|gone| gone.uid() == step.uid()));
        steps.extend(room);
        for enrollment in set.iter().filter(|pod| is_wanted(pod)) {
            steps.extend(self.join(enrollment));
        }
        // A copy on disk may be older than a pod, and must not cost it its number.
        if set.origin() == Origin::Live {
            let known = self.pods.keys().chain(self.leaving.keys());
            self.ids
                .retain(|uid| known.clone().any(|known| known.as_str() == uid));
        }
        steps
    }

    /// The pods whose next try, or whose end, is due.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Step> {
        let left: Vec<PodUid> = self
            .leaving
            .iter()
            .filter(|(_, leaving)| leaving.until <= now)
            .map(|(uid, _)| uid.clone())
            .collect();
        let mut steps: Vec<Step> = left.iter().filter_map(|uid| self.release(uid)).collect();
        let ready: Vec<PodUid> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.state.retry_at().is_some_and(|at| at <= now))
            .map(|(uid, _)| uid.clone())
            .collect();
        steps.extend(ready.iter().filter_map(|uid| self.hold(uid)));
        steps
    }

    /// When [`Roster::due`] has something to say next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let ends = self.leaving.values().map(|leaving| leaving.until);
        let retries = self.pods.values().filter_map(|pod| pod.state.retry_at());
        retries.chain(ends).min()
    }

    /// The number of a pod whose sockets are ready; nothing when it is not wanted any more.
    pub(crate) fn id_of(&self, uid: &PodUid) -> Option<u32> {
        self.pods.get(uid).map(|pod| pod.id)
    }

    /// The pod is captured.
    pub(crate) fn captured(&mut self, uid: &PodUid, facts: PodFacts) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.state = State::Enrolled(facts);
            pod.retry.reset();
        }
    }

    /// Something failed; it is tried again later.
    pub(crate) fn failed(&mut self, uid: &PodUid, reason: String, now: Instant) {
        if let Some(pod) = self.pods.get_mut(uid) {
            let retry_at = Some(now + pod.retry.next_wait());
            pod.state = State::Waiting { reason, retry_at };
        }
    }

    /// The holder keeps the namespace of a pod for another one: if that is one that leaves, under another path, it goes now. The
    /// holder names no owner, so all that leave do.
    pub(crate) fn namespace_is_taken(&mut self) -> Vec<Step> {
        let leaving: Vec<PodUid> = self.leaving.keys().cloned().collect();
        leaving.iter().filter_map(|uid| self.release(uid)).collect()
    }

    /// The holder saw the pod's namespace deleted. A wanted pod stays on the roster: it may come back under its path.
    pub(crate) fn netns_gone(&mut self, uid: &PodUid, now: Instant) -> Option<Step> {
        if let Some(leaving) = self.leaving.remove(uid) {
            self.ids.forget(uid);
            return Some(Step::Forget { id: leaving.pod.id });
        }
        let id = self.id_of(uid)?;
        self.failed(uid, "its network namespace was deleted".into(), now);
        Some(Step::Forget { id })
    }

    fn join(&mut self, enrollment: &Arc<Enrollment>) -> Option<Step> {
        let uid = &enrollment.uid;
        if let Some(Leaving { mut pod, .. }) = self.leaving.remove(uid) {
            let before = std::mem::replace(&mut pod.enrollment, enrollment.clone());
            let same_place = spec(&before, pod.id) == spec(enrollment, pod.id);
            pod.state = State::Holding;
            self.pods.insert(uid.clone(), pod);
            if same_place {
                return Some(Step::Stay(uid.clone()));
            }
            return self.hold(uid);
        }
        match self.pods.get_mut(uid) {
            Some(pod) if pod.enrollment == *enrollment => return None,
            Some(pod) => {
                let same_place = spec(&pod.enrollment, pod.id) == spec(enrollment, pod.id);
                pod.enrollment = enrollment.clone();
                if same_place {
                    return None;
                }
            }
            None => {
                let pod = Pod {
                    enrollment: enrollment.clone(),
                    id: self.ids.of(uid),
                    state: State::Holding,
                    retry: Backoff::random(RETRY_MIN, RETRY_MAX),
                };
                self.pods.insert(uid.clone(), pod);
            }
        }
        self.hold(uid)
    }

    /// What was never captured is nobody's peer, and goes at once.
    fn leave(&mut self, uid: &PodUid, now: Instant) -> Option<Step> {
        let pod = self.pods.remove(uid)?;
        let (id, is_enrolled) = (pod.id, matches!(pod.state, State::Enrolled(_)));
        let until = if is_enrolled { now + LINGER } else { now };
        self.leaving.insert(uid.clone(), Leaving { pod, until });
        if !is_enrolled {
            return self.release(uid);
        }
        Some(Step::Loosen {
            uid: uid.clone(),
            id,
        })
    }

    /// A network namespace is one pod's at a time: who leaves does not linger where another is to be captured, and until then open.
    fn make_room(&mut self, set: &EnrollmentSet) -> Vec<Step> {
        let wanted: BTreeMap<&PathBuf, &PodUid> = set
            .iter()
            .filter(|pod| is_wanted(pod))
            .filter_map(|pod| Some((pod.netns.as_ref()?, &pod.uid)))
            .collect();
        let in_the_way = |(uid, leaving): &(&PodUid, &Leaving)| {
            let netns = leaving.pod.enrollment.netns.as_ref();
            let newcomer = netns.and_then(|netns| wanted.get(netns));
            newcomer.is_some_and(|newcomer| newcomer != uid)
        };
        let now: Vec<PodUid> = self
            .leaving
            .iter()
            .filter(in_the_way)
            .map(|(uid, _)| uid.clone())
            .collect();
        now.iter().filter_map(|uid| self.release(uid)).collect()
    }

    fn release(&mut self, uid: &PodUid) -> Option<Step> {
        let leaving = self.leaving.remove(uid)?;
        self.ids.forget(uid);
        Some(Step::Release {
            uid: uid.clone(),
            id: leaving.pod.id,
        })
    }

    /// An enrolled pod stays enrolled while it is held anew: its listeners do not change.
    fn hold(&mut self, uid: &PodUid) -> Option<Step> {
        let pod = self.pods.get_mut(uid)?;
        let Some(spec) = spec(&pod.enrollment, pod.id) else {
            pod.state = State::Waiting {
                reason: "its network namespace is not known yet".into(),
                retry_at: None,
            };
            return None;
        };
        if !matches!(pod.state, State::Enrolled(_)) {
            pod.state = State::Holding;
        }
        Some(Step::Hold(spec))
    }
}

impl State {
    fn retry_at(&self) -> Option<Instant> {
        match self {
            Self::Waiting { retry_at, .. } => *retry_at,
            Self::Holding | Self::Enrolled(_) => None,
        }
    }
}

fn is_wanted(enrollment: &Enrollment) -> bool {
    enrollment.mode == DataplaneMode::Ambient
}

/// What the holder is told; nothing while the namespace is unknown.
fn spec(enrollment: &Enrollment, id: u32) -> Option<PodSpec> {
    let netns: PathBuf = enrollment.netns.clone()?;
    Some(PodSpec {
        uid: enrollment.uid.clone(),
        id,
        namespace: enrollment.namespace.clone(),
        name: enrollment.name.clone(),
        service_account: enrollment.service_account.clone(),
        addresses: enrollment.addresses.clone(),
        netns,
    })
}

#[cfg(test)]
mod tests;
