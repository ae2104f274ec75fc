//! One subscriber's interest in one type, as a pure state machine.
//!
//! In: requests and snapshots. Out: what to tell. No I/O.
//!
//! ```text
//! first request: nothing named       -> everything (wildcard)
//!                "*" among the names -> everything
//!                names               -> these and what belongs to them (on demand), and the node's own workloads
//!                "*" joins and leaves, with versions of what it kept -> it goes on wanting what it kept
//! later:         names join and leave; "*" joins and leaves; a nonce is an ACK, with an error a NACK
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use weft_proto::resource;
use weft_proto::wire::discovery::DeltaDiscoveryRequest;
use weft_types::NodeName;

use super::snapshot::{Entry, Snapshot, Table};

const WILDCARD: &str = "*";

/// What one subscriber wants and has of one type.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    type_url: String,
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client has, as far as it was told.
    told: Table,
    /// Versions that the client kept from before, until the first answer.
    kept: BTreeMap<String, String>,
    /// Names that must be answered now, even with "there is none".
    asked: BTreeSet<String>,
    /// Whether it was answered at all: the first answer may be empty, but must come.
    answered: bool,
    pub(super) acks: Acks,
}

/// What became of responses.
#[derive(Clone, Debug, Default)]
pub(super) struct Acks {
    pub(super) sent: u64,
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// The last NACK's words, until the next ACK.
    pub(super) error: Option<String>,
}

/// What to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) changed: Vec<Arc<Entry>>,
    pub(super) removed: Vec<String>,
}

impl Delta {
    /// About how large it is on the wire.
    pub(super) fn bytes(&self) -> usize {
        let bodies = self.changed.iter().map(|entry| entry.body.value.len());
        bodies.sum()
    }
}

/// What a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ask,
    Accepted,
    Rejected,
}

impl Subscription {
    /// The subscription that a first request opens.
    pub(super) fn open(request: DeltaDiscoveryRequest) -> Self {
        let mut subscription = Self {
            type_url: request.type_url.clone(),
            wildcard: request.resource_names_subscribe.is_empty(),
            kept: request.initial_resource_versions.clone(),
            ..Self::default()
        };
        subscription.change_names(request);
        let kept = &subscription.kept;
        if !subscription.wildcard {
            // A client on demand that comes back says what it wants by what it has (Istio's node proxy does).
            subscription.names.extend(kept.keys().cloned());
        }
        // Names that the client kept need no answer of their own: their versions decide.
        subscription.asked.retain(|name| !kept.contains_key(name));
        subscription
    }

    /// Takes a later request.
    pub(super) fn take(&mut self, request: DeltaDiscoveryRequest) -> Kind {
        let kind = match (&request.error_detail, request.response_nonce.is_empty()) {
            (Some(status), _) => {
                self.acks.rejected += 1;
                self.acks.error = Some(status.message.clone());
                Kind::Rejected
            }
            (None, false) => {
                self.acks.accepted += 1;
                self.acks.error = None;
                Kind::Accepted
            }
            (None, true) => Kind::Ask,
        };
        self.change_names(request);
        kind
    }

    fn change_names(&mut self, request: DeltaDiscoveryRequest) {
        for name in request.resource_names_subscribe {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                // The client may have dropped it since: it is told again.
                self.told.remove(name.as_str());
                self.asked.insert(name.clone());
                self.names.insert(name);
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            } else {
                self.names.remove(&name);
                self.asked.remove(&name);
                self.told.remove(name.as_str());
            }
        }
    }

    /// What the subscriber must be told so that it is up to date with the snapshot; `None` when it is.
    pub(super) fn update(&mut self, snapshot: &Snapshot, node: &NodeName) -> Option<Delta> {
        let table = snapshot.table(&self.type_url, node).unwrap_or_default();
        let mut delta = Delta::default();
        let wanted = self.wanted(snapshot, &table, node, &mut delta);
        for (name, version) in std::mem::take(&mut self.kept) {
            match wanted.get(name.as_str()) {
                Some(entry) if *entry.version == *version => {
                    self.told.insert(Arc::clone(&entry.name), Arc::clone(entry));
                }
                // Told below as changed.
                Some(_) => {}
                None => self.answer_alias(snapshot, &table, &name, &version, &mut delta),
            }
        }
        for item in self.told.diff(&wanted) {
            match item {
                DiffItem::Add(_, entry)
                | DiffItem::Update {
                    new: (_, entry), ..
                } => {
                    delta.changed.push(Arc::clone(entry));
                }
                DiffItem::Remove(name, _) => delta.removed.push(name.to_string()),
            }
        }
        delta.removed.sort();
        delta.removed.dedup();
        self.told = wanted;
        let first = !std::mem::replace(&mut self.answered, true);
        (first || delta != Delta::default()).then_some(delta)
    }

    /// Tells what a name stands for that is no resource's own, unless the client has that version, or that there is none.
    fn answer_alias(
        &self,
        snapshot: &Snapshot,
        table: &Table,
        name: &str,
        version: &str,
        delta: &mut Delta,
    ) {
        let entry = snapshot.aliased(table, name).filter(|_| !self.wildcard);
        match entry {
            Some(entry) if *entry.version == *version => {}
            Some(entry) => delta.changed.push(entry),
            None => delta.removed.push(name.to_owned()),
        }
    }

    fn wanted(
        &mut self,
        snapshot: &Snapshot,
        table: &Table,
        node: &NodeName,
        delta: &mut Delta,
    ) -> Table {
        let asked = std::mem::take(&mut self.asked);
        if self.wildcard {
            let unknown = asked
                .into_iter()
                .filter(|name| !table.contains_key(name.as_str()));
            delta.removed.extend(unknown);
            return table.clone();
        }
        let mut wanted = Table::new();
        if self.type_url == resource::ADDRESS {
            // A proxy on demand asks for what its pods dial and waits to be told of the pods themselves.
            for entry in snapshot.of_node(table, node) {
                wanted.insert(Arc::clone(&entry.name), entry);
            }
        }
        for name in &self.names {
            if asked.contains(name) && !table.contains_key(name.as_str()) {
                self.answer_alias(snapshot, table, name, "", delta);
            }
            for entry in snapshot.resolve(table, name) {
                wanted.insert(Arc::clone(&entry.name), entry);
            }
        }
        wanted
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    pub(super) fn resources(&self) -> usize {
        self.told.len()
    }
}
