//! Which service has which virtual address: given to those that name none, or held by one that names it.
//!
//! The first choice of a given one is a hash of the service's name; what was given is remembered, so that a later neighbour with the same hash
//! moves nobody. A held one stays with its service as long as that names it, whoever names it as well. Who gets what is decided in `claims`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use weft_types::ResourceName;

/// Addresses of services. No address is both given and held.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualAddresses {
    /// Given to services that name none, by service and family.
    given: BTreeMap<(ResourceName, Family), IpAddr>,
    /// The same addresses, and whose they are.
    owners: BTreeMap<IpAddr, ResourceName>,
    /// Addresses that services name and have.
    held: BTreeMap<IpAddr, ResourceName>,
    /// Have another user than before, or none, since [`VirtualAddresses::take_moved`] told it last.
    moved: BTreeSet<IpAddr>,
    /// Counts changes, for those who keep a copy.
    changes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Addresses of a block that are looked at for a service before giving up: they lie all over the block ([`stride`]), so that one is found even if a
/// range that takes up most of the block is forbidden; a block of fewer addresses is looked through.
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
    /// One that it has stays; `is_taken` tells of addresses that cannot be given anew.
    pub(crate) fn give(
        &mut self,
        service: &ResourceName,
        block: IpNet,
        is_taken: impl Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let key = (service.clone(), Family::of(block.addr()));
        if let Some(given) = self.given.get(&key) {
            return Some(*given);
        }
        let host_bits = u32::from(block.max_prefix_len() - block.prefix_len());
        let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        // Without the network's own and the last address, where there is room for more.
        let (first, usable) = if size > 2 { (1, size - 2) } else { (0, size) };
        let start = hash(service) % usable;
        let stride = stride(usable);
        let next = |offset: &u128| {
            let room = usable - offset;
            Some(if stride < room {
                offset + stride
            } else {
                stride - room
            })
        };
        let offsets = std::iter::successors(Some(start), next);
        let candidates = offsets
            .take(usable.min(TRIES_MAX) as usize)
            .map(|offset| at(block, first + offset));
        let free = |address: &IpAddr| !is_taken(*address) && self.owner(*address).is_none();
        let address = candidates.into_iter().find(free)?;
        self.owners.insert(address, service.clone());
        self.given.insert(key, address);
        self.changed(address);
        Some(address)
    }

    /// Takes back what was given to a service and `stays` does not say to leave; returns it.
    pub(crate) fn take_back(
        &mut self,
        service: &ResourceName,
        stays: impl Fn(IpAddr) -> bool,
    ) -> Vec<IpAddr> {
        let mut lost = Vec::new();
        for family in [Family::V4, Family::V6] {
            let key = (service.clone(), family);
            if let Some(address) = self.given.get(&key).copied()
                && !stays(address)
            {
                self.given.remove(&key);
                self.owners.remove(&address);
                self.changed(address);
                lost.push(address);
            }
        }
        lost
    }

    /// A service that names a free address has it from now on.
    pub(crate) fn hold(&mut self, address: IpAddr, service: ResourceName) {
        debug_assert!(self.owner(address).is_none(), "an address has one owner");
        self.held.insert(address, service);
        self.changed(address);
    }

    /// Nobody holds it from now on.
    pub(crate) fn let_go(&mut self, address: IpAddr) {
        if self.held.remove(&address).is_some() {
            self.changed(address);
        }
    }

    fn changed(&mut self, address: IpAddr) {
        self.moved.insert(address);
        self.changes += 1;
    }

    /// Services that were given an address.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ResourceName> {
        self.given.keys().map(|(service, _)| service)
    }

    /// Addresses that services name and have.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&IpAddr, &ResourceName)> {
        self.held.iter()
    }

    /// The service that names an address and has it.
    pub(crate) fn holder(&self, address: IpAddr) -> Option<&ResourceName> {
        self.held.get(&address)
    }

    /// The service whose address it is, given or held.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&ResourceName> {
        self.owners
            .get(&address)
            .or_else(|| self.held.get(&address))
    }

    /// Addresses whose owner is another than at the last call.
    pub(crate) fn take_moved(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.moved)
    }

    /// Another number after every change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// What was given, for the disk: `namespace/name` and address.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (String, IpAddr)> {
        let entry = |((service, _), address): (&(ResourceName, Family), &IpAddr)| {
            (service.to_string(), *address)
        };
        self.given.iter().map(entry)
    }

    /// From the disk: what was given, and what was held. What is not of the form is left out, as it can only cost a new address.
    pub(crate) fn from_entries(
        given: impl IntoIterator<Item = (String, IpAddr)>,
        held: impl IntoIterator<Item = (String, IpAddr)>,
    ) -> Self {
        let mut this = Self::default();
        let parse = |(service, address): (String, IpAddr)| Some((service.parse().ok()?, address));
        for (service, address) in given.into_iter().filter_map(parse) {
            let service: ResourceName = service;
            let key = (service.clone(), Family::of(address));
            if this.owner(address).is_none() && !this.given.contains_key(&key) {
                this.given.insert(key, address);
                this.owners.insert(address, service);
            }
        }
        for (service, address) in held.into_iter().filter_map(parse) {
            if this.owner(address).is_none() {
                this.held.insert(address, service);
            }
        }
        this
    }
}

