//! Everything that can be subscribed to, at one moment: encoded, named, with a version that is a hash of the content.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use sha2::{Digest, Sha256};
use weft_proto::convert::{MeshAddress, enrollment, policy, settings};
use weft_proto::{Any, Message, resource};
use weft_types::{NodeName, ResourceName, Service, Workload, WorkloadUid};

use crate::translate::Translation;

/// Resources of one type by name. Shared structure: comparing two generations costs what differs between them.
pub(super) type Table = OrdMap<Arc<str>, Arc<Entry>>;

/// One resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) body: Any,
    /// Other names by which it is asked for.
    pub(super) aliases: Vec<String>,
}

/// All resources. Clones share everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts generations, for logs.
    pub(super) serial: u64,
    addresses: Table,
    policies: Table,
    settings: Table,
    enrollments: OrdMap<NodeName, Table>,
    related: Related,
    /// What it was made from, to find what the next one changes.
    translation: Translation,
}

/// Content is told apart by this many bytes of its hash: a collision between two versions of one resource has a chance of 2^-64.
const VERSION_BYTES: usize = 8;

impl Snapshot {
    /// The next generation. Only what differs is encoded anew.
    pub(crate) fn next(&self, translation: &Translation) -> Self {
        let mut next = self.clone();
        next.serial += 1;
        next.translation = translation.clone();
        let before = &self.translation;
        for item in before.workloads.diff(&translation.workloads) {
            let (old, new) = sides(&item);
            next.workload(old, new);
        }
        for item in before.services.diff(&translation.services) {
            let (old, new) = sides(&item);
            let new = new.map(|service| address(&MeshAddress::Service(Service::clone(service))));
            let gone = old.map(|service| resource::service_name(service));
            next.address(gone, new);
        }
        for item in before.policies.diff(&translation.policies) {
            let (old, new) = sides(&item);
            let entry = new.map(|policy| {
                let message = policy::to_wire(policy, policy::FEATURE_LEVEL);
                let name = policy.name.to_string();
                entry(&name, resource::AUTHORIZATION, &message, Vec::new())
            });
            put(
                &mut next.policies,
                old.map(|policy| policy.name.to_string()),
                entry,
            );
        }
        if self.serial == 0 || before.settings != translation.settings {
            let message = settings::to_wire(&translation.settings);
            let (name, type_url) = (resource::SETTINGS_NAME, resource::SETTINGS);
            let entry = entry(name, type_url, &message, Vec::new());
            put(&mut next.settings, None, Some(entry));
        }
        next.enroll(before);
        next
    }

    fn workload(&mut self, old: Option<&Arc<Workload>>, new: Option<&Arc<Workload>>) {
        if let Some(old) = old {
            let name = resource::workload_name(&old.uid);
            self.related.leave(&name, old);
        }
        let entry = new.map(|workload| address(&MeshAddress::Workload(Workload::clone(workload))));
        if let (Some(workload), Some(entry)) = (new, &entry) {
            self.related.join(&entry.name, workload);
        }
        let gone = old.map(|workload| resource::workload_name(&workload.uid));
        self.address(gone, entry);
    }

    fn address(&mut self, gone: Option<String>, entry: Option<Entry>) {
        let before = gone
            .as_ref()
            .and_then(|name| self.addresses.get(name.as_str()));
        if let Some(before) = before {
            self.related.forget_aliases(before);
        }
        if let Some(entry) = &entry {
            self.related.take_aliases(entry);
        }
        put(&mut self.addresses, gone, entry);
    }

    /// Encodes the enrolments that differ from those of an earlier translation.
    fn enroll(&mut self, before: &Translation) {
        let now = self.translation.enrollments.clone();
        let none = OrdMap::new();
        for item in before.enrollments.diff(&now) {
            let (node, old, new) = match item {
                DiffItem::Add(node, new) => (node, &none, new),
                DiffItem::Remove(node, old) => (node, old, &none),
                DiffItem::Update { old, new } => (new.0, old.1, new.1),
            };
            let table = self.enrollments.entry(node.clone()).or_default();
            for item in old.diff(new) {
                let (DiffItem::Add((uid, _), _)
                | DiffItem::Remove((uid, _), _)
                | DiffItem::Update {
                    new: ((uid, _), _), ..
                }) = item;
                // Of several pods with one uid the first by name holds.
                let first = (uid.clone(), ResourceName::new("", ""));
                let pod = new.range(first..).next().filter(|((of, _), _)| of == uid);
                let entry = pod.map(|(_, pod)| {
                    let message = enrollment::to_wire(pod);
                    entry(uid.as_str(), resource::ENROLLMENT, &message, Vec::new())
                });
                put(table, Some(uid.as_str().to_owned()), entry);
            }
            if table.is_empty() {
                self.enrollments.remove(node);
            }
        }
    }

    /// Whether subscribers would be told the same.
    #[cfg(test)]
    pub(crate) fn publishes_the_same(&self, other: &Self) -> bool {
        self.addresses == other.addresses
            && self.policies == other.policies
            && self.settings == other.settings
            && self.enrollments == other.enrollments
            && self.related.aliases == other.related.aliases
            && self.related.members == other.related.members
    }

    /// The resources of a type that a node may see; `None` for a type that is not served.
    pub(super) fn table(&self, type_url: &str, node: &NodeName) -> Option<Table> {
        match type_url {
            resource::ADDRESS => Some(self.addresses.clone()),
            resource::AUTHORIZATION => Some(self.policies.clone()),
            resource::SETTINGS => Some(self.settings.clone()),
            resource::ENROLLMENT => Some(self.enrollments.get(node).cloned().unwrap_or_default()),
            _ => None,
        }
    }

