//! Workloads by uid and by address.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::HashMap;
use weft_types::{Health, NetworkMode, Workload, WorkloadUid};

/// Both maps hold the same workloads.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkloadIndex {
    by_uid: HashMap<WorkloadUid, Arc<Workload>>,
    /// Network, then address; the best claimant comes first.
    by_address: HashMap<Arc<str>, HashMap<IpAddr, Claims>>,
}

/// Who claims an address. Nearly always one, which must not cost a list.
#[derive(Clone, Debug)]
enum Claims {
    One(Arc<Workload>),
    /// At least two, the best first.
    Many(Vec<Arc<Workload>>),
}

impl WorkloadIndex {
    pub(super) fn by_uid(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    pub(super) fn by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address
            .get(network)?
            .get(&address)
            .map(Claims::best)
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    /// Returns the workload that was there under this uid.
    pub(super) fn put(&mut self, workload: Arc<Workload>) -> Option<Arc<Workload>> {
        let before = self.remove(&workload.uid);
        if workload.network_mode == NetworkMode::Standard {
            for address in &workload.addresses {
                let network = self.by_address.entry(workload.network.clone()).or_default();
                let address = address.to_canonical();
                match network.get_mut(&address) {
                    Some(claims) => claims.add(workload.clone()),
                    None => {
                        network.insert(address, Claims::One(workload.clone()));
                    }
                }
            }
        }
        self.by_uid.insert(workload.uid.clone(), workload);
        before
    }

    pub(super) fn remove(&mut self, uid: &WorkloadUid) -> Option<Arc<Workload>> {
        let gone = self.by_uid.remove(uid)?;
        if gone.network_mode == NetworkMode::Standard {
            for address in &gone.addresses {
                self.release(&gone, address.to_canonical());
            }
        }
        Some(gone)
    }

    fn release(&mut self, gone: &Workload, address: IpAddr) {
        let Some(network) = self.by_address.get_mut(&gone.network) else {
            return;
        };
        let Some(claims) = network.get_mut(&address) else {
            return;
        };
        if !claims.drop_of(&gone.uid) {
            network.remove(&address);
        }
        if network.is_empty() {
            self.by_address.remove(&gone.network);
        }
    }
}

impl Claims {
    fn best(&self) -> &Arc<Workload> {
        match self {
            Self::One(only) => only,
            Self::Many(all) => &all[0],
        }
    }

    fn add(&mut self, workload: Arc<Workload>) {
        let mut all = match self {
            // A workload may list one address twice.
            Self::One(only) if only.uid == workload.uid => return,
            Self::One(only) => vec![only.clone()],
            Self::Many(all) => std::mem::take(all),
        };
        if !all.iter().any(|one| one.uid == workload.uid) {
            all.push(workload);
        }
        all.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| b.uid.cmp(&a.uid)));
        *self = Self::Many(all);
    }

    /// Returns false when nobody is left.
    fn drop_of(&mut self, uid: &WorkloadUid) -> bool {
        match self {
            Self::One(only) => only.uid != *uid,
            Self::Many(all) => {
                all.retain(|one| one.uid != *uid);
                if let [only] = all.as_slice() {
                    *self = Self::One(only.clone());
                }
                true
            }
        }
    }
}

fn rank(workload: &Workload) -> u8 {
    match workload.health {
        Health::Healthy => 0,
        Health::Unhealthy => 1,
    }
}
