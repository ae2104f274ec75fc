//! ClientIP session affinity: a client keeps its endpoint while that lives and the client comes back in time.
//!
//! The first choice is by rendezvous hashing, so that workers and restarted proxies choose alike;
//! the table keeps it when endpoints join, until the timeout of Kubernetes' `sessionAffinityConfig`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::candidates::{Endpoint, EndpointId};
use crate::hash;

/// Clients remembered; beyond it the hash alone decides, which only forgets when endpoints join.
const ENTRIES_MAX: usize = 100_000;

/// Who was sent where. One table serves all services.
#[derive(Clone, Debug, Default)]
pub struct Affinity {
    entries: HashMap<(u64, IpAddr), Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    endpoint: EndpointId,
    until: Instant,
}

impl Affinity {
    pub(crate) fn known(&self, key: u64, client: IpAddr, now: Instant) -> Option<EndpointId> {
        let entry = self.entries.get(&(key, client))?;
        (entry.until > now).then_some(entry.endpoint)
    }

    pub(crate) fn keep(
        &mut self,
        key: u64,
        client: IpAddr,
        endpoint: EndpointId,
        until: Instant,
        now: Instant,
    ) {
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&(key, client)) {
            self.entries.retain(|_, entry| entry.until > now);
            if self.entries.len() >= ENTRIES_MAX {
                return;
            }
        }
        let entry = Entry { endpoint, until };
        self.entries.insert((key, client), entry);
    }
}

/// The endpoint that a client is given first: by weighted rendezvous, so that another endpoint's
/// coming or going moves only the clients that it wins or loses.
pub(crate) fn rendezvous<'e>(
    endpoints: impl Iterator<Item = &'e Endpoint>,
    client: IpAddr,
) -> Option<&'e Endpoint> {
    let client = match client {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => hash::of_pair((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
    };
    let score = |endpoint: &Endpoint| {
        // Strictly between 0 and 1, so its logarithm is finite and negative.
        let draw = (hash::of_pair(client, endpoint.id.0) >> 32) as u32;
        let fraction = (f64::from(draw) + 0.5) / (f64::from(u32::MAX) + 1.0);
        -f64::from(endpoint.workload.capacity) / fraction.ln()
    };
    endpoints.max_by(|a, b| score(a).total_cmp(&score(b)).then_with(|| a.id.cmp(&b.id)))
}

/// When an affinity that is used now ends.
pub(crate) fn end(now: Instant, seconds: u32) -> Instant {
    now + Duration::from_secs(u64::from(seconds))
}
