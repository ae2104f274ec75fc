//! All members by slot, with what other steps have found out about each; and which of them have to be published again.
//!
//! A slot is a small number that stands for a member as long as it exists: indexes hold slots instead of names.
//! Labels are looked up by hash, within a namespace; a few candidates too many when hashes collide: the caller compares labels anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use weft_k8s_api::{Kind, ObjectKey};
use weft_types::{PolicyName, PortMapping, ResourceName, ServiceName, WorkloadUid};

use super::member::Source;
use super::selectors::selects;

/// A member's place.
pub(super) type Slot = u32;

/// Services of a workload, with ports.
pub(super) type Backed = BTreeMap<ServiceName, Vec<PortMapping>>;

/// Which member. The order is that in which pods, entries and strangers are preferred for an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum MemberKey {
    Pod(ResourceName),
    Entry(ResourceName),
    /// An address that only EndpointSlices know.
    Stranger(IpAddr),
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    Member(MemberKey),
    Service(ResourceName),
}

/// A member, and what is known of it beside its own object.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: MemberKey,
    pub(super) source: Source,
    /// Addresses that its object names and another has.
    pub(super) lost: Vec<(IpAddr, Holder)>,
    pub(super) services: Arc<Backed>,
    /// AuthorizationPolicies whose selector selects it, in the order of their names.
    pub(super) policies: Vec<PolicyName>,
    /// What its PeerAuthentications come to.
    pub(super) peer: Option<PolicyName>,
    /// PeerAuthentications that are not used for it: the other and the one that is.
    pub(super) overlaps: Vec<(ResourceName, ResourceName)>,
    /// The name under which it is published.
    pub(super) published: Option<WorkloadUid>,
}

#[derive(Debug, Default)]
pub(super) struct Members {
    records: Vec<Option<Record>>,
    free: Vec<Slot>,
    by_key: HashMap<MemberKey, Slot>,
    by_namespace: HashMap<Arc<str>, BTreeSet<Slot>>,
    by_label: HashMap<u64, BTreeSet<Slot>>,
    hasher: RandomState,
    /// Replicas back the same services: they share one map.
    shared: HashSet<Arc<Backed>>,
    /// New, or made from another object: to be asked again what selects them.
    pub(super) changed: BTreeSet<Slot>,
    /// To be published again.
    pub(super) dirty: BTreeSet<Slot>,
}

impl MemberKey {
    /// The member that an object is, by `Kind namespace/name`.
    pub(crate) fn of_object(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(' ')?;
        let name = name.parse().ok()?;
        match kind {
            "Pod" => Some(Self::Pod(name)),
            "WorkloadEntry" => Some(Self::Entry(name)),
            _ => None,
        }
    }

    /// Its object.
    pub(crate) fn object(&self) -> Option<ObjectKey> {
        let (kind, name) = match self {
            Self::Pod(name) => (Kind::Pod, name),
            Self::Entry(name) => (Kind::WorkloadEntry, name),
            Self::Stranger(_) => return None,
        };
        let ResourceName { namespace, name } = name;
        Some(ObjectKey::new(kind, namespace.as_ref(), name.as_ref()))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(MemberKey::Pod(name)) => write!(f, "Pod {name}"),
            Self::Member(MemberKey::Entry(name)) => write!(f, "WorkloadEntry {name}"),
            Self::Member(MemberKey::Stranger(address)) => address.fmt(f),
            Self::Service(name) => write!(f, "Service {name}"),
        }
    }
}

impl Members {
    pub(super) fn slot(&self, key: &MemberKey) -> Option<Slot> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get(&self, slot: Slot) -> &Record {
        let record = self.records[slot as usize].as_ref();
        record.expect("a slot is given back only after every index has forgotten it")
    }

    /// For a change of what is known of it: the caller marks it dirty where that shows.
    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Record {
        let record = self.records[slot as usize].as_mut();
        record.expect("a slot is given back only after every index has forgotten it")
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.by_namespace.values().flatten().copied()
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = Slot> {
        self.by_namespace
            .get(namespace)
            .into_iter()
            .flatten()
            .copied()
    }

    /// Puts a member, or another source in the place of its old one, which is returned.
    pub(super) fn put(&mut self, key: MemberKey, source: Source) -> (Slot, Option<Source>) {
        if let Some(slot) = self.slot(&key) {
            self.unlist(slot);
            let old = std::mem::replace(&mut self.get_mut(slot).source, source);
            self.list(slot);
            self.changed.insert(slot);
            self.dirty.insert(slot);
            return (slot, Some(old));
        }
        let record = Record {
            key: key.clone(),
            source,
            lost: Vec::new(),
            services: Arc::default(),
            policies: Vec::new(),
            peer: None,
            overlaps: Vec::new(),
            published: None,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.records.push(None);
            Slot::try_from(self.records.len() - 1).expect("4 billion members do not fit memory")
        });
        self.records[slot as usize] = Some(record);
        self.by_key.insert(key, slot);
        self.list(slot);
        self.changed.insert(slot);
        self.dirty.insert(slot);
        (slot, None)
    }

