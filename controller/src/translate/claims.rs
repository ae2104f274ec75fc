//! One address, one owner, among services and between services and workloads. In: what services name. Out: who has it, and who must be told.
//!
//! The order that makes it the same whatever the order of changes:
//!
//! 1. `release`: services let go of what they no longer name or want, and of what a host has;
//! 2. workloads settle (`address`): what a service still has is the service's, even if a workload names it now;
//! 3. `settle`: what nobody has goes to a service that names it: the oldest, then the first by name;
//! 4. `translate`: what no object names is given.
//!
//! So an address means the same for as long as its owner is there: who dials a service never reaches a pod that came later, nor the reverse.
//! At a cold start nobody has anything, and a workload, whose address the network knows, comes before a text that names it.
//! A host's address is never a service's, nor is one that a pod to come may get (setting `podCidrs`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_k8s_api::{Kind, Object, ObjectKey};
use weft_types::{ResourceName, Service};

use super::Context;
use super::address::Addresses;
use super::finding::{Finding, Findings};
use super::member::created;
use super::members::Members;
use super::service::{claims, first_has, forbidden, host_has, named, one, wanted};
use super::vip::VirtualAddresses;
use crate::index::Changes;

/// What services have to do with each other: the addresses that they name.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Services by each address that their object names, also one that no service may have: it may come to be a host's, which must be told.
    named: BTreeMap<IpAddr, BTreeSet<ResourceName>>,
    /// Services that found no free address.
    exhausted: BTreeSet<ResourceName>,
}

/// What came of a service.
pub(super) struct Translated {
    /// `None` for one that only aliases another name, or is gone.
    pub(super) service: Option<Service>,
    pub(super) findings: Vec<Finding>,
}

/// Lets go of what services had that are gone, or that they do not name any more: before everything is translated anew.
pub(super) fn forget_gone(context: &Context<'_>, given: &mut VirtualAddresses) {
    let services = &context.index.services;
    let gone = given
        .services()
        .filter(|name| !services.contains_key(*name));
    for name in gone.cloned().collect::<Vec<_>>() {
        given.take_back(&name, |_| false);
    }
    let names_it = |name: &ResourceName, address: IpAddr| {
        let service = services.get(name);
        service.is_some_and(|service| claims(context, service).contains(&address))
    };
    let held = given.held().map(|(address, name)| (*address, name));
    let lost = held.filter(|(address, name)| !names_it(name, *address));
    for address in lost.map(|(address, _)| address).collect::<Vec<_>>() {
        given.let_go(address);
    }
}

impl Services {
    /// Takes in objects that changed: lets go of what their services do not name or want any more, and of what hosts have.
    /// Returns the addresses that this is about.
    pub(super) fn release(
        &mut self,
        context: &Context<'_>,
        changes: &Changes,
        addresses: &Addresses,
        given: &mut VirtualAddresses,
    ) -> BTreeSet<IpAddr> {
        let mut about = addresses.moved_hosts().clone();
        for (key, before) in changes.iter().filter(|(key, _)| key.kind == Kind::Service) {
            let name = ResourceName::new(key.namespace.as_str(), key.name.as_str());
            if let Some(Object::Service(before)) = before {
                for address in named(before) {
                    if let Some(named) = self.named.get_mut(&address) {
                        named.remove(&name);
                    }
                    about.insert(address);
                }
            }
            let now = context.index.services.get(&name);
            for address in now.map_or_else(Vec::new, |service| named(service)) {
                self.named.entry(address).or_default().insert(name.clone());
                about.insert(address);
            }
            let claimed = now.map_or_else(Vec::new, |service| claims(context, service));
            let blocks = now.map_or_else(Vec::new, |service| wanted(context, service));
            let stays = |address| {
                let is_wanted = blocks.iter().any(|block| block.contains(&address));
                is_wanted && forbidden(context, address).is_none()
            };
            for lost in given.take_back(&name, stays) {
                about.insert(lost);
                if claimed.contains(&lost) {
                    given.hold(lost, name.clone());
                }
            }
        }
        for address in &about {
            let is_host = addresses.is_host(*address);
            if let Some(holder) = given.holder(*address) {
                let named = self.named.get(address);
                if is_host || named.is_none_or(|named| !named.contains(holder)) {
                    given.let_go(*address);
                }
            } else if is_host && let Some(owner) = given.owner(*address).cloned() {
                given.take_back(&owner, |other| other != *address);
                self.exhausted.insert(owner);
            }
        }
        about
    }

    /// Gives addresses that nobody has to services that name them, and says which services must be looked at: those that name one of these
    /// addresses, have it, or found none.
    pub(super) fn settle(
        &mut self,
        context: &Context<'_>,
        about: BTreeSet<IpAddr>,
        addresses: &Addresses,
        given: &mut VirtualAddresses,
    ) -> BTreeSet<ResourceName> {
        let mut touched = std::mem::take(&mut self.exhausted);
        for address in about {
            if let Some(named) = self.named.get(&address) {
                let age = |name: &&ResourceName| {
                    let service = context.index.services.get(*name);
                    service.map_or(0, |service| created(&service.metadata))
                };
                let first = named.iter().min_by_key(|name| (age(name), *name));
                let is_free = given.owner(address).is_none()
                    && !addresses.is_used(address)
                    && forbidden(context, address).is_none();
                if let Some(first) = first.filter(|_| is_free) {
                    given.hold(address, first.clone());
                }
                touched.extend(named.iter().cloned());
                if named.is_empty() {
                    self.named.remove(&address);
                }
            }
            touched.extend(given.owner(address).cloned());
        }
        touched
    }

    /// Translates one service. Several at once come in the order of their names, so that free addresses are given in this order.
    pub(super) fn translate(
        &mut self,
        context: &Context<'_>,
        name: &ResourceName,
        addresses: &Addresses,
        members: &Members,
        given: &mut VirtualAddresses,
    ) -> Translated {
        let mut findings = Findings::default();
        let mut users = BTreeMap::new();
        if let Some(service) = context.index.services.get(name) {
            for address in named(service) {
                let user = if let Some(host) = addresses.host(address, members) {
                    host_has(&host)
                } else if forbidden(context, address).is_some() {
                    continue;
                } else {
                    match given.owner(address) {
                        Some(owner) if owner == name => continue,
                        Some(owner) => first_has(&format!("Service {owner}")),
                        None => {
                            let user = addresses.user(address, members);
                            user.map_or_else(|| first_has(&"another"), |user| first_has(&user))
                        }
                    }
                };
                users.insert(address, user);
            }
        }
        let user = |address: IpAddr| users.get(&address).cloned();
        let is_taken = |address| {
            self.named.contains_key(&address)
                || addresses.is_used(address)
                || forbidden(context, address).is_some()
        };
        let outcome = one(context, name, &user, &is_taken, given, &mut findings);
        if outcome.exhausted {
            self.exhausted.insert(name.clone());
        }
        let key = ObjectKey::new(Kind::Service, name.namespace.as_ref(), name.name.as_ref());
        Translated {
            service: outcome.service,
            findings: findings.take(&key),
        }
    }
}
