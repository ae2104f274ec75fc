//! Selectors by label, so that a member finds those that select it without asking all.
//!
//! Each selector is kept under one of its labels, its anchor: the one that fewest others are kept under.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use weft_types::ResourceName;

use super::members::forget;

/// What an object selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selector {
    /// In this namespace; in all when absent.
    pub(super) namespace: Option<Arc<str>>,
    /// Never empty.
    pub(super) labels: BTreeMap<String, String>,
}

/// Selectors of objects of one kind.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    of: HashMap<ResourceName, (Selector, u64)>,
    by_anchor: HashMap<u64, BTreeSet<ResourceName>>,
    hasher: RandomState,
}

/// Whether all labels of a selector are there.
pub(super) fn selects(
    selector: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

impl Selectors {
    /// Sets or removes an object's selector; returns the one before.
    pub(super) fn set(
        &mut self,
        name: &ResourceName,
        selector: Option<Selector>,
    ) -> Option<Selector> {
        let before = self.of.remove(name);
        if let Some((_, anchor)) = &before {
            forget(&mut self.by_anchor, anchor, name);
        }
        if let Some(selector) = selector {
            let namespace = selector.namespace.as_deref();
            let anchors = selector
                .labels
                .iter()
                .map(|label| self.hasher.hash_one((namespace, label)));
            let kept = |anchor: &u64| self.by_anchor.get(anchor).map_or(0, BTreeSet::len);
            let anchor = anchors.min_by_key(kept).expect("a selector has labels");
            self.by_anchor
                .entry(anchor)
                .or_default()
                .insert(name.clone());
            self.of.insert(name.clone(), (selector, anchor));
        }
        before.map(|(selector, _)| selector)
    }

    /// Whether the object has a selector.
    pub(super) fn contains(&self, name: &ResourceName) -> bool {
        self.of.contains_key(name)
    }

    /// Objects that select a member with these labels, in the order of their names.
    pub(super) fn selecting(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> BTreeSet<ResourceName> {
        let mut names = BTreeSet::new();
        for scope in [Some(namespace), None] {
            for label in labels {
                let anchor = self.hasher.hash_one((scope, label));
                for name in self.by_anchor.get(&anchor).into_iter().flatten() {
                    let (selector, _) = &self.of[name];
                    if selector.namespace.as_deref() == scope && selects(&selector.labels, labels) {
                        names.insert(name.clone());
                    }
                }
            }
        }
        names
    }
}
