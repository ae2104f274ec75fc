//! HBONE as Istio's own node proxy speaks it, written on the bare HTTP/2 and TLS libraries: nothing of ours is between.
//!
//! In: a certificate that the controller gave. Out: tunnels to a peer, or a port that echoes what comes through tunnels and
//! tells what was asked. Settings, headers and TLS parameters are those observed with the real program (of August 2026).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_runtime::{Shutdown, spawn};
use weft_testkit::ads::ambient::Issued;

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME_MAX: u32 = 1 << 20;
const STREAMS_PER_CONNECTION: usize = 100;
const STREAMS_SERVED: u32 = 200;
/// Pieces in which bulk is given to the library.
const PIECE: usize = 16 << 10;
/// Ten times what the slowest step takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// One identity of the foreign proxy.
#[derive(Clone)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Identity {
    pub(crate) fn new(issued: &Issued) -> Self {
        let certificates = |pem: &str| -> Vec<_> {
            let all = CertificateDer::pem_slice_iter(pem.as_bytes());
            all.map(|one| one.unwrap()).collect()
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&issued.roots));
        Self {
            chain: certificates(&issued.chain),
            key: Arc::new(PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap()),
            roots: Arc::new(roots),
        }
    }

    /// TLS 1.3, two suites, no server name, nothing resumed; the peer is known by its identity alone.
    fn client(&self, expected: &str) -> ClientConfig {
        let verifier = Arc::new(Expecting {
            identity: expected.to_owned(),
            roots: self.roots.clone(),
        });
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        config
    }

    fn server(&self) -> ServerConfig {
        let clients = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

/// Whether a certificate carries an identity as a URI among its alternative names: tag 6 of `GeneralName`, and its length.
fn names(certificate: &CertificateDer<'_>, identity: &str) -> bool {
    let mut wanted = vec![0x86, u8::try_from(identity.len()).unwrap()];
    wanted.extend_from_slice(identity.as_bytes());
    certificate.windows(wanted.len()).any(|part| part == wanted)
}

#[derive(Debug)]
struct Expecting {
    identity: String,
    roots: Arc<RootCertStore>,
}

impl ServerCertVerifier for Expecting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )?;
        if names(end_entity, &self.identity) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A connection to a peer's HBONE port.
pub(crate) struct Client {
    requests: h2::client::SendRequest<Bytes>,
    pings: PingPong,
    address: SocketAddr,
}

/// An open tunnel.
pub(crate) struct Tunnel {
    pub(crate) answer: HeaderMap,
    send: SendStream<Bytes>,
    recv: RecvStream,
}

impl Client {
    pub(crate) async fn connect(identity: &Identity, expected: &str, to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        let address = stream.local_addr().unwrap();
        let connector = TlsConnector::from(Arc::new(identity.client(expected)));
        // The name is never sent nor looked at.
        let name = ServerName::IpAddress(to.ip().into());
        let stream = connector.connect(name, stream).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .initial_max_send_streams(STREAMS_PER_CONNECTION)
            .max_header_list_size(16 << 10)
            .max_send_buffer_size(STREAM_WINDOW as usize)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let pings = connection.ping_pong().unwrap();
        spawn(&Shutdown::new(), "driver", connection);
        Self {
            requests,
            pings,
            address,
        }
    }

    /// What the proxy asks when a pod dials `to`.
    pub(crate) async fn open(&self, to: &str) -> Result<Tunnel, StatusCode> {
        self.ask(Method::CONNECT, to).await
    }

    pub(crate) async fn ask(&self, method: Method, uri: &str) -> Result<Tunnel, StatusCode> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .version(http::Version::HTTP_2)
            .header(
                "baggage",
                "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=z,service.name=z,service.version=latest",
            )
            .header("forwarded", format!("for=\"{}\";host=web.default.svc.cluster.local", self.address))
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, send) = requests.send_request(request, false).unwrap();
        let (head, recv) = bounded(response).await.unwrap().into_parts();
        if head.status != StatusCode::OK {
            return Err(head.status);
        }
        Ok(Tunnel {
            answer: head.headers,
            send,
            recv,
        })
    }

    /// Sends a PING and waits for its answer.
    pub(crate) async fn ping(&mut self) {
        bounded(self.pings.ping(Ping::opaque())).await.unwrap();
    }
}

impl Tunnel {
    /// Sends bytes and the end of the stream while it reads to the end of the other direction.
    pub(crate) async fn exchange(self, bytes: Vec<u8>) -> Vec<u8> {
        let Self { send, mut recv, .. } = self;
        let sending = send_all(send, bytes.into());
        let receiving = async {
            let mut all = Vec::new();
            while let Some(bytes) = receive(&mut recv).await {
                all.extend_from_slice(&bytes);
            }
            all
        };
        bounded(async { tokio::join!(sending, receiving).1 }).await
    }

