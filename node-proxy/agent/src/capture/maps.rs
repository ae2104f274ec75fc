//! The pinned maps, typed.

use std::os::fd::{AsFd as _, OwnedFd};

use weft_bpf::{BpfError, Counters, Map, SocketHash, SocketStorage, count_entries, object_get};
use weft_ebpf_abi::{
    Capture, CaptureKey, ClientKey, ClientValue, FlowKey, PodAddressKey, PodValue, RefusalKey,
    map_names,
};

use super::error::CaptureError;
use super::pins::Pins;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Its name.
    pub map: &'static str,
    /// Entries now.
    pub entries: usize,
    /// Entries at most.
    pub capacity: usize,
}

#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) captures: Map<CaptureKey, Capture>,
    pub(crate) clients: Map<ClientKey, ClientValue>,
    pub(crate) sockets: SocketStorage,
    pub(crate) pods: Map<u64, PodValue>,
    pub(crate) pod_addresses: Map<PodAddressKey, u32>,
    pub(crate) listeners: SocketHash,
    pub(crate) refusals: Map<RefusalKey, u32>,
    pub(crate) grants: Map<FlowKey, u32>,
    pub(crate) counters: Counters,
}

impl Maps {
    pub(crate) fn open(pins: &Pins) -> Result<Self, CaptureError> {
        Ok(Self {
            captures: open(pins, map_names::CAPTURES, Map::from_fd)?,
            clients: open(pins, map_names::CLIENTS, Map::from_fd)?,
            sockets: open(pins, map_names::SOCKETS, SocketStorage::from_fd)?,
            pods: open(pins, map_names::PODS, Map::from_fd)?,
            pod_addresses: open(pins, map_names::POD_ADDRESSES, Map::from_fd)?,
            listeners: open(pins, map_names::LISTENERS, SocketHash::from_fd)?,
            refusals: open(pins, map_names::REFUSALS, Map::from_fd)?,
            grants: open(pins, map_names::GRANTS, Map::from_fd)?,
            counters: open(pins, map_names::COUNTERS, Counters::from_fd)?,
        })
    }

    /// Socket storage and counters have no number of entries.
    pub(crate) fn usage(&self) -> Result<Vec<MapUsage>, CaptureError> {
        [
            (map_names::CAPTURES, self.captures.as_fd()),
            (map_names::CLIENTS, self.clients.as_fd()),
            (map_names::PODS, self.pods.as_fd()),
            (map_names::POD_ADDRESSES, self.pod_addresses.as_fd()),
            (map_names::LISTENERS, self.listeners.as_fd()),
            (map_names::REFUSALS, self.refusals.as_fd()),
            (map_names::GRANTS, self.grants.as_fd()),
        ]
        .into_iter()
        .map(|(map, fd)| {
            let (entries, capacity) = count_entries(fd).map_err(named(map))?;
            Ok(MapUsage {
                map,
                entries,
                capacity,
            })
        })
        .collect()
    }

    /// The namespace cookies under which a pod stands, one unless its id was used twice.
    pub(crate) fn cookies_of(&self, pod_id: u32) -> Result<Vec<u64>, CaptureError> {
        let pods = self.pods()?;
        Ok(pods
            .into_iter()
            .filter(|(_, pod)| pod.pod_id == pod_id)
            .map(|(key, _)| key)
            .collect())
    }

    pub(crate) fn pods(&self) -> Result<Vec<(u64, PodValue)>, CaptureError> {
        let mut pods = Vec::new();
        for cookie in self.pods.keys().map_err(named(map_names::PODS))? {
            if let Some(pod) = self.pods.lookup(&cookie).map_err(named(map_names::PODS))? {
                pods.push((cookie, pod));
            }
        }
        Ok(pods)
    }
}

fn open<T>(
    pins: &Pins,
    name: &'static str,
    from_fd: impl FnOnce(OwnedFd) -> Result<T, BpfError>,
) -> Result<T, CaptureError> {
    object_get(&pins.map(name))
        .and_then(from_fd)
        .map_err(named(name))
}

pub(crate) fn named(map: &'static str) -> impl Fn(BpfError) -> CaptureError {
    move |source| CaptureError::Map { map, source }
}