    /// Takes a member out. Its slot is not given to another before [`Members::release`].
    pub(super) fn remove(&mut self, slot: Slot) -> Record {
        self.unlist(slot);
        self.changed.remove(&slot);
        self.dirty.remove(&slot);
        let record = self.records[slot as usize].take();
        let record = record.expect("only who is there is taken out");
        self.by_key.remove(&record.key);
        record
    }

    /// Makes the slots of removed members available again, and forgets sets of services that nobody has.
    pub(super) fn release(&mut self, slots: Vec<Slot>) {
        self.free.extend(slots);
        self.shared
            .retain(|services| Arc::strong_count(services) > 1);
    }

    /// Members that may have all labels of a selector: those with its rarest. A selector without labels selects nothing here.
    pub(super) fn candidates(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = Slot> {
        let of_label = |label| self.by_label.get(&self.hasher.hash_one((namespace, label)));
        let mut rarest: Option<&BTreeSet<Slot>> = None;
        for label in selector {
            match of_label(label) {
                None => return None.into_iter().flatten().copied(),
                Some(slots) if rarest.is_none_or(|rarest| slots.len() < rarest.len()) => {
                    rarest = Some(slots);
                }
                Some(_) => {}
            }
        }
        rarest.into_iter().flatten().copied()
    }

    /// Members of a namespace, or of all, that a selector selects.
    pub(super) fn selected(
        &self,
        namespace: Option<&str>,
        selector: &BTreeMap<String, String>,
    ) -> Vec<Slot> {
        let fits = |slot: &Slot| selects(selector, &self.get(*slot).source.labels());
        match namespace {
            Some(namespace) => self.candidates(namespace, selector).filter(fits).collect(),
            None => self.slots().filter(fits).collect(),
        }
    }

    /// Says with which ports a member backs a service; `None`: not at all.
    pub(super) fn back(
        &mut self,
        slot: Slot,
        service: &ServiceName,
        ports: Option<Vec<PortMapping>>,
    ) {
        let services = &self.get(slot).services;
        if services.get(service) == ports.as_ref() {
            return;
        }
        let mut services = Backed::clone(services);
        match ports {
            Some(ports) => drop(services.insert(service.clone(), ports)),
            None => drop(services.remove(service)),
        }
        let services = self.shared.get(&services).cloned().unwrap_or_else(|| {
            let services = Arc::new(services);
            self.shared.insert(Arc::clone(&services));
            services
        });
        self.get_mut(slot).services = services;
        self.dirty.insert(slot);
    }

    fn list(&mut self, slot: Slot) {
        let source = &self.get(slot).source;
        let namespace = self.get(slot).namespace();
        let labels = source.labels();
        let hashes: Vec<u64> = labels
            .iter()
            .map(|label| self.hasher.hash_one((namespace.as_ref(), label)))
            .collect();
        drop(labels);
        for hash in hashes {
            self.by_label.entry(hash).or_default().insert(slot);
        }
        self.by_namespace.entry(namespace).or_default().insert(slot);
    }

    fn unlist(&mut self, slot: Slot) {
        let namespace = self.get(slot).namespace();
        let labels = self.get(slot).source.labels().into_owned();
        for label in &labels {
            let hash = self.hasher.hash_one((namespace.as_ref(), label));
            forget(&mut self.by_label, &hash, &slot);
        }
        forget(&mut self.by_namespace, &namespace, &slot);
    }
}

impl Record {
    pub(super) fn namespace(&self) -> Arc<str> {
        match (&self.key, &self.source) {
            (MemberKey::Pod(name) | MemberKey::Entry(name), _)
            | (MemberKey::Stranger(_), Source::Slice { name, .. }) => Arc::clone(&name.namespace),
            (MemberKey::Stranger(_), Source::Pod(_) | Source::Entry(_)) => {
                unreachable!("a stranger is made from a slice")
            }
        }
    }
}

/// Takes a slot out of a set, and the set out of its map when it was the last.
pub(super) fn forget<K, V>(sets: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V)
where
    K: std::hash::Hash + Eq,
    V: Ord,
{
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