    /// Waits for the first bytes, before it has sent any.
    pub(crate) async fn first(&mut self) -> Bytes {
        bounded(receive(&mut self.recv)).await.unwrap()
    }

    /// The code with which the peer resets it, while nothing moves.
    pub(crate) async fn reset(mut self) -> h2::Reason {
        bounded(poll_fn(|cx| self.send.poll_reset(cx)))
            .await
            .unwrap()
    }
}

async fn send_all(mut send: SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        send.reserve_capacity(bytes.len().min(PIECE));
        let room = poll_fn(|cx| send.poll_capacity(cx)).await;
        let room = room.expect("the stream is open").unwrap();
        let piece = bytes.split_to(room.min(bytes.len()));
        send.send_data(piece, false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
}

/// The next bytes; `None` at the end of the stream.
async fn receive(recv: &mut RecvStream) -> Option<Bytes> {
    let bytes = recv.data().await?.unwrap();
    recv.flow_control().release_capacity(bytes.len()).unwrap();
    Some(bytes)
}

async fn bounded<F: Future>(future: F) -> F::Output {
    let ended = tokio::time::timeout(LIMIT, future).await;
    ended.expect("an answer in time")
}

/// What was asked of the foreign proxy.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The client's certificate names this identity.
    pub(crate) proven: bool,
    /// The server name in its hello.
    pub(crate) server_name: Option<String>,
    pub(crate) peer: SocketAddr,
    pub(crate) method: Method,
    pub(crate) uri: http::Uri,
    pub(crate) headers: HeaderMap,
    /// Which connection it came on.
    pub(crate) connection: usize,
}

/// What the foreign proxy is to do and has seen.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) asked: Vec<Asked>,
    /// Refuse with 401.
    pub(crate) refusing: bool,
    /// Say GOAWAY after the next request.
    pub(crate) leaving: bool,
    /// PINGs of ours that were answered.
    pub(crate) answered: usize,
    connections: usize,
}

/// The HBONE port of the foreign proxy, in front of an application that echoes; serves until its runtime ends.
pub(crate) async fn serve(
    identity: Identity,
    client: String,
    listener: TcpListener,
    book: Arc<Mutex<Book>>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(identity.server()));
    loop {
        let (stream, peer) = listener.accept().await.unwrap();
        let (acceptor, client, book) = (acceptor.clone(), client.clone(), book.clone());
        spawn(&Shutdown::new(), "connection", async move {
            connection(&acceptor, &client, stream, peer, &book).await;
        });
    }
}

async fn connection(
    acceptor: &TlsAcceptor,
    client: &str,
    stream: TcpStream,
    peer: SocketAddr,
    book: &Arc<Mutex<Book>>,
) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    let proven = session
        .peer_certificates()
        .is_some_and(|chain| names(&chain[0], client));
    let server_name = session.server_name().map(ToOwned::to_owned);
    let number = {
        let mut book = book.lock().unwrap();
        book.connections += 1;
        book.connections
    };
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_header_list_size(64 << 10)
        .max_send_buffer_size(400 << 10)
        .max_concurrent_streams(STREAMS_SERVED)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let noted = book.clone();
    spawn(&Shutdown::new(), "ping", async move {
        if pings.ping(Ping::opaque()).await.is_ok() {
            noted.lock().unwrap().answered += 1;
        }
    });
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (head, recv) = request.into_parts();
        let (refusing, leaving) = {
            let mut book = book.lock().unwrap();
            book.asked.push(Asked {
                proven,
                server_name: server_name.clone(),
                peer,
                method: head.method,
                uri: head.uri,
                headers: head.headers,
                connection: number,
            });
            (book.refusing, std::mem::take(&mut book.leaving))
        };
        if leaving {
            connection.graceful_shutdown();
        }
        let status = if refusing {
            StatusCode::UNAUTHORIZED
        } else {
            StatusCode::OK
        };
        let response = Response::builder().status(status).header(
            "baggage",
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=z,service.name=z",
        );
        let send = respond.send_response(response.body(()).unwrap(), refusing);
        if !refusing {
            spawn(&Shutdown::new(), "echo", echo(send.unwrap(), recv));
        }
    }
}

async fn echo(mut send: SendStream<Bytes>, mut recv: RecvStream) {
    while let Some(Ok(mut bytes)) = recv.data().await {
        // Released only when it is sent back, so that no more is held than a window.
        let length = bytes.len();
        while !bytes.is_empty() {
            send.reserve_capacity(bytes.len());
            let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else {
                return;
            };
            let piece = bytes.split_to(room.min(bytes.len()));
            if send.send_data(piece, false).is_err() {
                return;
            }
        }
        drop(recv.flow_control().release_capacity(length));
    }
    drop(send.send_data(Bytes::new(), true));
}