    /// Whether the pod is enrolled on another node: asking for it is asking for too much.
    pub(super) fn is_of_other_node(&self, uid: &str, node: &NodeName) -> bool {
        let mut others = self.enrollments.iter().filter(|(other, _)| *other != node);
        others.any(|(_, table)| table.contains_key(uid))
    }

    /// A copy, under the name that was asked for, of the first resource that goes by it besides its own.
    ///
    /// Istio's node proxy waits for an answer under the name that it asked for, and knows nothing of aliases.
    pub(super) fn aliased(&self, table: &Table, alias: &str) -> Option<Arc<Entry>> {
        let mut names = seconds(&self.related.aliases, alias);
        let entry = names.find_map(|name| table.get(&name))?;
        Some(Arc::new(Entry {
            name: alias.into(),
            version: Arc::clone(&entry.version),
            body: entry.body.clone(),
            aliases: Vec::new(),
        }))
    }

    /// The workloads of a node.
    pub(super) fn of_node(&self, table: &Table, node: &NodeName) -> Vec<Arc<Entry>> {
        let names = seconds(&self.related.local, node.as_str());
        names.filter_map(|name| table.get(&name).cloned()).collect()
    }

    /// The resources that a name stands for, with what is needed to act on them: a service comes with its workloads, a workload with its services and their workloads.
    pub(super) fn resolve(&self, table: &Table, name: &str) -> Vec<Arc<Entry>> {
        let own = table.get_key_value(name).map(|(name, _)| Arc::clone(name));
        let mut names: BTreeSet<Arc<str>> = own.into_iter().collect();
        names.extend(seconds(&self.related.aliases, name));
        // Two rounds: workload -> service -> workloads.
        for _ in 0..2 {
            let neighbours: Vec<Arc<str>> = names
                .iter()
                .flat_map(|name| self.neighbours(name))
                .collect();
            names.extend(neighbours);
        }
        names
            .iter()
            .filter_map(|name| table.get(name).cloned())
            .collect()
    }

    /// Workloads of a service, services of a workload.
    fn neighbours(&self, name: &str) -> Vec<Arc<str>> {
        let workload = self.translation.workloads.get(&WorkloadUid::from(name));
        let services = workload
            .into_iter()
            .flat_map(|workload| workload.services.keys());
        let services = services.map(|service| service.to_string().into());
        services
            .chain(seconds(&self.related.members, name))
            .collect()
    }
}

/// What belongs together, for subscribers that ask by name.
#[derive(Clone, Debug, Default)]
struct Related {
    /// Aliases with the names of resources.
    aliases: Pairs,
    /// Services with their workloads.
    members: Pairs,
    /// Nodes with their workloads.
    local: Pairs,
}

/// Ordered, so that all seconds of a first stand together.
type Pairs = OrdSet<(Arc<str>, Arc<str>)>;

impl Related {
    fn join(&mut self, name: &Arc<str>, workload: &Workload) {
        for service in workload.services.keys() {
            let service = service.to_string().into();
            self.members.insert((service, Arc::clone(name)));
        }
        let node = workload.node.as_str().into();
        self.local.insert((node, Arc::clone(name)));
    }

    fn leave(&mut self, name: &str, workload: &Workload) {
        for service in workload.services.keys() {
            let service = service.to_string().into();
            self.members.remove(&(service, name.into()));
        }
        let node = workload.node.as_str().into();
        self.local.remove(&(node, name.into()));
    }

    fn take_aliases(&mut self, entry: &Entry) {
        for alias in &entry.aliases {
            let pair = (alias.as_str().into(), Arc::clone(&entry.name));
            self.aliases.insert(pair);
        }
    }

    fn forget_aliases(&mut self, entry: &Entry) {
        for alias in &entry.aliases {
            let pair = (alias.as_str().into(), Arc::clone(&entry.name));
            self.aliases.remove(&pair);
        }
    }
}

fn seconds(pairs: &Pairs, first: &str) -> impl Iterator<Item = Arc<str>> {
    let first: Arc<str> = first.into();
    let start = (Arc::clone(&first), Arc::from(""));
    let of_first = pairs.range(start..).take_while(move |pair| pair.0 == first);
    of_first.map(|(_, second)| Arc::clone(second))
}

fn sides<'a, K, V>(item: &DiffItem<'a, 'a, K, V>) -> (Option<&'a V>, Option<&'a V>) {
    match item {
        DiffItem::Add(_, new) => (None, Some(new)),
        DiffItem::Remove(_, old) => (Some(old), None),
        DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
    }
}

fn address(address: &MeshAddress) -> Entry {
    let aliases = address.aliases();
    entry(
        &address.resource_name(),
        resource::ADDRESS,
        &address.to_wire(),
        aliases,
    )
}

fn entry<M: Message>(name: &str, type_url: &str, message: &M, aliases: Vec<String>) -> Entry {
    let body = resource::pack(type_url, message);
    let hash = Sha256::digest(&body.value);
    let mut version = String::with_capacity(2 * VERSION_BYTES);
    for byte in &hash[..VERSION_BYTES] {
        let _ = write!(version, "{byte:02x}");
    }
    Entry {
        name: name.into(),
        version: version.into(),
        body,
        aliases,
    }
}

/// Puts an entry in the place of another; one whose content is the same stays the same object.
fn put(table: &mut Table, gone: Option<String>, entry: Option<Entry>) {
    let Some(entry) = entry else {
        if let Some(name) = gone {
            table.remove(name.as_str());
        }
        return;
    };
    if let Some(name) = gone.filter(|name| **name != *entry.name) {
        table.remove(name.as_str());
    }
    if table.get(&entry.name).is_none_or(|old| **old != entry) {
        table.insert(Arc::clone(&entry.name), Arc::new(entry));
    }
}
