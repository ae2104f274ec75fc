//! One address, one workload. In: what members say about their addresses. Out: who has each, in each network.
//!
//! Two workloads with one address would make it a matter of luck whose identity is expected there.
//! An address that a service has is no workload's; `claims` says when that is so. A host's is what a Node says of itself, and that of a pod on its network.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use weft_k8s_api::{Kind, Object, ObjectKey};

use super::Context;
use super::member::Claim;
use super::members::{Holder, MemberKey, Members, Slot};
use super::vip::VirtualAddresses;
use crate::index::Changes;

/// An address in a network; that of services is the one without a name. Host addresses are in none.
pub(super) type Place = (String, IpAddr);

/// Who held an address when everything was translated anew.
pub(crate) type Holders = BTreeMap<Place, MemberKey>;

/// All addresses of members.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    places: HashMap<Place, Claimants>,
    /// Pods on the network of a host, by its addresses.
    hosts: HashMap<IpAddr, BTreeSet<Slot>>,
    /// Names of Nodes, by the addresses that they say are theirs.
    nodes: HashMap<IpAddr, BTreeSet<String>>,
    before: Holders,
    /// Who has an address that several name: for the next run of the program.
    contested: Holders,
    touched: BTreeSet<Place>,
    /// Is another Node's since [`Addresses::settle`], or has another pod on the network of its host, or one less of them.
    moved_hosts: BTreeSet<IpAddr>,
    /// Another workload of our own network has it since [`Addresses::settle`] told it last, or none.
    moved: BTreeSet<IpAddr>,
}

#[derive(Debug, Default)]
struct Claimants {
    holder: Option<Slot>,
    others: Vec<Slot>,
}

impl Addresses {
    /// Addresses of a translation anew: whoever held one keeps it.
    pub(super) fn after(before: Holders) -> Self {
        Self {
            before,
            ..Self::default()
        }
    }

    /// Who holds what.
    pub(super) fn holders(&self, members: &Members) -> Holders {
        let holder = |(place, claimants): (&Place, &Claimants)| {
            let holder = claimants.holder?;
            Some((place.clone(), members.get(holder).key.clone()))
        };
        let mut all = self.before.clone();
        all.extend(self.places.iter().filter_map(holder));
        all
    }

    /// The member of our own network that has an address.
    pub(super) fn holder(&self, address: IpAddr) -> Option<Slot> {
        self.places.get(&(String::new(), address))?.holder
    }

    /// Whether a workload of our own network names it, or a host has it.
    pub(super) fn is_used(&self, address: IpAddr) -> bool {
        self.is_host(address) || self.places.contains_key(&(String::new(), address))
    }

