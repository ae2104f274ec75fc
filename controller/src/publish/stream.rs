//! One stream: requests in, responses out, until either side ends it.
//!
//! The task owns the stream's state. It waits for its own reader only: snapshots come by `watch`, which keeps the newest and never waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use weft_proto::{Message, resource};
use weft_runtime::Shutdown;
use weft_types::NodeName;

use super::pace::Paced;
use super::registry::Place;
use super::server::{CallerCheck, PublishEvents};
use super::snapshot::{Entry, Snapshot};
use super::subscription::{Delta, Kind, Subscription};
use crate::limits;

/// Bytes of resources in one message: what clients accept, with room for the last resource. A delta is cut only where it must be.
const CHUNK_BYTES: usize = resource::MESSAGE_MAX / 4 * 3;
/// Bytes that a removed name or a resource's envelope adds to a message, beside the name.
const ENVELOPE_BYTES: usize = 64;
/// Types of one stream: there are four, and room for those of newer clients.
const TYPES_MAX: usize = 16;
/// Names of one subscription: every address of a mesh ten times the largest we aim at.
const NAMES_MAX: usize = 1_000_000;

pub(super) type Outgoing = mpsc::Sender<Paced>;

/// Everything that a stream needs.
pub(super) struct Stream {
    pub(super) node: NodeName,
    pub(super) token: String,
    pub(super) place: Place,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) callers: Arc<dyn CallerCheck>,
    pub(super) events: Arc<dyn PublishEvents>,
    pub(super) outgoing: Outgoing,
    /// In the order of their first request; see [`ORDER`] for the order of answers.
    pub(super) subscriptions: BTreeMap<String, Subscription>,
    pub(super) nonce: u64,
}

/// Policies before the workloads that name them, so that these need not hold a connection for one on its way.
const ORDER: [&str; 4] = [
    resource::SETTINGS,
    resource::AUTHORIZATION,
    resource::ADDRESS,
    resource::ENROLLMENT,
];

impl Stream {
    /// Serves until the client leaves, its token is withdrawn, or the program drains.
    pub(super) async fn run(
        mut self,
        shutdown: Shutdown,
        mut incoming: Streaming<DeltaDiscoveryRequest>,
    ) {
        let mut withdrawn = self.callers.changes();
        loop {
            let outcome = tokio::select! {
                () = shutdown.draining() => Err(Status::unavailable("the controller is shutting down")),
                _ = withdrawn.changed() => self.check_token(),
                request = incoming.message() => match request {
                    Ok(Some(request)) => self.take(request).await,
                    // The client has left; there is nobody to tell.
                    Ok(None) | Err(_) => return,
                },
                changed = self.snapshots.changed() => match changed {
                    Ok(()) => self.update_all().await,
                    Err(_) => Err(Status::unavailable("the controller is shutting down")),
                },
            };
            if let Err(status) = outcome {
                tracing::info!(node = %self.node, code = ?status.code(), reason = status.message(), "subscriber dismissed");
                // Without waiting: a reader that is stuck is dropped all the same.
                let _ = self.outgoing.try_send((Err(status), None));
                return;
            }
        }
    }

    fn check_token(&self) -> Result<(), Status> {
        if self.callers.node_of(&self.token).as_ref() == Some(&self.node) {
            return Ok(());
        }
        Err(Status::unauthenticated("the token has been withdrawn"))
    }

