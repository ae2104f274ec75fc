//! Whose call it is and which identities it may have: what the two gRPC services ask of tokens and index.

use std::time::Duration;

use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use weft_types::{NodeName, ResourceName};

use crate::issue::{Authorizer, PodState, bearer};
use crate::publish::CallerCheck;
use crate::tokens::Tokens;
use crate::translate::IdentityHolder;
use crate::view::Views;

/// Tokens from files, pods from the newest translation.
#[derive(Clone, Debug)]
pub(crate) struct Callers {
    pub(crate) tokens: Tokens,
    pub(crate) views: Views,
}

impl CallerCheck for Callers {
    fn bearer(&self, metadata: &MetadataMap) -> Result<String, &'static str> {
        bearer(metadata).map(str::to_owned)
    }

    fn node_of(&self, token: &str) -> Option<NodeName> {
        self.tokens.node_of(token)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.tokens.changes()
    }
}

#[tonic::async_trait]
impl Authorizer for Callers {
    async fn node_of(&self, token: &str) -> Result<NodeName, String> {
        let node = self.tokens.node_of(token);
        node.ok_or_else(|| "unknown token".to_owned())
    }

    fn pods(&self, namespace: &str, service_account: &str) -> Vec<PodState> {
        let holders = self.views.holders(namespace, service_account);
        let state = |(name, holder): (ResourceName, IdentityHolder)| PodState {
            name: name.to_string(),
            node: holder.node,
            ended: holder.ended,
        };
        holders.into_iter().map(state).collect()
    }

    fn ttl_default(&self) -> Duration {
        let view = self.views.newest();
        let settings = view.map(|view| view.translation.settings.certificate_ttl);
        settings.unwrap_or_default()
    }
}
