//! A controller whose every word the test chooses: TLS on a free port of loopback, streams handed to the test.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use weft_proto::Any;
use weft_proto::resource::NONCE_MORE;
use weft_proto::wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use weft_runtime::{Shutdown, spawn};

/// Ten times what a loaded machine needs.
const LIMIT: Duration = Duration::from_secs(30);

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// A certificate authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

/// The controller.
pub(super) struct FakeController {
    pub(super) address: SocketAddr,
    streams: mpsc::Receiver<Stream>,
    stop: Option<oneshot::Sender<()>>,
    stopped: tokio::task::JoinHandle<()>,
}

/// One stream that a client opened.
pub(super) struct Stream {
    pub(super) token: String,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

struct Service(mpsc::Sender<Stream>);

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn write(&self, path: &Path) {
        // As a projected volume does: a reader never sees half of it.
        let next = path.with_extension("tmp");
        std::fs::write(&next, &self.pem).unwrap();
        std::fs::rename(next, path).unwrap();
    }

    fn identity(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }
}

impl FakeController {
    pub(super) async fn start(authority: &Authority) -> Self {
        Self::start_at(authority, "127.0.0.1:0".parse().unwrap()).await
    }

    pub(super) async fn start_at(authority: &Authority, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, streams) = mpsc::channel(16);
        let (stop, stopping) = oneshot::channel::<()>();
        let tls = ServerTlsConfig::new().identity(authority.identity());
        let router = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(AggregatedDiscoveryServiceServer::new(Service(opened)));
        let serve = async move {
            let incoming = TcpListenerStream::new(listener);
            tokio::select! {
                served = router.serve_with_incoming(incoming) => served.unwrap(),
                _ = stopping => {}
            }
        };
        Self {
            address,
            streams,
            stop: Some(stop),
            stopped: spawn(&Shutdown::new(), "fake-controller", serve),
        }
    }

    /// The next stream that a client opens.
    pub(super) async fn stream(&mut self) -> Stream {
        let stream = tokio::time::timeout(LIMIT, self.streams.recv()).await;
        stream.expect("a client connects").expect("the server runs")
    }

    /// Stops, and cuts every connection.
    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.stopped).await.unwrap();
    }
}

impl Stream {
    /// The next request.
    pub(super) async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = tokio::time::timeout(LIMIT, self.requests.message()).await;
        request
            .expect("the client writes")
            .unwrap()
            .expect("the stream is open")
    }

    /// The next `count` requests, by type.
    pub(super) async fn subscriptions(&mut self, count: usize) -> Vec<DeltaDiscoveryRequest> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.request().await);
        }
        all
    }

    pub(super) async fn send(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }

    pub(super) async fn fail(self, status: Status) {
        self.responses.send(Err(status)).await.unwrap();
    }

    /// Sends resources and gives the client's answer.
    pub(super) async fn push(
        &mut self,
        url: &str,
        resources: Vec<Resource>,
        removed: &[&str],
    ) -> DeltaDiscoveryRequest {
        let nonce = format!("{}-{}", url.len(), resources.len());
        self.exchange(url, nonce, resources, removed).await
    }

    /// Sends resources that are not all of the state yet.
    pub(super) async fn push_part(&mut self, url: &str, resources: Vec<Resource>) {
        let nonce = format!("{}{NONCE_MORE}", resources.len());
        self.exchange(url, nonce, resources, &[]).await;
    }

    async fn exchange(
        &mut self,
        url: &str,
        nonce: String,
        resources: Vec<Resource>,
        removed: &[&str],
    ) -> DeltaDiscoveryRequest {
        self.send(DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            resources,
            nonce: nonce.clone(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        })
        .await;
        let answer = self.request().await;
        assert_eq!(
            (answer.type_url.as_str(), &answer.response_nonce),
            (url, &nonce)
        );
        answer
    }
}

/// A resource with a version.
pub(super) fn resource(name: &str, version: &str, message: Any) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(message),
        ..Resource::default()
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only delta is spoken here"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let token = request.metadata().get("authorization");
        let token = token.and_then(|value| value.to_str().ok()).unwrap_or("");
        let (responses, queue) = mpsc::channel(16);
        let stream = Stream {
            token: token.to_owned(),
            requests: request.into_inner(),
            responses,
        };
        self.0
            .send(stream)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}
