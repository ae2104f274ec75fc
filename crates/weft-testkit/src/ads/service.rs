//! The two gRPC services.
//!
//! In: a stream of subscriptions, or a CSR. Out: what is configured and has not been sent yet on that stream, or a chain.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use weft_identity::Authority;
use weft_proto::wire::ca::istio_certificate_service_server::IstioCertificateService;
use weft_proto::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::wire::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use weft_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use weft_proto::{Any, value};

use super::Configuration;

pub(super) struct Service {
    configuration: watch::Sender<Configuration>,
    authority: Authority,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    pub(super) fn new(configuration: watch::Sender<Configuration>, authority: Authority) -> Self {
        Self {
            configuration,
            authority,
        }
    }

    fn token(&self, metadata: &MetadataMap) -> Result<String, Status> {
        let header = metadata.get("authorization");
        let token = header
            .and_then(|header| header.to_str().ok()?.strip_prefix("Bearer "))
            .unwrap_or_default();
        if self.configuration.borrow().tokens.contains_key(token) {
            return Ok(token.to_owned());
        }
        Err(Status::unauthenticated("unknown token"))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let token = self.token(request.metadata())?;
        let conversation = Conversation {
            token,
            requests: request.into_inner(),
            configuration: self.configuration.subscribe(),
            sent: BTreeMap::new(),
            nonce: 0,
            due: BTreeSet::new(),
        };
        let responses = stream(conversation);
        Ok(Response::new(Box::pin(responses)))
    }
}

/// The responses as a stream: each poll of it asks the conversation for its next one.
fn stream(
    conversation: Conversation,
) -> impl Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let talk = async move {
        let mut conversation = conversation;
        while let Some(response) = conversation.next().await {
            if sender.send(response).await.is_err() {
                return;
            }
        }
    };
    Driven {
        receiver: tokio_stream::wrappers::ReceiverStream::new(receiver),
        talk: Some(Box::pin(talk)),
    }
}

/// A channel's receiving end that drives its own sender, so that no task is left behind when the stream is dropped.
struct Driven {
    receiver: tokio_stream::wrappers::ReceiverStream<Result<DeltaDiscoveryResponse, Status>>,
    talk: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream for Driven {
    type Item = Result<DeltaDiscoveryResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        if let Some(talk) = &mut self.talk
            && talk.as_mut().poll(cx).is_ready()
        {
            self.talk = None;
        }
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}

/// One stream of one client.
struct Conversation {
    token: String,
    requests: Streaming<DeltaDiscoveryRequest>,
    configuration: watch::Receiver<Configuration>,
    /// By subscribed type: what was sent, by name; nothing before the first answer.
    sent: BTreeMap<String, Option<BTreeMap<String, Any>>>,
    nonce: u64,
    /// Types that may have something to say.
    due: BTreeSet<String>,
}

impl Conversation {
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        loop {
            while let Some(type_url) = self.due.pop_first() {
                if let Some(response) = self.difference(&type_url) {
                    return Some(Ok(response));
                }
            }
            tokio::select! {
                request = self.requests.next() => match request {
                    Some(Ok(request)) => self.subscribe(request),
                    Some(Err(status)) => return Some(Err(status)),
                    None => return None,
                },
                changed = self.configuration.changed() => {
                    changed.ok()?;
                    self.due.extend(self.sent.keys().cloned());
                }
            }
        }
    }

    fn subscribe(&mut self, request: DeltaDiscoveryRequest) {
        if self.sent.contains_key(&request.type_url) {
            return;
        }
        // The first of its type is a subscription, all others acknowledge. Its answer is due even when it is empty: that is
        // what makes a client complete.
        self.sent.insert(request.type_url.clone(), None);
        self.due.insert(request.type_url);
    }

    fn difference(&mut self, type_url: &str) -> Option<DeltaDiscoveryResponse> {
        let configuration = self.configuration.borrow_and_update();
        let own = configuration.tokens.get(&self.token);
        let all = configuration
            .everyone
            .0
            .iter()
            .chain(own.into_iter().flat_map(|own| &own.0));
        let now: BTreeMap<String, Any> = all
            .filter(|((of, _), _)| of == type_url)
            .map(|((_, name), body)| (name.clone(), body.clone()))
            .collect();
        let before = self.sent.get_mut(type_url)?;
        let first = before.is_none();
        let sent = before.get_or_insert_default();
        let resources: Vec<Resource> = now
            .iter()
            .filter(|(name, body)| sent.get(*name) != Some(*body))
            .map(|(name, body)| Resource {
                name: name.clone(),
                resource: Some(body.clone()),
                version: String::new(),
                ..Resource::default()
            })
            .collect();
        let removed: Vec<String> = sent
            .keys()
            .filter(|name| !now.contains_key(*name))
            .cloned()
            .collect();
        if resources.is_empty() && removed.is_empty() && !first {
            return None;
        }
        *sent = now;
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: self.nonce.to_string(),
            resources,
            removed_resources: removed,
            ..DeltaDiscoveryResponse::default()
        })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.token(request.metadata())?;
        let request = request.into_inner();
        let wanted = request.metadata.unwrap_or_default();
        let wanted = wanted
            .fields
            .get("ImpersonatedIdentity")
            .and_then(|value| value.kind.as_ref());
        let Some(value::Kind::StringValue(identity)) = wanted else {
            return Err(Status::invalid_argument("no ImpersonatedIdentity"));
        };
        let identity = identity
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let ttl = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or(0));
        let cert_chain = self
            .authority
            .sign(&request.csr, &identity, ttl)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}