    /// Whether it is a host's: that of a Node, or of a pod on the network of its host.
    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        self.nodes.contains_key(&address) || self.hosts.contains_key(&address)
    }

    /// Host addresses that came, went, or have other Nodes or pods.
    pub(super) fn moved_hosts(&self) -> &BTreeSet<IpAddr> {
        &self.moved_hosts
    }

    /// The workload of our own network that has an address.
    pub(super) fn user(&self, address: IpAddr, members: &Members) -> Option<ObjectKey> {
        members.get(self.holder(address)?).key.object()
    }

    /// The Node that has an address, or else a pod on the network of its host; of several the first by name.
    pub(super) fn host(&self, address: IpAddr, members: &Members) -> Option<ObjectKey> {
        if let Some(name) = self.nodes.get(&address).and_then(BTreeSet::first) {
            return Some(ObjectKey::new(Kind::Node, "", name));
        }
        let on_host = self.hosts.get(&address)?.iter();
        on_host.map(|slot| &members.get(*slot).key).min()?.object()
    }

    /// Who has an address that several name.
    pub(super) fn contested(&self) -> &Holders {
        &self.contested
    }

    /// Takes in the addresses of Nodes that changed.
    pub(super) fn change_nodes(&mut self, context: &Context<'_>, changes: &Changes) {
        for (key, before) in changes.iter().filter(|(key, _)| key.kind == Kind::Node) {
            let before = match before {
                Some(Object::Node(before)) => node_addresses(before),
                _ => BTreeSet::new(),
            };
            let now = context.index.nodes.get(&key.name);
            let now = now.map_or_else(BTreeSet::new, |node| node_addresses(node));
            for address in before.difference(&now) {
                if let Some(names) = self.nodes.get_mut(address) {
                    names.remove(&key.name);
                    if names.is_empty() {
                        self.nodes.remove(address);
                    }
                }
            }
            for address in now.difference(&before) {
                let names = self.nodes.entry(*address).or_default();
                names.insert(key.name.clone());
            }
            self.moved_hosts
                .extend(before.symmetric_difference(&now).copied());
        }
    }

    /// Takes in what a member says now, and what it said before.
    pub(super) fn change(
        &mut self,
        slot: Slot,
        before: Option<&Claim>,
        now: Option<&Claim>,
        members: &mut Members,
    ) {
        let (before_places, now_places) = (places(before), places(now));
        for place in before_places.difference(&now_places) {
            self.leave(slot, place);
            if now.is_some() {
                members
                    .get_mut(slot)
                    .lost
                    .retain(|(lost, _)| *lost != place.1);
            }
        }
        for place in now_places.difference(&before_places) {
            let claimants = self.places.entry(place.clone()).or_default();
            claimants.others.push(slot);
        }
        if before != now {
            self.touched.extend(before_places);
            self.touched.extend(now_places);
        }
        for address in host_addresses(before) {
            if let Some(on_host) = self.hosts.get_mut(address) {
                on_host.remove(&slot);
                if on_host.is_empty() {
                    self.hosts.remove(address);
                }
            }
            self.moved_hosts.insert(*address);
        }
        for address in host_addresses(now) {
            self.hosts.entry(*address).or_default().insert(slot);
            self.moved_hosts.insert(*address);
        }
    }

    fn leave(&mut self, slot: Slot, place: &Place) {
        let Some(claimants) = self.places.get_mut(place) else {
            return;
        };
        if claimants.holder == Some(slot) {
            claimants.holder = None;
            if place.0.is_empty() {
                self.moved.insert(place.1);
            }
        }
        claimants.others.retain(|other| *other != slot);
        if claimants.holder.is_none() && claimants.others.is_empty() {
            self.places.remove(place);
        }
    }

    /// Gives each address that somebody said something about to one of those that name it:
    /// the one that stays longer, held it before, is older, comes first by name. None of them has an address that a service has;
    /// `about` says where that may have changed.
    ///
    /// Returns addresses of our own network that another workload has than before, or none.
    pub(super) fn settle(
        &mut self,
        members: &mut Members,
        about: &BTreeSet<IpAddr>,
        services: &VirtualAddresses,
    ) -> BTreeSet<IpAddr> {
        let about = about.iter().map(|address| (String::new(), *address));
        self.touched.extend(about);
        for place in std::mem::take(&mut self.touched) {
            let Some(claimants) = self.places.get_mut(&place) else {
                self.contested.remove(&place);
                continue;
            };
            let before = claimants.holder;
            let owner = services.owner(place.1).filter(|_| place.0.is_empty());
            if owner.is_some() {
                claimants.others.extend(claimants.holder.take());
            } else if before.is_none() || !claimants.others.is_empty() {
                let winner = winner(claimants, self.before.get(&place), members);
                claimants.others.extend(claimants.holder.replace(winner));
                claimants.others.retain(|other| *other != winner);
            }
            if before != claimants.holder && place.0.is_empty() {
                self.moved.insert(place.1);
            }
            let member = claimants.holder.map(|slot| members.get(slot).key.clone());
            let holder = match (owner, member.clone()) {
                (Some(service), _) => Holder::Service(service.clone()),
                (None, Some(member)) => Holder::Member(member),
                (None, None) => continue,
            };
            tell(claimants, place.1, &holder, members);
            match member {
                Some(member) if !claimants.others.is_empty() => {
                    self.contested.insert(place, member);
                }
                _ => drop(self.contested.remove(&place)),
            }
        }
        self.before = Holders::default();
        self.moved_hosts.clear();
        std::mem::take(&mut self.moved)
    }
}

fn places(claim: Option<&Claim>) -> BTreeSet<Place> {
    let own = claim.filter(|claim| !claim.host_network);
    let place = |claim: &Claim, address: &IpAddr| (claim.network.clone(), *address);
    own.iter()
        .flat_map(|claim| claim.addresses.iter().map(|address| place(claim, address)))
        .collect()
}

/// Host addresses belong to the node, and are never used as an identity.
fn host_addresses(claim: Option<&Claim>) -> &[IpAddr] {
    let host = claim.filter(|claim| claim.host_network);
    host.map_or(&[], |claim| &claim.addresses)
}

/// Under which a node is reached. Its names are none, and a text that is no address says nothing.
pub(super) fn node_addresses(node: &Node) -> BTreeSet<IpAddr> {
    let status = node.status.iter();
    let all = status.flat_map(|status| status.addresses.iter().flatten());
    let ips = all.filter(|address| ["InternalIP", "ExternalIP"].contains(&address.type_.as_str()));
    ips.filter_map(|address| address.address.parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .collect()
}

fn winner(claimants: &Claimants, before: Option<&MemberKey>, members: &Members) -> Slot {
    let rank = |slot: &Slot| {
        let record = members.get(*slot);
        let held = claimants.holder == Some(*slot) || before == Some(&record.key);
        let claim = record.source.claim();
        (claim.terminating, !held, claim.created, record.key.clone())
    };
    let all = claimants.others.iter().copied().chain(claimants.holder);
    all.min_by_key(rank)
        .expect("a place has somebody who names it")
}

/// Marks those that do not have what they name.
fn tell(claimants: &Claimants, address: IpAddr, holder: &Holder, members: &mut Members) {
    let lost = |slot: Slot, lost: Option<Holder>, members: &mut Members| {
        let record = members.get_mut(slot);
        let before = record.lost.iter().position(|(other, _)| *other == address);
        let same = before.map(|position| &record.lost[position].1) == lost.as_ref();
        if same {
            return;
        }
        if let Some(position) = before {
            record.lost.remove(position);
        }
        record.lost.extend(lost.map(|holder| (address, holder)));
        record.lost.sort();
        members.dirty.insert(slot);
    };
    if let Some(slot) = claimants.holder {
        lost(slot, None, members);
    }
    for other in &claimants.others {
        lost(*other, Some(holder.clone()), members);
    }
}