fn at(block: IpNet, offset: u128) -> IpAddr {
    match block.network() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(offset as u32)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(offset)).into(),
    }
}

/// How far the next candidate is, modulo the size: the golden section of it, after which a sequence is spread evenly however long it is.
/// Prime to the size, so that it meets every address once.
fn stride(size: u128) -> u128 {
    let golden = size / 1000 * 618 + size % 1000 * 618 / 1000;
    let mut strides = golden.max(1)..;
    strides
        .find(|stride| gcd(*stride, size) == 1)
        .expect("one less than the size is prime to it")
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn hash(service: &ResourceName) -> u128 {
    let digest = Sha256::digest(service.to_string());
    let first: [u8; 16] = digest[..16].try_into().expect("a SHA-256 has 32 bytes");
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::VirtualAddresses;
    use ipnet::IpNet;
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
        let mut restored = VirtualAddresses::from_entries(given.entries(), []);
        assert!(restored.entries().eq(given.entries()));
        assert_eq!(restored.give(&name(7), block, |_| false), Some(all[7]));
    }

    #[test]
    fn what_is_taken_is_not_given_and_a_full_block_gives_none() {
        let block = "10.96.0.0/30".parse().unwrap();
        let mut given = VirtualAddresses::default();
        let first = given.give(&name(0), block, |_| false).unwrap();
        given.take_back(&name(0), |_| false);
        let moved = given
            .give(&name(0), block, |address| address == first)
            .unwrap();
        assert_ne!(moved, first);
        assert!(given.give(&name(1), block, |_| false).is_some());
        assert_eq!(given.give(&name(2), block, |_| false), None);
        given.take_back(&name(0), |_| false);
        given.hold(moved, name(3));
        assert_eq!(given.give(&name(2), block, |_| false), None);
        given.let_go(moved);
        assert!(given.give(&name(2), block, |_| false).is_some());
    }

    #[test]
    fn a_block_of_which_all_but_a_corner_is_forbidden_has_addresses_for_all() {
        for (block, corner) in [
            ("10.96.0.0/12", "10.96.0.0/16"),
            ("fd00::/48", "fd00::/54"),
            ("::/1", "::/6"),
            ("10.96.0.0/22", "10.96.3.192/26"),
        ] {
            let (block, corner): (IpNet, IpNet) = (block.parse().unwrap(), corner.parse().unwrap());
            let mut given = VirtualAddresses::default();
            for index in 0..50 {
                let address = given.give(&name(index), block, |address| !corner.contains(&address));
                assert!(address.is_some_and(|address| corner.contains(&address)));
            }
        }
    }

    #[test]
    fn of_two_entries_with_one_address_the_first_counts() {
        let address: IpAddr = "10.96.0.1".parse().unwrap();
        let entry = |index| (name(index).to_string(), address);
        let read = VirtualAddresses::from_entries([entry(0), entry(1)], [entry(2)]);
        assert_eq!(read.owner(address), Some(&name(0)));
        assert_eq!((read.entries().count(), read.held().count()), (1, 0));
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
