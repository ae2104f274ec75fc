//! The gRPC service: who may open a stream.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream as Responses;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::resource::REQUEST_MAX;
use weft_proto::wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse};
use weft_runtime::{Shutdown, spawn};
use weft_types::NodeName;

use super::pace::Responses as Paced;
use super::registry::Subscribers;
use super::snapshot::Snapshot;
use super::stream::Stream;

/// Whose token it is.
pub(crate) trait CallerCheck: Send + Sync + 'static {
    /// The token of a call; the message says what is wrong with it and must not repeat it.
    fn bearer(&self, metadata: &tonic::metadata::MetadataMap) -> Result<String, &'static str>;
    /// The node that the token belongs to.
    fn node_of(&self, token: &str) -> Option<NodeName>;
    /// Wakes up whenever tokens have changed.
    fn changes(&self) -> watch::Receiver<()>;
}

/// What happens, for metrics. Must not block.
pub(crate) trait PublishEvents: Send + Sync + 'static {
    /// A response was sent.
    fn pushed(&self, type_url: &str);
    /// A response was rejected.
    fn rejected(&self, type_url: &str);
}

/// Responses that wait for a slow reader beside those in the connection's own buffers.
const RESPONSES_MAX: usize = 1;

/// The service.
pub(crate) struct Ads {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) callers: Arc<dyn CallerCheck>,
    pub(crate) events: Arc<dyn PublishEvents>,
    pub(crate) subscribers: Subscribers,
    pub(crate) shutdown: Shutdown,
}

impl Ads {
    /// The service, ready for a tonic server.
    pub(crate) fn service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(REQUEST_MAX)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream =
        Pin<Box<dyn Responses<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = Paced;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("use DeltaAggregatedResources"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let token = self
            .callers
            .bearer(request.metadata())
            .map_err(Status::unauthenticated)?;
        let remote = request.remote_addr().map(|address| address.to_string());
        let remote = remote.unwrap_or_default();
        let Some(node) = self.callers.node_of(&token) else {
            tracing::warn!(remote, "subscriber with an unknown token refused");
            return Err(Status::unauthenticated("unknown token"));
        };
        let Some(place) = self.subscribers.join(&node, remote) else {
            let message = format!("node {node} has too many streams open");
            return Err(Status::resource_exhausted(message));
        };
        let (outgoing, responses) = mpsc::channel(RESPONSES_MAX);
        let stream = Stream {
            node,
            token,
            place,
            snapshots: self.snapshots.clone(),
            callers: Arc::clone(&self.callers),
            events: Arc::clone(&self.events),
            outgoing,
            subscriptions: BTreeMap::new(),
            nonce: 0,
        };
        let task = stream.run(self.shutdown.clone(), request.into_inner());
        spawn(&self.shutdown, "subscriber", task);
        Ok(Response::new(Paced::new(responses)))
    }
}
