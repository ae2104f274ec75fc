//! Members by label, so that a selector looks at those it may select and not at all.
//!
//! In: members. Out: positions of candidates, a few too many when hashes collide: the caller compares labels anyway.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};

use super::member::Member;

#[derive(Debug)]
pub(super) struct ByLabel {
    hasher: RandomState,
    positions: HashMap<u64, Vec<usize>>,
}

impl ByLabel {
    pub(super) fn new(members: &[Member]) -> Self {
        let mut this = Self {
            hasher: RandomState::new(),
            positions: HashMap::new(),
        };
        for (position, member) in members.iter().enumerate() {
            for label in &member.labels {
                let hash = this.hasher.hash_one(label);
                this.positions.entry(hash).or_default().push(position);
            }
        }
        this
    }

    /// Positions of members that have the rarest of the labels. A selector without labels selects nothing here.
    pub(super) fn candidates(&self, selector: &BTreeMap<String, String>) -> &[usize] {
        let of_label = |label| {
            let positions = self.positions.get(&self.hasher.hash_one(label));
            positions.map_or(&[][..], Vec::as_slice)
        };
        selector
            .iter()
            .map(of_label)
            .min_by_key(|positions| positions.len())
            .unwrap_or_default()
    }
}
