//! A caller of the control plane that says what it likes: any token, any node name, any identity.
//!
//! In: an address, a root certificate, header values as they shall stand on the wire. Out: what came back, or the gRPC code
//! of the refusal with its message. Not here: being polite about it (`weft-identity`, `weft-config`).

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio_stream::StreamExt as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status};
use weft_proto::resource::{MESSAGE_MAX, NONCE_MORE};
use weft_proto::wire::ca::IstioCertificateRequest;
use weft_proto::wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, Node};
use weft_proto::{Struct, Value, value};

pub use tonic::Code;

/// Longest time to an answer, which takes milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A refusal: code and message.
pub type Refusal = (Code, String);

/// A connection over which anything may be asked.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
}

/// A subscription to one type.
#[derive(Clone, Debug, Default)]
pub struct Subscribe<'a> {
    /// What the caller says of itself.
    pub node: &'a str,
    /// The type.
    pub type_url: &'a str,
    /// Names; none for all.
    pub names: &'a [&'a str],
}

// === impl Caller ===

impl Caller {
    /// Connects to `https://HOST:PORT`.
    pub async fn connect(address: &str, root_pem: &str) -> Result<Self> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root_pem));
        let channel = Channel::from_shared(address.to_owned())?
            .tls_config(tls)?
            .connect()
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        Ok(Self { channel })
    }

    /// Asks for a certificate; `authorization` holds one value for each header of that name.
    pub async fn certificate(
        &self,
        authorization: &[&str],
        identity: &str,
        csr: &str,
    ) -> Result<Vec<String>, Refusal> {
        let kind = value::Kind::StringValue(identity.to_owned());
        let wanted = Value { kind: Some(kind) };
        let message = IstioCertificateRequest {
            csr: csr.to_owned(),
            validity_duration: 3600,
            metadata: Some(Struct {
                fields: [("ImpersonatedIdentity".to_owned(), wanted)].into(),
            }),
        };
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = client.create_certificate(bearing(authorization, message)?);
        let answer = limited(answer).await?;
        Ok(answer.into_inner().cert_chain)
    }

    /// The names of what a subscription is given first.
    pub async fn subscribe(
        &self,
        authorization: &[&str],
        wanted: &Subscribe<'_>,
    ) -> Result<Vec<String>, Refusal> {
        let subscription = DeltaDiscoveryRequest {
            node: Some(Node {
                id: wanted.node.to_owned(),
                ..Node::default()
            }),
            type_url: wanted.type_url.to_owned(),
            resource_names_subscribe: wanted.names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        // Open until the answer is here: a client that leaves is told nothing.
        let (requests, outbox) = tokio::sync::mpsc::channel(1);
        let full = |_| (Code::Internal, "the outbox is full".to_owned());
        requests.send(subscription).await.map_err(full)?;
        let stream = tokio_stream::wrappers::ReceiverStream::new(outbox);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_MAX);
        let answer = client.delta_aggregated_resources(bearing(authorization, stream)?);
        let mut responses = limited(answer).await?.into_inner();
        let mut names = Vec::new();
        loop {
            let next = tokio::time::timeout(ANSWER_LIMIT, responses.next());
            let next = next.await.map_err(|_| late())?;
            let ended = || {
                (
                    Code::Unknown,
                    "the stream ended without an answer".to_owned(),
                )
            };
            let response = next.ok_or_else(ended)?.map_err(refusal)?;
            names.extend(response.resources.into_iter().map(|resource| resource.name));
            if !response.nonce.ends_with(NONCE_MORE) {
                return Ok(names);
            }
        }
    }
}

async fn limited<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Refusal> {
    let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await;
    answer.map_err(|_| late())?.map_err(refusal)
}

fn bearing<T>(authorization: &[&str], message: T) -> Result<Request<T>, Refusal> {
    let mut request = Request::new(message);
    for header in authorization {
        let value: MetadataValue<Ascii> = header
            .parse()
            .map_err(|_| (Code::InvalidArgument, "no header value".to_owned()))?;
        request.metadata_mut().append("authorization", value);
    }
    Ok(request)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the form that map_err asks for"
)]
fn refusal(status: Status) -> Refusal {
    (status.code(), status.message().to_owned())
}

fn late() -> Refusal {
    let limit = ANSWER_LIMIT.as_secs();
    (Code::DeadlineExceeded, format!("no answer in {limit} s"))
}
