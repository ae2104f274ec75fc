//! Takes a copy of what a control plane serves to one token.
//!
//! In: its address, its root certificate, a token. Out: every resource of every type that node programs subscribe to.

use anyhow::{Context as _, Result, bail};
use tokio_stream::StreamExt as _;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use weft_proto::resource::{ADDRESS, AUTHORIZATION, ENROLLMENT, MESSAGE_MAX, NONCE_MORE, SETTINGS};
use weft_proto::wire::discovery::DeltaDiscoveryRequest;
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use super::Resources;

const TYPES: [&str; 4] = [ADDRESS, AUTHORIZATION, ENROLLMENT, SETTINGS];

/// Asks `address` (`https://HOST:PORT`) for everything that it serves to `token`.
pub async fn copy(address: &str, root_pem: &str, token: &str) -> Result<Resources> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(root_pem));
    let channel = Channel::from_shared(address.to_owned())?
        .tls_config(tls)?
        .connect()
        .await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let (requests, outbox) = tokio::sync::mpsc::channel(TYPES.len());
    for type_url in TYPES {
        let subscription = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(subscription).await?;
    }
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(outbox));
    let bearer: MetadataValue<Ascii> = format!("Bearer {token}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let mut responses = client
        .delta_aggregated_resources(request)
        .await?
        .into_inner();
    let mut all = Resources::default();
    let mut missing: Vec<&str> = TYPES.to_vec();
    while !missing.is_empty() {
        let Some(response) = responses.next().await else {
            bail!("the stream ended before {missing:?} came");
        };
        let response = response?;
        for resource in response.resources {
            let body = resource
                .resource
                .with_context(|| format!("{} is empty", resource.name))?;
            all.put(&resource.name, body);
        }
        if !response.nonce.ends_with(NONCE_MORE) {
            missing.retain(|type_url| *type_url != response.type_url);
        }
    }
    drop(requests);
    Ok(all)
}
