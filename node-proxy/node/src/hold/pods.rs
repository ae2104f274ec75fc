//! What the state machine asks for, done: namespaces, stock, settings.
//!
//! In: actions and outcomes. Out: jobs for the namespace thread, outcomes for the state machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};
use weft_node_api::{Family, HolderAction, NackReason, PodFacts, PodSpec, Refusal};
use weft_types::PodUid;

use super::Hold;
use crate::netns::{Fd, Job, Outcome};

/// Namespaces of held pods.
#[derive(Debug, Default)]
pub(super) struct Namespaces(BTreeMap<PodUid, (u64, Fd)>);

/// What `tcp_tw_reuse` was before, by netns cookie; kept on disk so that a later node program can put it back.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tuned {
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    foreign: bool,
    before: BTreeMap<u64, u8>,
}

impl Hold {
    pub(super) fn act(&mut self, action: HolderAction<Fd>) {
        match action {
            HolderAction::Prepare {
                spec,
                generation,
                netns,
                listeners,
            } => self.give(Job::Prepare {
                spec,
                generation,
                netns,
                listeners,
            }),
            HolderAction::Hold { spec, facts, netns } => self.hold_pod(&spec, &facts, netns),
            HolderAction::Release { uid } => self.release(&uid),
            HolderAction::Stock {
                of,
                uid,
                family,
                count,
            } => {
                if !self.stock.ask(of, &uid, family, count) {
                    self.holder
                        .not_stocked(of, "no stock, or too many requests wait");
                }
            }
            HolderAction::Maps { sockets } => {
                self.give(Job::Maps(sockets));
                // Flagged in the map before: the hooks of the new one would capture them.
                self.stock.flush();
                self.stock_open = true;
            }
            HolderAction::ProxyReady => self.proxy_is_ready(),
            HolderAction::AgentComplete => {
                info!(pods = self.holder.known(), "the agent has named every pod");
            }
        }
    }

    pub(super) fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Prepared {
                spec,
                generation,
                netns,
                mut outcome,
            } => {
                if let Ok((facts, _)) = &outcome
                    && let Some(other) = self.namespaces.other_owner(&spec.uid, facts.netns_cookie)
                {
                    let detail = format!("it belongs to pod {other}");
                    outcome = Err(Refusal {
                        reason: NackReason::WrongNetns,
                        detail,
                    });
                }
                if let Err(refusal) = &outcome {
                    warn!(pod = %spec.name, namespace = %spec.namespace, reason = ?refusal.reason, detail = %refusal.detail, "pod refused");
                }
                self.holder.prepared(&spec.uid, generation, netns, outcome);
            }
            Outcome::Made { order, sockets } => match sockets {
                Ok(sockets) => self.stock.deliver(&order, sockets),
                Err(detail) => {
                    warn!(pod = %order.uid, %detail, "cannot make sockets in a pod");
                    for of in self.stock.fail(&order) {
                        self.holder.not_stocked(of, &detail);
                    }
                }
            },
            Outcome::Tuned { cookie, before } => self.tuned.set(cookie, before),
        }
    }

    /// Answers requests, and orders what should be made.
    pub(super) fn serve_stock(&mut self) {
        // Without the map nothing may be handed out, and requests wait for it.
        if !self.stock_open {
            return;
        }
        for answer in self.stock.answers() {
            self.holder.stocked(answer.of, answer.sockets);
        }
        for order in self.stock.orders() {
            match self.namespaces.0.get(&order.uid) {
                Some((_, netns)) => {
                    let netns = netns.clone();
                    self.give(Job::Make { order, netns });
                }
                None => {
                    self.stock.fail(&order);
                }
            }
        }
    }

    pub(super) fn look_for_deletions(&mut self) {
        // Nobody had their namespaces open while this program was away, so only a missing path tells.
        let orphans: Vec<PodUid> = self
            .holder
            .offered_paths()
            .filter(|(_, path)| !path.exists())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in orphans {
            info!(pod = %uid, "it is offered, and its network namespace is gone");
            self.holder.netns_gone(&uid);
        }
        for uid in self.deletions.gone() {
            info!(pod = %uid, "its network namespace is gone; letting go of it");
            if let Some((cookie, _)) = self.namespaces.0.remove(&uid) {
                // There is nothing to put back any more.
                self.tuned.forget(cookie);
            }
            self.holder.netns_gone(&uid);
        }
    }

    fn hold_pod(&mut self, spec: &PodSpec, facts: &PodFacts, netns: Fd) {
        info!(pod = %spec.name, namespace = %spec.namespace, uid = %spec.uid, cookie = facts.netns_cookie, "pod held");
        let families: Vec<Family> = [
            (
                Family::V4,
                facts.addresses.iter().any(std::net::IpAddr::is_ipv4),
            ),
            (
                Family::V6,
                facts.ipv6 && spec.addresses.iter().any(std::net::IpAddr::is_ipv6),
            ),
        ]
        .into_iter()
        .filter_map(|(family, has)| has.then_some(family))
        .collect();
        let known = self.namespaces.0.get(&spec.uid).map(|(cookie, _)| *cookie);
        if known.is_some_and(|cookie| cookie != facts.netns_cookie) {
            // The pod came back in another namespace: its sockets are of the old one.
            self.release(&spec.uid);
        }
        self.stock.open(&spec.uid, &families);
        if !self.tuned.before.contains_key(&facts.netns_cookie) {
            self.give(Job::Tune {
                cookie: facts.netns_cookie,
                netns: netns.clone(),
            });
        }
        self.deletions
            .watch(spec.uid.clone(), spec.netns.clone(), netns.clone());
        self.namespaces
            .0
            .insert(spec.uid.clone(), (facts.netns_cookie, netns));
    }

    fn release(&mut self, uid: &PodUid) {
        for of in self.stock.close(uid) {
            self.holder.not_stocked(of, "the pod left");
        }
        self.deletions.forget(uid);
        if let Some((cookie, netns)) = self.namespaces.0.remove(uid) {
            info!(pod = %uid, "pod released");
            if let Some(value) = self.tuned.forget(cookie) {
                self.give(Job::Restore { value, netns });
            }
        }
    }

    fn give(&self, job: Job) {
        debug!(?job, "job for the namespace thread");
        // The thread ends only with this task.
        let _ = self.jobs.send(job);
    }
}

impl Namespaces {
    fn other_owner(&self, uid: &PodUid, cookie: u64) -> Option<&PodUid> {
        self.0
            .iter()
            .find(|(owner, (held, _))| *owner != uid && *held == cookie)
            .map(|(owner, _)| owner)
    }
}

// === impl Tuned ===

impl Tuned {
    /// Reads the file; a missing or broken one knows nothing.
    pub(super) fn load(path: PathBuf) -> Self {
        let read = fs::read(&path).ok();
        let mut tuned: Self = read
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        tuned.path = path;
        tuned
    }

    /// Whether the file is ours to write.
    pub(super) fn keep(&mut self, ours: bool) {
        self.foreign = !ours;
        self.save();
    }

    fn set(&mut self, cookie: u64, before: u8) {
        self.before.entry(cookie).or_insert(before);
        self.save();
    }

    fn forget(&mut self, cookie: u64) -> Option<u8> {
        let before = self.before.remove(&cookie)?;
        self.save();
        Some(before)
    }

    fn save(&self) {
        if self.foreign {
            return;
        }
        let beside = self.path.with_extension("new");
        let outcome = serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(&beside, bytes))
            .and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = outcome {
            warn!(%error, path = %self.path.display(), "cannot note a pod's settings; they would not be put back after a restart");
        }
    }
}
