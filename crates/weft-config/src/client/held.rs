//! What was received so far, with the version of each resource: the memory that outlives a stream.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::{debug, warn};
use weft_proto::ConvertError;
use weft_proto::wire::discovery::{DeltaDiscoveryResponse, Resource};

use super::State;
use crate::disk::{self, Versions};
use crate::snapshot::Origin;
use crate::status::SharedStatus;

/// Resources between two chances for other tasks of the thread: about a millisecond of work.
const RESOURCES_PER_TURN: usize = 64;
/// Refused resources named in one NACK; the rest is counted, so that a NACK stays one line of log.
const NACK_NAMES_MAX: usize = 10;

/// A state and the versions of what it holds.
pub(super) struct Held<S: State> {
    state: S,
    versions: HashMap<&'static str, Versions>,
    status: SharedStatus,
    origin: Origin,
}

impl<S: State> Held<S> {
    pub(super) fn new(state: S, status: SharedStatus) -> Self {
        Self {
            state,
            versions: HashMap::new(),
            status,
            origin: Origin::Empty,
        }
    }

    pub(super) fn state(&self) -> &S {
        &self.state
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// What to tell the server at the start of a stream.
    pub(super) fn versions(&self, url: &str) -> Versions {
        self.versions.get(url).cloned().unwrap_or_default()
    }

    /// Takes a resource from disk. One that is not understood any more comes again from the controller.
    pub(super) fn restore(&mut self, resource: &Resource) {
        let url = resource.resource.as_ref().map(|any| any.type_url.clone());
        if let Err(error) = self.put(&url.unwrap_or_default(), resource) {
            debug!(%error, "skipped a resource on disk");
        }
    }

    /// Takes a whole response; gives the text of a NACK if any of it was refused.
    pub(super) async fn apply(&mut self, response: &DeltaDiscoveryResponse) -> Option<String> {
        let url = response.type_url.as_str();
        let mut refused: Vec<String> = Vec::new();
        let mut refused_more = 0usize;
        for (turn, resource) in response.resources.iter().enumerate() {
            if turn % RESOURCES_PER_TURN == RESOURCES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            match self.put(url, resource) {
                Ok(()) => self.status.accepted(&resource.name),
                Err(error) => {
                    let reason = error.to_string();
                    warn!(resource = resource.name, reason, "refused a resource");
                    self.status.rejected(&resource.name, &reason);
                    if refused.len() < NACK_NAMES_MAX {
                        refused.push(reason);
                    } else {
                        refused_more += 1;
                    }
                }
            }
        }
        for name in &response.removed_resources {
            self.state.remove(url, name);
            self.status.accepted(name);
            if let Some(versions) = self.versions.get_mut(url) {
                versions.remove(name.as_str());
            }
        }
        if refused.is_empty() {
            return None;
        }
        if refused_more > 0 {
            refused.push(format!("and {refused_more} more"));
        }
        Some(refused.join("; "))
    }

    /// Shows what is held to the readers. Nothing is shown while it is incomplete and nothing came before.
    pub(super) fn publish(&mut self, origin: Origin) {
        self.origin = origin;
        if origin != Origin::Empty {
            self.state.publish(origin);
        }
    }

    /// A copy for the disk.
    pub(super) fn job(&self) -> Arc<disk::Job<S::Image>> {
        disk::Job::new(self.state.image(), self.versions.clone())
    }

    fn put(&mut self, url: &str, resource: &Resource) -> Result<(), ConvertError> {
        let outcome = self.state.put(url, resource);
        let kinds = self.state.kinds();
        if let Some(kind) = kinds.iter().find(|kind| kind.url == url) {
            let version = match &outcome {
                Ok(()) => resource.version.as_str(),
                // Named with a version that matches nothing: the server sends it again on a new stream,
                // and still tells when it is gone.
                Err(_) => "",
            };
            let versions = self.versions.entry(kind.url).or_default();
            versions.insert(resource.name.as_str().into(), version.into());
        }
        outcome
    }
}