    async fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node {
            self.place.name(&node.id);
        }
        let type_url = request.type_url.clone();
        self.check_request(&request)?;
        match self.subscriptions.get_mut(&type_url) {
            None => {
                if self.subscriptions.len() >= TYPES_MAX {
                    limits::SUBSCRIPTION_TYPES.reached();
                    return Err(Status::resource_exhausted("too many types on one stream"));
                }
                if !ORDER.contains(&type_url.as_str()) {
                    tracing::warn!(node = %self.node, type_url, "subscriber asks for a type that is not served; it gets an empty answer");
                }
                let subscription = Subscription::open(request);
                self.subscriptions.insert(type_url.clone(), subscription);
            }
            Some(subscription) => {
                let error = request
                    .error_detail
                    .as_ref()
                    .map(|status| status.message.clone());
                if subscription.take(request) == Kind::Rejected {
                    let reason = error.unwrap_or_default();
                    tracing::warn!(node = %self.node, type_url, reason, "subscriber rejects a resource");
                    self.events.rejected(&type_url);
                }
            }
        }
        // Not marked as seen: the other types have yet to be told.
        let snapshot = Arc::clone(&self.snapshots.borrow());
        self.update(&type_url, &snapshot).await
    }

    fn check_request(&self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        let known = self
            .subscriptions
            .get(&request.type_url)
            .map_or(0, Subscription::names);
        let names = &request.resource_names_subscribe;
        if known + names.len() > NAMES_MAX || request.initial_resource_versions.len() > NAMES_MAX {
            limits::SUBSCRIPTION_NAMES.reached();
            return Err(Status::resource_exhausted(
                "too many names in one subscription",
            ));
        }
        if request.type_url != resource::ENROLLMENT {
            return Ok(());
        }
        let snapshot = self.snapshots.borrow();
        let foreign = names
            .iter()
            .find(|uid| snapshot.is_of_other_node(uid, &self.node));
        match foreign {
            Some(uid) => Err(Status::permission_denied(format!(
                "pod {uid} is not on node {}",
                self.node
            ))),
            None => Ok(()),
        }
    }

    async fn update_all(&mut self) -> Result<(), Status> {
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        for type_url in ORDER {
            self.update(type_url, &snapshot).await?;
        }
        Ok(())
    }

    async fn update(&mut self, type_url: &str, snapshot: &Snapshot) -> Result<(), Status> {
        self.check_token()?;
        let Some(subscription) = self.subscriptions.get_mut(type_url) else {
            return Ok(());
        };
        if let Some(delta) = subscription.update(snapshot, &self.node) {
            let mut turn = self.place.turn(delta.bytes()).await;
            let messages = chunks(type_url, snapshot.serial, delta, CHUNK_BYTES);
            let last = messages.len() - 1;
            for (index, mut message) in messages.into_iter().enumerate() {
                self.nonce += 1;
                // In front of what `chunks` has marked it with.
                message.nonce.insert_str(0, &self.nonce.to_string());
                subscription.acks.sent += 1;
                self.events.pushed(type_url);
                let turn = if index == last { turn.take() } else { None };
                let sent = self.outgoing.send((Ok(message), turn)).await;
                sent.map_err(|_| Status::cancelled("the client has left"))?;
            }
        }
        self.place.show(type_url, subscription);
        Ok(())
    }
}

/// A delta in as many messages as its size needs; at least one. The nonces hold only the mark that more follows.
fn chunks(type_url: &str, serial: u64, delta: Delta, limit: usize) -> Vec<DeltaDiscoveryResponse> {
    let empty = || DeltaDiscoveryResponse {
        system_version_info: serial.to_string(),
        type_url: type_url.to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    let mut messages = vec![empty()];
    let mut bytes = 0;
    let mut room = |messages: &mut Vec<DeltaDiscoveryResponse>, more: usize| {
        if bytes > 0 && bytes + more > limit {
            messages.push(empty());
            bytes = 0;
        }
        bytes += more;
        messages.len() - 1
    };
    // Removals first: an address may have moved from a removed workload to a changed one.
    for name in delta.removed {
        let last = room(&mut messages, name.len() + ENVELOPE_BYTES);
        messages[last].removed_resources.push(name);
    }
    for entry in delta.changed {
        let resource = resource_of(&entry);
        let last = room(&mut messages, resource.encoded_len() + ENVELOPE_BYTES);
        messages[last].resources.push(resource);
    }
    // A client that took half of the policies for all would allow too much.
    if let Some((_, unfinished)) = messages.split_last_mut() {
        for message in unfinished {
            resource::NONCE_MORE.clone_into(&mut message.nonce);
        }
    }
    messages
}

fn resource_of(entry: &Entry) -> Resource {
    Resource {
        version: entry.version.to_string(),
        resource: Some(entry.body.clone()),
        name: entry.name.to_string(),
        aliases: entry.aliases.clone(),
        ttl: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Delta, chunks};
    use crate::publish::snapshot::Entry;
    use std::sync::Arc;
    use weft_proto::resource::NONCE_MORE;
    use weft_proto::{Any, Message};

    #[test]
    fn a_large_delta_is_cut_into_messages_below_the_limit() {
        let entry = |index: usize| {
            Arc::new(Entry {
                name: format!("n{index}").into(),
                version: "v".into(),
                body: Any {
                    type_url: "t".to_owned(),
                    value: vec![0; 10_000],
                },
                aliases: Vec::new(),
            })
        };
        let delta = Delta {
            changed: (0..1000).map(entry).collect(),
            removed: vec!["gone".to_owned()],
        };
        let messages = chunks("t", 1, delta, 1_000_000);
        assert!(messages.len() >= 10);
        let sizes = messages.iter().map(Message::encoded_len);
        assert!(sizes.max().unwrap() <= 1_004_096);
        let total: usize = messages.iter().map(|m| m.resources.len()).sum();
        assert_eq!((total, messages[0].removed_resources.len()), (1000, 1));
        let (last, unfinished) = messages.split_last().unwrap();
        assert!(unfinished.iter().all(|m| m.nonce.ends_with(NONCE_MORE)));
        assert!(
            !last.nonce.ends_with(NONCE_MORE),
            "the last one completes the state"
        );
    }

    #[test]
    fn an_empty_delta_is_one_message() {
        let messages = chunks("t", 1, Delta::default(), 1);
        assert_eq!((messages.len(), messages[0].nonce.as_str()), (1, ""));
    }
}
