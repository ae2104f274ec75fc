//! A subscriber that says what Istio's own node proxy says, for as long as it is not run itself in the tests.
//!
//! In: an address, a root certificate, a node's token. Out: what it holds after each response, what it was refused, and
//! certificates. As there: two subscriptions on one stream, both with the node's description; each response acknowledged by
//! type and nonce alone; versions named when it comes back; on demand "subscribe and unsubscribe everything", then names, each
//! of which it waits for under exactly that name. What it does was observed on the wire with the real program (of August
//! 2026). Not here: HBONE.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{CertificateParams, DistinguishedName, KeyIdMethod, KeyPair, SanType};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Streaming};
use weft_proto::resource::{ADDRESS, AUTHORIZATION, unpack};
use weft_proto::wire::ca::IstioCertificateRequest;
use weft_proto::wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status as WireStatus,
};
use weft_proto::wire::security::Authorization;
use weft_proto::wire::workload::{Address, Service, Workload, address};
use weft_proto::{Struct, Value, value};

/// Longest time to an answer, which takes milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Largest message that it takes.
const MESSAGE_MAX: usize = 200 << 20;
/// Lifetime that it asks for.
const CERTIFICATE_SECONDS: i64 = 24 * 3600;

/// Who it is and where it connects.
#[derive(Clone, Debug)]
pub struct AmbientOptions {
    /// `https://HOST:PORT`.
    pub address: String,
    /// PEM.
    pub root_pem: String,
    /// The node's.
    pub token: String,
    /// The node's name, for its description alone.
    pub node: String,
    /// Asks for addresses one by one.
    pub on_demand: bool,
}

/// What it holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// By uid.
    pub workloads: BTreeMap<String, Workload>,
    /// By `namespace/hostname`.
    pub services: BTreeMap<String, Service>,
    /// By name.
    pub policies: BTreeMap<String, Authorization>,
}

/// The subscriber.
pub struct Ambient {
    options: AmbientOptions,
    channel: Channel,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    held: Held,
    /// Versions by type and name.
    known: HashMap<&'static str, BTreeMap<String, String>>,
}

/// A key and a chain for it, each as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PKCS#8.
    pub key: String,
    /// Leaf and intermediates.
    pub chain: String,
    /// Root bundle.
    pub roots: String,
}

// === impl Ambient ===

impl Ambient {
    /// Connects and sends its first requests.
    pub async fn connect(options: AmbientOptions) -> Result<Self> {
        let channel = dial(&options).await?;
        let known = HashMap::new();
        let (requests, responses) = open(&options, &channel, &known).await?;
        Ok(Self {
            options,
            channel,
            requests,
            responses,
            held: Held::default(),
            known,
        })
    }

    /// What it holds.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Leaves, comes back with the versions of what it kept, and returns the first response for each type.
    pub async fn reconnect(&mut self) -> Result<Vec<DeltaDiscoveryResponse>> {
        (self.requests, self.responses) = open(&self.options, &self.channel, &self.known).await?;
        let mut first: Vec<DeltaDiscoveryResponse> = Vec::new();
        while first.len() < 2 {
            let response = self.next().await?;
            ensure!(
                first
                    .iter()
                    .all(|other| other.type_url != response.type_url),
                "a second response for {}",
                response.type_url
            );
            first.push(response);
        }
        Ok(first)
    }

    /// Takes responses until what it holds is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Held) -> bool) -> Result<()> {
        while !wanted(&self.held) {
            let next = self.next().await;
            next.with_context(|| format!("waiting for {what}; held: {:?}", self.held))?;
        }
        Ok(())
    }

    /// Asks for an address on demand and waits until it is answered under that name; true when there is one.
    pub async fn demand(&mut self, name: &str) -> Result<bool> {
        // Known without a version until it is answered, so that a new stream asks for it again.
        let known = self.known.entry(ADDRESS).or_default();
        known.entry(name.to_owned()).or_default();
        self.requests
            .send(DeltaDiscoveryRequest {
                type_url: ADDRESS.to_owned(),
                resource_names_subscribe: vec![name.to_owned()],
                ..DeltaDiscoveryRequest::default()
            })
            .await?;
        loop {
            let response = self
                .next()
                .await
                .with_context(|| format!("demanding {name}"))?;
            if response
                .removed_resources
                .iter()
                .any(|removed| removed == name)
            {
                return Ok(false);
            }
            if response
                .resources
                .iter()
                .any(|resource| resource.name == name)
            {
                return Ok(true);
            }
        }
    }

    /// Takes the next response and acknowledges it.
    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse> {
        let response = self.take().await?;
        self.answer(&response, None).await?;
        Ok(response)
    }

    /// Takes the next response and rejects it.
    pub async fn reject_next(&mut self, reason: &str) -> Result<DeltaDiscoveryResponse> {
        let response = self.take().await?;
        self.answer(&response, Some(reason)).await?;
        Ok(response)
    }

    /// A certificate for one of its pods.
    pub async fn certificate(&self, identity: &str) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        params.key_identifier_method = KeyIdMethod::Sha256;
        params.distinguished_name = DistinguishedName::new();
        let mut request = Request::new(IstioCertificateRequest {
            csr: params.serialize_request(&key)?.pem()?,
            validity_duration: CERTIFICATE_SECONDS,
            metadata: Some(words([("ImpersonatedIdentity", identity)])),
        });
        authorize(request.metadata_mut(), &self.options)?;
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = timeout(ANSWER_LIMIT, client.create_certificate(request)).await??;
        let mut chain = answer.into_inner().cert_chain;
        ensure!(chain.len() >= 2, "a leaf and a root bundle");
        let roots = chain.pop().context("there are two")?;
        Ok(Issued {
            key: key.serialize_pem(),
            chain: chain.concat(),
            roots,
        })
    }

    async fn take(&mut self) -> Result<DeltaDiscoveryResponse> {
        let response = timeout(ANSWER_LIMIT, self.responses.message())
            .await
            .context("no response in time")??
            .context("the stream has ended")?;
        let type_url = match response.type_url.as_str() {
            ADDRESS => ADDRESS,
            AUTHORIZATION => AUTHORIZATION,
            other => bail!("a response of type {other}, which nobody asked for"),
        };
        let known = self.known.entry(type_url).or_default();
        for resource in &response.resources {
            let body = resource.resource.as_ref().context("a resource is empty")?;
            self.held.put(type_url, &resource.name, body)?;
            known.insert(resource.name.clone(), resource.version.clone());
        }
        for name in &response.removed_resources {
            self.held.remove(name);
            known.remove(name);
        }
        Ok(response)
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, reason: Option<&str>) -> Result<()> {
        let error_detail = reason.map(|reason| WireStatus {
            message: reason.to_owned(),
            ..WireStatus::default()
        });
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..DeltaDiscoveryRequest::default()
        };
        Ok(self.requests.send(answer).await?)
    }
}

