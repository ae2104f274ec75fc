//! Cluster IPs for services that name none. In: blocks and what is taken. Out: the same address for the same service, for ever.
//!
//! The first choice is a hash of the service's name; what was given is remembered, so that a later neighbour with the same hash moves nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use weft_types::ResourceName;

/// Addresses that were given, by service and family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VirtualAddresses {
    given: BTreeMap<(ResourceName, Family), IpAddr>,
    /// The same addresses, to look one up.
    addresses: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Addresses of a block that are looked at for a service before giving up: with a block half full, the chance to miss is 2^-1024.
const TRIES_MAX: u128 = 1024;

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl VirtualAddresses {
    /// The address of a service within a block; `None` when the block has none left.
    ///
    /// `is_taken` tells of addresses that objects name explicitly: these win over one that was given before.
    pub(crate) fn give(
        &mut self,
        service: &ResourceName,
        block: IpNet,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let key = (service.clone(), Family::of(block.addr()));
        if let Some(given) = self.given.get(&key)
            && block.contains(given)
            && !is_taken(*given)
        {
            return Some(*given);
        }
        if let Some(lost) = self.given.remove(&key) {
            self.addresses.remove(&lost);
        }
        let host_bits = u32::from(block.max_prefix_len() - block.prefix_len());
        let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        // Without the network's own and the last address, where there is room for more.
        let (first, usable) = if size > 2 { (1, size - 2) } else { (0, size) };
        let start = hash(service) % usable;
        let candidates = (0..usable.min(TRIES_MAX)).map(|step| {
            let offset = first + (start + step) % usable;
            at(block, offset)
        });
        let free = |address: &IpAddr| !is_taken(*address) && !self.addresses.contains(address);
        let address = candidates.into_iter().find(free)?;
        self.given.insert(key, address);
        self.addresses.insert(address);
        Some(address)
    }

    /// Forgets services that are gone.
    pub(crate) fn retain(&mut self, exists: impl Fn(&ResourceName) -> bool) {
        let addresses = &mut self.addresses;
        self.given.retain(|(service, _), address| {
            let stays = exists(service);
            if !stays {
                addresses.remove(address);
            }
            stays
        });
    }

    /// For the disk: `namespace/name` and address.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (String, IpAddr)> {
        let entry = |((service, _), address): (&(ResourceName, Family), &IpAddr)| {
            (service.to_string(), *address)
        };
        self.given.iter().map(entry)
    }

    /// From the disk; what is not of the form is left out, as it can only cost a new address.
    pub(crate) fn from_entries(entries: impl IntoIterator<Item = (String, IpAddr)>) -> Self {
        let entry = |(service, address): (String, IpAddr)| {
            let service = service.parse().ok()?;
            Some(((service, Family::of(address)), address))
        };
        let given: BTreeMap<_, _> = entries.into_iter().filter_map(entry).collect();
        let addresses = given.values().copied().collect();
        Self { given, addresses }
    }
}

fn at(block: IpNet, offset: u128) -> IpAddr {
    match block.network() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(offset as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(offset)).into(),
    }
}

fn hash(service: &ResourceName) -> u128 {
    let digest = Sha256::digest(service.to_string());
    let first: [u8; 16] = digest[..16].try_into().expect("a SHA-256 has 32 bytes");
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::VirtualAddresses;
    use std::net::IpAddr;
    use weft_types::ResourceName;

    fn name(index: usize) -> ResourceName {
        ResourceName::new("ns", format!("s{index}"))
    }

    #[test]
    fn services_keep_their_address_whatever_others_do() {
        let block = "10.96.0.0/24".parse().unwrap();
        let mut given = VirtualAddresses::default();
        let first = given.give(&name(0), block, |_| false).unwrap();
        let mut all = vec![first];
        for index in 1..200 {
            let address = given.give(&name(index), block, |_| false).unwrap();
            assert!(!all.contains(&address) && block.contains(&address));
            all.push(address);
        }
        assert_eq!(given.give(&name(0), block, |_| false), Some(first));
        let mut restored = VirtualAddresses::from_entries(given.entries());
        assert_eq!(restored, given);
        assert_eq!(restored.give(&name(7), block, |_| false), Some(all[7]));
    }

    #[test]
    fn an_explicit_address_wins_and_a_full_block_gives_none() {
        let block = "10.96.0.0/30".parse().unwrap();
        let mut given = VirtualAddresses::default();
        let first = given.give(&name(0), block, |_| false).unwrap();
        let moved = given
            .give(&name(0), block, |address| address == first)
            .unwrap();
        assert_ne!(moved, first);
        assert!(given.give(&name(1), block, |_| false).is_some());
        assert_eq!(given.give(&name(2), block, |_| false), None);
        given.retain(|service| *service != name(0));
        assert!(given.give(&name(2), block, |_| false).is_some());
    }

    #[test]
    fn the_first_and_the_last_address_are_not_given() {
        let block = "fd00::/126".parse().unwrap();
        let mut given = VirtualAddresses::default();
        let mut all: Vec<IpAddr> = (0..2)
            .map(|index| given.give(&name(index), block, |_| false).unwrap())
            .collect();
        all.sort();
        assert_eq!(
            all,
            [
                "fd00::1".parse::<IpAddr>().unwrap(),
                "fd00::2".parse().unwrap()
            ]
        );
    }
}
