//! Everything that can be subscribed to, at one moment: encoded, named, with a version that is a hash of the content.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;

use imbl::OrdMap;
use sha2::{Digest, Sha256};
use weft_proto::convert::{MeshAddress, enrollment, policy, settings};
use weft_proto::{Any, Message, resource};
use weft_types::{NodeName, Service, Workload};

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

/// All resources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts generations, for logs.
    pub(super) serial: u64,
    addresses: Table,
    policies: Table,
    settings: Table,
    enrollments: HashMap<NodeName, Table>,
    related: Arc<Related>,
}

/// What belongs together, for subscribers that ask by name.
#[derive(Debug, Default)]
struct Related {
    /// Resource names by alias.
    aliases: HashMap<String, Vec<Arc<str>>>,
    /// Workloads of a service, services of a workload.
    neighbours: HashMap<Arc<str>, Vec<Arc<str>>>,
}

/// Content is told apart by this many bytes of its hash: a collision between two versions of one resource has a chance of 2^-64.
const VERSION_BYTES: usize = 8;

impl Snapshot {
    /// The next generation. Resources whose content is the same stay the same objects.
    pub(crate) fn next(&self, translation: &Translation) -> Self {
        let mut related = Related::default();
        let workloads = translation.workloads.iter().map(|workload| {
            let entry = address(&MeshAddress::Workload(workload.clone()));
            related.workload(&entry, workload);
            entry
        });
        let mut addresses: Vec<Entry> = workloads.collect();
        for service in &translation.services {
            let entry = address(&MeshAddress::Service(service.clone()));
            related.service(&entry, service);
            addresses.push(entry);
        }
        let policies = translation.policies.iter().map(|policy| {
            let message = policy::to_wire(policy, policy::FEATURE_LEVEL);
            entry(
                &policy.name.to_string(),
                resource::AUTHORIZATION,
                &message,
                Vec::new(),
            )
        });
        let message = settings::to_wire(&translation.settings);
        let settings = entry(
            resource::SETTINGS_NAME,
            resource::SETTINGS,
            &message,
            Vec::new(),
        );
        let mut of_nodes: BTreeMap<&NodeName, Vec<Entry>> = BTreeMap::new();
        for (node, pod) in &translation.enrollments {
            let message = enrollment::to_wire(pod);
            let entry = entry(pod.uid.as_str(), resource::ENROLLMENT, &message, Vec::new());
            of_nodes.entry(node).or_default().push(entry);
        }
        let none = Table::new();
        let enrollments = of_nodes.into_iter().map(|(node, entries)| {
            let before = self.enrollments.get(node).unwrap_or(&none);
            (node.clone(), successor(before, entries))
        });
        Self {
            serial: self.serial + 1,
            addresses: successor(&self.addresses, addresses),
            policies: successor(&self.policies, policies),
            settings: successor(&self.settings, [settings]),
            enrollments: enrollments.collect(),
            related: Arc::new(related),
        }
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

    /// The resources that a name stands for, with what is needed to act on them: a service comes with its workloads, a workload with its services and their workloads.
    pub(super) fn resolve(&self, table: &Table, name: &str) -> Vec<Arc<Entry>> {
        let own = table.get_key_value(name).map(|(name, _)| name);
        let aliased = self.related.aliases.get(name).into_iter().flatten();
        let mut names: Vec<&Arc<str>> = own.into_iter().chain(aliased).collect();
        // Two rounds: workload -> service -> workloads.
        for _ in 0..2 {
            let neighbours = names
                .iter()
                .flat_map(|name| self.related.neighbours.get(*name).into_iter().flatten());
            let neighbours: Vec<&Arc<str>> = neighbours.collect();
            names.extend(neighbours);
            names.sort();
            names.dedup();
        }
        names
            .into_iter()
            .filter_map(|name| table.get(name).cloned())
            .collect()
    }
}

impl Related {
    fn workload(&mut self, entry: &Entry, workload: &Workload) {
        self.alias(entry);
        for service in workload.services.keys() {
            let service: Arc<str> = service.to_string().into();
            let of_service = self.neighbours.entry(Arc::clone(&service)).or_default();
            of_service.push(Arc::clone(&entry.name));
            let of_workload = self.neighbours.entry(Arc::clone(&entry.name)).or_default();
            of_workload.push(service);
        }
    }

    fn service(&mut self, entry: &Entry, _service: &Service) {
        self.alias(entry);
    }

    fn alias(&mut self, entry: &Entry) {
        for alias in &entry.aliases {
            let names = self.aliases.entry(alias.clone()).or_default();
            names.push(Arc::clone(&entry.name));
        }
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

fn successor(before: &Table, entries: impl IntoIterator<Item = Entry>) -> Table {
    let mut after = before.clone();
    let mut seen: Vec<Arc<str>> = Vec::new();
    for entry in entries {
        seen.push(Arc::clone(&entry.name));
        if before.get(&entry.name).is_none_or(|old| **old != entry) {
            after.insert(Arc::clone(&entry.name), Arc::new(entry));
        }
    }
    seen.sort();
    for name in before.keys() {
        if seen.binary_search(name).is_err() {
            after.remove(name);
        }
    }
    after
}
