//! The client against a real gRPC server over real TLS on loopback.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use weft_proto::value;
use weft_proto::wire::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use weft_proto::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use weft_runtime::{Shutdown, SystemClock};

use super::{CaClient, CaOptions};
use crate::authority::{Authority, AuthorityOptions};
use crate::ca::{CaError, CertificateSource as _};
use crate::credentials::Credentials;
use crate::key::PrivateKey;
use crate::testing::{HOUR, WEB, id};

/// What one call carried.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    authorization: String,
    cluster: String,
    identity: String,
    seconds: i64,
}

struct FakeCa {
    authority: Authority,
    seen: Mutex<Vec<Seen>>,
    answer: Mutex<Option<Status>>,
}

#[tonic::async_trait]
impl IstioCertificateService for FakeCa {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = |name: &str| {
            let value = request.metadata().get(name);
            value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
        };
        let (authorization, cluster) = (header("authorization"), header("clusterid"));
        let message = request.into_inner();
        let wanted = message.metadata.unwrap().fields["ImpersonatedIdentity"].clone();
        let Some(value::Kind::StringValue(identity)) = wanted.kind else {
            panic!("{wanted:?}");
        };
        self.seen.lock().unwrap().push(Seen {
            authorization,
            cluster,
            identity: identity.clone(),
            seconds: message.validity_duration,
        });
        if let Some(status) = self.answer.lock().unwrap().clone() {
            return Err(status);
        }
        let identity = identity.parse().unwrap();
        let cert_chain = self.authority.sign(&message.csr, &identity, HOUR).unwrap();
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

struct Bench {
    ca: Arc<FakeCa>,
    client: CaClient,
    folder: TempDir,
    shutdown: Shutdown,
}

fn authority(folder: &TempDir, name: &str) -> Authority {
    let folder = folder.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    let domain = id(WEB).trust_domain().clone();
    let options = AuthorityOptions::default();
    Authority::load_or_create(&folder, domain, options, Arc::new(SystemClock)).unwrap()
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Self {
            ca: Arc::new(FakeCa {
                authority: authority(&folder, "first"),
                seen: Mutex::default(),
                answer: Mutex::default(),
            }),
            client: CaClient::new(CaOptions {
                address: String::new(),
                root_cert: folder.path().join("root.pem"),
                token: folder.path().join("token"),
                cluster: "Kubernetes".to_owned(),
            }),
            folder,
            shutdown: Shutdown::new(),
        };
        fs::write(bench.path("root.pem"), bench.ca.authority.roots_pem()).unwrap();
        fs::write(bench.path("token"), "secret-1\n").unwrap();
        let address = bench.serve(&bench.ca.authority).await;
        bench.aimed_at(&address)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn aimed_at(mut self, address: &str) -> Self {
        let options = CaOptions {
            address: address.to_owned(),
            ..self.client.options.clone()
        };
        self.client = CaClient::new(options);
        self
    }

    /// Serves with a server certificate of `authority`; returns the address.
    async fn serve(&self, authority: &Authority) -> String {
        let certificate = authority
            .server_certificate(&["127.0.0.1".to_owned()])
            .unwrap();
        let identity = Identity::from_pem(certificate.chain_pem, &*certificate.key_pem);
        let tls = ServerTlsConfig::new().identity(identity);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let mut router = Server::builder().tls_config(tls).unwrap();
        let service = IstioCertificateServiceServer::from_arc(self.ca.clone());
        let serving = router
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        weft_runtime::spawn(&self.shutdown, "fake-ca", serving);
        address
    }

    async fn ask(&self) -> Result<Vec<String>, CaError> {
        let csr = PrivateKey::generate().unwrap().request(&id(WEB)).unwrap();
        self.client.sign(&id(WEB), csr, HOUR).await
    }

    fn last(&self) -> Seen {
        self.ca.seen.lock().unwrap().last().unwrap().clone()
    }
}

#[tokio::test]
async fn a_call_carries_token_cluster_and_identity_and_brings_credentials() {
    let bench = Bench::new().await;
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&id(WEB)).unwrap();
    let chain = bench.client.sign(&id(WEB), csr, HOUR).await.unwrap();
    Credentials::from_response(id(WEB), key, &chain, SystemTime::now()).unwrap();
    let expected = Seen {
        authorization: "Bearer secret-1".to_owned(),
        cluster: "Kubernetes".to_owned(),
        identity: WEB.to_owned(),
        seconds: 3600,
    };
    assert_eq!(bench.last(), expected);
}

#[tokio::test]
async fn a_new_token_is_used_from_the_next_call_on() {
    let bench = Bench::new().await;
    bench.ask().await.unwrap();
    fs::write(bench.path("token"), "secret-2").unwrap();
    bench.ask().await.unwrap();
    assert_eq!(bench.last().authorization, "Bearer secret-2");
}

#[tokio::test]
async fn a_new_root_is_used_from_the_next_call_on() {
    let bench = Bench::new().await;
    let second = authority(&bench.folder, "second");
    let address = bench.serve(&second).await;
    let bench = bench.aimed_at(&address);
    let refused = bench.ask().await.unwrap_err();
    assert!(
        matches!(&refused, CaError::Unavailable(reason) if reason.contains("UnknownIssuer")),
        "{refused}"
    );
    fs::write(bench.path("root.pem"), second.roots_pem()).unwrap();
    bench.ask().await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_told_from_an_outage() {
    let bench = Bench::new().await;
    let codes = [
        (Code::PermissionDenied, true),
        (Code::Unauthenticated, true),
        (Code::InvalidArgument, true),
        (Code::Unavailable, false),
        (Code::ResourceExhausted, false),
        (Code::Internal, false),
        (Code::DeadlineExceeded, false),
    ];
    for (code, refusal) in codes {
        *bench.ca.answer.lock().unwrap() = Some(Status::new(code, "because"));
        let error = bench.ask().await.unwrap_err();
        let is_refusal =
            matches!(&error, CaError::Refused { identity, .. } if *identity == id(WEB));
        assert_eq!(is_refusal, refusal, "{error:?}");
        assert!(error.to_string().contains("because"), "{error}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_and_tokens_never_shown() {
    let bench = Bench::new().await;
    for content in ["", "\n", "two\nlines", "caf\u{e9}"] {
        fs::write(bench.path("token"), content).unwrap();
        let error = bench.ask().await.unwrap_err();
        assert!(
            matches!(&error, CaError::File { path, .. } if path.ends_with("token")),
            "{error:?}"
        );
        assert!(!format!("{error:?} {error}").contains("lines"));
    }
    fs::remove_file(bench.path("token")).unwrap();
    assert!(matches!(bench.ask().await, Err(CaError::File { .. })));
    fs::write(bench.path("token"), "secret-1").unwrap();
    fs::remove_file(bench.path("root.pem")).unwrap();
    let error = bench.ask().await.unwrap_err();
    assert!(matches!(&error, CaError::File { path, .. } if path.ends_with("root.pem")));
    assert!(bench.ca.seen.lock().unwrap().is_empty(), "nothing was sent");
    assert!(!format!("{:?}", bench.client).contains("secret"));
}

#[tokio::test]
async fn an_authority_that_is_not_there_is_an_outage_with_its_cause() {
    let bench = Bench::new().await;
    // A port that was just free: nobody listens on it.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", closed.local_addr().unwrap());
    drop(closed);
    let bench = bench.aimed_at(&address);
    let asked = tokio::time::timeout(Duration::from_secs(100), bench.ask()).await;
    let error = asked.unwrap().unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, CaError::Unavailable(_)) && text.contains("refused"),
        "{text}"
    );
}
