//! One copy of each text that many workloads share: namespaces, nodes, accounts, localities, names of policies.
//!
//! At 100 000 workloads of 10 000 owners this is most of their text.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use weft_types::{NodeName, PolicyName, PortMapping, ServiceName, TrustDomain, Workload};

/// Entries of one kind before all are forgotten and collected anew: what is in use stays shared among its users,
/// only later ones get their own copy. Four times what 10 000 owners need.
const ENTRIES_MAX: usize = 1 << 17;

/// The shared copies.
#[derive(Clone, Debug, Default)]
pub(super) struct Interner {
    texts: Pool<Arc<str>>,
    nodes: Pool<NodeName>,
    trust_domains: Pool<TrustDomain>,
    policies: Pool<PolicyName>,
    services: Pool<Arc<BTreeMap<ServiceName, Vec<PortMapping>>>>,
}

#[derive(Clone, Debug)]
struct Pool<T>(HashSet<T>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    fn share(&mut self, item: &mut T) {
        if let Some(known) = self.0.get(item) {
            item.clone_from(known);
            return;
        }
        if self.0.len() >= ENTRIES_MAX {
            self.0.clear();
        }
        self.0.insert(item.clone());
    }
}

impl Interner {
    /// Replaces the parts of a workload that others are likely to have as well.
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
        self.nodes.share(&mut workload.node);
        self.trust_domains.share(&mut workload.trust_domain);
        for policy in &mut workload.authorization_policies {
            self.policies.share(policy);
        }
        self.services.share(&mut workload.services);
    }
}
