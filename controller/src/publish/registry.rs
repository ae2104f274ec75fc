//! Who is subscribed, for the admin socket and the limit on streams of one node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use weft_types::NodeName;

use super::pace::{Pace, Turn};
use super::subscription::Subscription;
use crate::limits;

/// Streams of one node at once: agent and proxy, twice during an upgrade, and as many again for tools.
const STREAMS_OF_NODE_MAX: usize = 8;

/// All streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribers {
    state: Arc<Mutex<State>>,
    pace: Pace,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    streams: BTreeMap<u64, StreamState>,
}

/// One stream, as the admin socket shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamState {
    node: String,
    /// What the client calls itself.
    client: String,
    remote: String,
    types: BTreeMap<String, TypeState>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TypeState {
    wildcard: bool,
    names: usize,
    resources: usize,
    sent: u64,
    accepted: u64,
    rejected: u64,
    last_rejection: Option<String>,
}

/// A place among the streams, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    subscribers: Subscribers,
}

impl Subscribers {
    /// Takes a place; `None` when the node has enough.
    pub(super) fn join(&self, node: &NodeName, remote: String) -> Option<Place> {
        let mut state = self.lock();
        let of_node = |stream: &&StreamState| stream.node == node.as_str();
        if state.streams.values().filter(of_node).count() >= STREAMS_OF_NODE_MAX {
            limits::NODE_STREAMS.reached();
            return None;
        }
        let id = state.next;
        state.next += 1;
        let stream = StreamState {
            node: node.to_string(),
            client: String::new(),
            remote,
            types: BTreeMap::new(),
        };
        state.streams.insert(id, stream);
        Some(Place {
            id,
            subscribers: self.clone(),
        })
    }

    /// Streams that are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().streams.len()
    }

    /// All streams as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let streams: Vec<StreamState> = self.lock().streams.values().cloned().collect();
        serde_json::json!({ "subscribers": streams })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until a response of this size may be built.
    pub(super) async fn turn(&self, bytes: usize) -> Turn {
        self.subscribers.pace.turn(bytes).await
    }

    pub(super) fn name(&self, client: &str) {
        if let Some(stream) = self.subscribers.lock().streams.get_mut(&self.id) {
            client.clone_into(&mut stream.client);
        }
    }

    pub(super) fn show(&self, type_url: &str, subscription: &Subscription) {
        let acks = &subscription.acks;
        let shown = TypeState {
            wildcard: subscription.is_wildcard(),
            names: subscription.names(),
            resources: subscription.resources(),
            sent: acks.sent,
            accepted: acks.accepted,
            rejected: acks.rejected,
            last_rejection: acks.error.clone(),
        };
        if let Some(stream) = self.subscribers.lock().streams.get_mut(&self.id) {
            stream.types.insert(type_url.to_owned(), shown);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.subscribers.lock().streams.remove(&self.id);
    }
}
