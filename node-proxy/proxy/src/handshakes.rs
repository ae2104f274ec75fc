//! Room for peers of one pod that have not shown a certificate.
//!
//! In: the address of a peer that connects to the tunnel port. Out: a place for its handshake, or none.
//! Bounded for each address as well: one neighbour that starts handshakes and finishes none must not take the room of all
//! others. Not here: how long a handshake may take (`weft-identity`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Handshakes of one pod's tunnel listener that may run at once: a thousand clients of one pod at the same moment,
/// at some 50 KB each, stay below 16 MB; the next one is reset and dials again.
const HANDSHAKES_MAX: usize = 256;
/// Handshakes of one address among them. A pod's proxy starts one at a time on each of its workers, the cores of its node.
const HANDSHAKES_OF_ADDRESS_MAX: usize = 64;

/// The handshakes of one pod.
#[derive(Default)]
pub(crate) struct Handshakes {
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One handshake; its place is free again when this is dropped.
pub(crate) struct Place {
    of: Arc<Handshakes>,
    address: IpAddr,
}

impl Handshakes {
    /// A place, unless the pod or this address has too many. Cancel safe: dropping the place is enough.
    pub(crate) fn begin(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut under_way = self.lock();
        let of_address = under_way.by_address.get(&address).copied().unwrap_or(0);
        if under_way.total >= HANDSHAKES_MAX || of_address >= HANDSHAKES_OF_ADDRESS_MAX {
            return None;
        }
        under_way.total += 1;
        under_way.by_address.insert(address, of_address + 1);
        drop(under_way);
        Some(Place {
            of: Arc::clone(self),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        // Nothing in here panics half-way.
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.of.lock();
        under_way.total -= 1;
        if let Some(count) = under_way.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                under_way.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let all = Arc::new(Handshakes::default());
        let of_one: Vec<Place> = std::iter::from_fn(|| all.begin(address(1))).collect();
        assert_eq!(of_one.len(), HANDSHAKES_OF_ADDRESS_MAX);
        assert!(all.begin(address(2)).is_some());
        drop(of_one);
        assert!(all.begin(address(1)).is_some());
        assert!(all.lock().by_address.is_empty());
    }

    #[test]
    fn all_addresses_together_are_bounded() {
        let all = Arc::new(Handshakes::default());
        let places: Vec<Place> = (1..=250)
            .flat_map(|last| (0..2).map(move |_| address(last)))
            .map_while(|address| all.begin(address))
            .collect();
        assert_eq!(places.len(), HANDSHAKES_MAX);
        assert!(all.begin(address(251)).is_none());
    }
}
