//! Policies by name and by what they apply to.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use weft_types::{AppliedPolicies, AuthorizationPolicy, PolicyName, Scope};

/// Policies, and the names of those that apply beyond the workloads naming them.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyIndex {
    by_name: OrdMap<PolicyName, PolicyEntry>,
    global: OrdSet<PolicyName>,
    by_namespace: OrdMap<Arc<str>, OrdSet<PolicyName>>,
}

/// A policy as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyEntry {
    /// It can be judged.
    Good(Arc<AuthorizationPolicy>),
    /// It cannot, and refuses every connection that it applies to.
    Broken(Arc<BrokenPolicy>),
}

/// A policy that this program does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenPolicy {
    /// Namespace and name.
    pub name: PolicyName,
    /// What it applies to; [`Scope::Global`] when even that could not be read and nothing was known before.
    pub scope: Scope,
    /// What was wrong with it.
    pub reason: Arc<str>,
}

impl PolicyEntry {
    /// Namespace and name.
    pub fn name(&self) -> &PolicyName {
        match self {
            Self::Good(policy) => &policy.name,
            Self::Broken(broken) => &broken.name,
        }
    }

    /// What it applies to.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Good(policy) => policy.scope,
            Self::Broken(broken) => broken.scope,
        }
    }
}

impl PolicyIndex {
    pub(super) fn by_name(&self, name: &PolicyName) -> Option<&PolicyEntry> {
        self.by_name.get(name)
    }

    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = (&PolicyName, &PolicyEntry)> {
        self.by_name.iter()
    }

    pub(super) fn applied(&self, namespace: &str, named: &[PolicyName]) -> AppliedPolicies {
        let of_namespace = self.by_namespace.get(namespace);
        let mut names: Vec<&PolicyName> = self
            .global
            .iter()
            .chain(of_namespace.into_iter().flatten())
            .chain(named)
            .collect();
        // A workload may name what applies to it anyway.
        names.sort();
        names.dedup();

        let mut applied = AppliedPolicies::default();
        for name in names {
            match self.by_name.get(name) {
                Some(PolicyEntry::Good(policy)) => applied.policies.push(policy.clone()),
                Some(PolicyEntry::Broken(broken)) => applied.broken.push(broken.name.clone()),
                None => applied.missing.push(name.clone()),
            }
        }
        applied
    }

    pub(super) fn put(&mut self, entry: PolicyEntry) {
        let name = entry.name().clone();
        self.remove(&name);
        match entry.scope() {
            Scope::Global => {
                self.global.insert(name.clone());
            }
            Scope::Namespace => {
                self.by_namespace
                    .entry(name.namespace.clone())
                    .or_default()
                    .insert(name.clone());
            }
            Scope::WorkloadSelector => {}
        }
        self.by_name.insert(name, entry);
    }

    pub(super) fn remove(&mut self, name: &PolicyName) -> bool {
        if self.by_name.remove(name).is_none() {
            return false;
        }
        self.global.remove(name);
        if let Some(names) = self.by_namespace.get_mut(&name.namespace) {
            names.remove(name);
            if names.is_empty() {
                self.by_namespace.remove(&name.namespace);
            }
        }
        true
    }
}
