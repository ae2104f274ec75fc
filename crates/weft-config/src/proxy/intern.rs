//! One copy of each text that many workloads share: namespaces, nodes, accounts, localities.
//!
//! At 100 000 workloads of a few hundred owners this is most of their text.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use weft_types::{PortMapping, ServiceName, Workload};

/// Below this many entries nothing is ever thrown away.
const KEPT_MIN: usize = 1024;

type Services = BTreeMap<ServiceName, Vec<PortMapping>>;

/// The shared copies; those that nobody uses any more go when the table has doubled.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: Pool<str>,
    services: Pool<Services>,
}

#[derive(Debug)]
struct Pool<T: ?Sized> {
    entries: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self {
            entries: HashSet::new(),
            sweep_at: KEPT_MIN,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn share(&mut self, item: &mut Arc<T>) {
        if let Some(known) = self.entries.get(item) {
            *item = known.clone();
            return;
        }
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|entry| Arc::strong_count(entry) > 1);
            self.sweep_at = (self.entries.len() * 2).max(KEPT_MIN);
        }
        self.entries.insert(item.clone());
    }
}

impl Interner {
    /// Replaces the texts of a workload that others are likely to have as well.
    pub(super) fn workload(&mut self, workload: &mut Workload) {
        for text in [
            &mut workload.namespace,
            &mut workload.hostname,
            &mut workload.network,
            &mut workload.service_account,
            &mut workload.canonical_name,
            &mut workload.canonical_revision,
            &mut workload.workload_name,
            &mut workload.cluster,
            &mut workload.locality.region,
            &mut workload.locality.zone,
            &mut workload.locality.subzone,
        ] {
            self.texts.share(text);
        }
        self.services.share(&mut workload.services);
    }
}
