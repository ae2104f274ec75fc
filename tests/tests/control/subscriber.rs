//! A client of the control plane that counts what it is sent and keeps nothing but versions: many of them fit into one test.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Streaming};
use weft_config::ConfigSettings;
use weft_proto::Message as _;
use weft_proto::resource::{ADDRESS, AUTHORIZATION, MESSAGE_MAX, SETTINGS};
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// Versions by name, of each type.
pub(crate) type Versions = BTreeMap<&'static str, BTreeMap<String, String>>;

/// One stream.
pub(crate) struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

/// One response.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) at: Instant,
    pub(crate) type_url: String,
    pub(crate) bytes: usize,
    /// Names with versions; a removed one has none.
    pub(crate) names: Vec<(String, Option<String>)>,
}

impl Subscriber {
    /// Opens a stream that wants everything but what it has.
    pub(crate) async fn open(settings: &ConfigSettings, has: &Versions) -> Self {
        let root = std::fs::read(&settings.root_cert).unwrap();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root));
        let channel = Channel::from_shared(settings.controller.clone()).unwrap();
        let channel = channel.tls_config(tls).unwrap().connect().await.unwrap();
        let client = AggregatedDiscoveryServiceClient::new(channel);
        let mut client = client.max_decoding_message_size(MESSAGE_MAX);
        let (requests, outgoing) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        let token = std::fs::read_to_string(&settings.token).unwrap();
        let header = format!("Bearer {}", token.trim()).parse().unwrap();
        request.metadata_mut().insert("authorization", header);
        for type_url in [SETTINGS, AUTHORIZATION, ADDRESS] {
            let first = DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                initial_resource_versions: has
                    .get(type_url)
                    .map(|versions| versions.clone().into_iter().collect())
                    .unwrap_or_default(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(first).await.unwrap();
        }
        let responses = client.delta_aggregated_resources(request).await.unwrap();
        Self {
            requests,
            responses: responses.into_inner(),
        }
    }

    /// The next response, which it accepts.
    pub(crate) async fn next(&mut self) -> Told {
        let response = self
            .responses
            .message()
            .await
            .unwrap()
            .expect("an open stream");
        let at = Instant::now();
        let accepted = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(accepted).await.unwrap();
        let bytes = response.encoded_len();
        let changed = response.resources.into_iter();
        let changed = changed.map(|resource| (resource.name, Some(resource.version)));
        let removed = response
            .removed_resources
            .into_iter()
            .map(|name| (name, None));
        Told {
            at,
            type_url: response.type_url,
            bytes,
            names: changed.chain(removed).collect(),
        }
    }

    /// The answers to the three requests that opened the stream.
    pub(crate) async fn first(&mut self) -> Vec<Told> {
        vec![self.next().await, self.next().await, self.next().await]
    }
}
