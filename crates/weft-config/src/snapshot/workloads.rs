//! Workloads by uid and by address.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use weft_types::{Health, NetworkMode, Workload, WorkloadUid};

use super::claims::{ClaimMap, Claimant};

/// Both maps hold the same workloads.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkloadIndex {
    by_uid: OrdMap<WorkloadUid, Arc<Workload>>,
    /// Network, then address.
    by_address: OrdMap<Arc<str>, ClaimMap<IpAddr, Workload>>,
}

impl Claimant for Workload {
    fn is(&self, other: &Self) -> bool {
        self.uid == other.uid
    }

    fn order(&self, other: &Self) -> Ordering {
        let rank = |workload: &Self| match workload.health {
            Health::Healthy => 0,
            Health::Unhealthy => 1,
        };
        rank(self)
            .cmp(&rank(other))
            .then_with(|| other.uid.cmp(&self.uid))
    }
}

impl WorkloadIndex {
    pub(super) fn by_uid(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    pub(super) fn by_address(&self, network: &str, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(network)?.best(&address)
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    /// Returns the workload that was there under this uid.
    pub(super) fn put(&mut self, workload: Arc<Workload>) -> Option<Arc<Workload>> {
        let before = self.remove(&workload.uid);
        if workload.network_mode == NetworkMode::Standard {
            for address in &workload.addresses {
                let network = self.by_address.entry(workload.network.clone());
                network
                    .or_default()
                    .add(address.to_canonical(), workload.clone());
            }
        }
        self.by_uid.insert(workload.uid.clone(), workload);
        before
    }

    pub(super) fn remove(&mut self, uid: &WorkloadUid) -> Option<Arc<Workload>> {
        let gone = self.by_uid.remove(uid)?;
        if gone.network_mode == NetworkMode::Standard {
            for address in &gone.addresses {
                let Some(network) = self.by_address.get_mut(&gone.network) else {
                    break;
                };
                network.release(&address.to_canonical(), &gone);
                if network.is_empty() {
                    self.by_address.remove(&gone.network);
                }
            }
        }
        Some(gone)
    }
}