// === impl Held ===

impl Held {
    fn put(&mut self, type_url: &str, name: &str, body: &weft_proto::Any) -> Result<()> {
        if type_url == AUTHORIZATION {
            let policy = unpack::<Authorization>(type_url, name, body)?;
            self.policies.insert(name.to_owned(), policy);
            return Ok(());
        }
        // By what is in it: the name may be the one that it was asked for by.
        match unpack::<Address>(type_url, name, body)?.r#type {
            Some(address::Type::Workload(workload)) => {
                self.workloads.insert(workload.uid.clone(), workload);
            }
            Some(address::Type::Service(service)) => {
                let name = format!("{}/{}", service.namespace, service.hostname);
                self.services.insert(name, service);
            }
            None => bail!("{name} is neither a workload nor a service"),
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) {
        self.workloads.remove(name);
        self.services.remove(name);
        self.policies.remove(name);
    }
}

async fn dial(options: &AmbientOptions) -> Result<Channel> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&options.root_pem));
    let channel = Channel::from_shared(options.address.clone())?.tls_config(tls)?;
    Ok(channel.connect().await?)
}

type Stream = (
    mpsc::Sender<DeltaDiscoveryRequest>,
    Streaming<DeltaDiscoveryResponse>,
);

async fn open(
    options: &AmbientOptions,
    channel: &Channel,
    known: &HashMap<&'static str, BTreeMap<String, String>>,
) -> Result<Stream> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_MAX);
    let (requests, outbox) = mpsc::channel(100);
    // Addresses before policies, each with the node.
    for type_url in [ADDRESS, AUTHORIZATION] {
        let everything = match type_url {
            ADDRESS if options.on_demand => vec!["*".to_owned()],
            _ => Vec::new(),
        };
        let versions = known.get(type_url).cloned().unwrap_or_default();
        requests
            .send(DeltaDiscoveryRequest {
                node: Some(describe(&options.node)),
                type_url: type_url.to_owned(),
                resource_names_subscribe: everything.clone(),
                resource_names_unsubscribe: everything,
                initial_resource_versions: versions,
                ..DeltaDiscoveryRequest::default()
            })
            .await?;
    }
    let mut request = Request::new(ReceiverStream::new(outbox));
    authorize(request.metadata_mut(), options)?;
    let responses = client.delta_aggregated_resources(request).await?;
    Ok((requests, responses.into_inner()))
}

/// How it describes itself: its own pod, and the node that it serves.
fn describe(node: &str) -> Node {
    let (address, pod, namespace) = ("10.0.0.250", format!("proxy-{node}"), "istio-system");
    Node {
        id: format!("ztunnel~{address}~{pod}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(words([
            ("NAME", pod.as_str()),
            ("NAMESPACE", namespace),
            ("INSTANCE_IPS", address),
            ("NODE_NAME", node),
            ("CLUSTER_ID", "Kubernetes"),
        ])),
        ..Node::default()
    }
}

fn authorize(headers: &mut MetadataMap, options: &AmbientOptions) -> Result<()> {
    let bearer: MetadataValue<Ascii> = format!("Bearer {}", options.token).parse()?;
    headers.insert("authorization", bearer);
    headers.insert("clusterid", MetadataValue::from_static("Kubernetes"));
    Ok(())
}

fn words<const N: usize>(pairs: [(&str, &str); N]) -> Struct {
    let field = |(name, text): (&str, &str)| {
        let value = Value {
            kind: Some(value::Kind::StringValue(text.to_owned())),
        };
        (name.to_owned(), value)
    };
    Struct {
        fields: pairs.map(field).into(),
    }
}
