//! Our two ends of HBONE without a proxy around them: identity and tunnel, and nothing else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::StatusCode;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weft_hbone::{
    ClientLimits, ConnectRequest, ConnectResponse, Connection, Counters, HandshakeError, Incoming,
    OpenError, ServerLimits, Tunnel, handshake, relay, serve,
};
use weft_identity::{Credentials, TlsError};
use weft_runtime::{Shutdown, spawn};
use weft_types::SpiffeId;

use super::mesh::Mesh;

#[derive(Debug)]
pub(crate) enum Failure {
    Tls(TlsError),
    Handshake(HandshakeError),
}

/// A connection to a peer's HBONE port.
pub(crate) struct Client {
    connection: Connection,
}

impl Client {
    pub(crate) async fn connect(
        mesh: &Mesh,
        name: &str,
        expected: &[SpiffeId],
        address: SocketAddr,
    ) -> Result<Self, Failure> {
        Self::with(&mesh.credentials(name), expected, address).await
    }

    pub(crate) async fn with(
        credentials: &Credentials,
        expected: &[SpiffeId],
        address: SocketAddr,
    ) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let secured = weft_identity::connect(credentials, expected, stream);
        let secured = secured.await.map_err(Failure::Tls)?;
        let limits = ClientLimits::default();
        let (connection, driver) = handshake(secured, limits)
            .await
            .map_err(Failure::Handshake)?;
        spawn(&Shutdown::new(), "driver", driver);
        Ok(Self { connection })
    }

    pub(crate) async fn open(&self, destination: SocketAddr) -> Result<Tunnel, OpenError> {
        self.connection
            .open(&ConnectRequest::new(destination))
            .await
    }

    /// An application's socket whose other end is `destination`, through the tunnel.
    pub(crate) async fn dial(&self, destination: SocketAddr) -> TcpStream {
        joined(self.open(destination).await.unwrap()).await
    }

    /// The same with sockets between which little fits, so that what the application does not read stays with the relay.
    pub(crate) async fn dial_narrow(&self, destination: SocketAddr) -> TcpStream {
        const SMALL: u32 = 16 << 10;
        let tunnel = self.open(destination).await.unwrap();
        let (near, listener) = (TcpSocket::new_v4().unwrap(), TcpSocket::new_v4().unwrap());
        near.set_recv_buffer_size(SMALL).unwrap();
        // Accepted sockets inherit it.
        listener.set_send_buffer_size(SMALL).unwrap();
        through(tunnel, near, listener).await
    }
}

/// The near end of a TCP connection whose far end is relayed into the tunnel.
pub(crate) async fn joined(tunnel: Tunnel) -> TcpStream {
    let (near, listener) = (TcpSocket::new_v4(), TcpSocket::new_v4());
    through(tunnel, near.unwrap(), listener.unwrap()).await
}

async fn through(tunnel: Tunnel, near: TcpSocket, listener: TcpSocket) -> TcpStream {
    listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(near.connect(address), listener.accept());
    let far = far.unwrap().0;
    spawn(&Shutdown::new(), "relay", async move {
        relay(far, tunnel, &Counters::default()).await
    });
    near.unwrap()
}

/// What a peer asked for.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) peer: SpiffeId,
    pub(crate) authority: String,
}

/// Our HBONE port; connects to whatever it is asked for.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    refusing: AtomicBool,
}

impl Server {
    pub(crate) async fn start(mesh: &Mesh, name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::default(),
            shutdown: Shutdown::new(),
        };
        let credentials = Arc::new(mesh.credentials(name));
        let (shared, shutdown) = (server.shared.clone(), server.shutdown.clone());
        spawn(&server.shutdown, "listener", async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = shutdown.stopped() => return,
                };
                let connection = answer(
                    stream,
                    credentials.clone(),
                    shared.clone(),
                    shutdown.clone(),
                );
                spawn(&shutdown, "connection", connection);
            }
        });
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn refuse_all(&self) {
        self.shared.refusing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

async fn answer(
    stream: TcpStream,
    credentials: Arc<Credentials>,
    shared: Arc<Shared>,
    shutdown: Shutdown,
) {
    let Ok(secured) = weft_identity::accept(&credentials, stream).await else {
        return;
    };
    let peer = secured.peer_identity().clone();
    let mut connection = serve(secured, ServerLimits::default()).await.unwrap();
    while let Some(Ok(incoming)) = connection.next().await {
        shared.seen.lock().unwrap().push(Seen {
            peer: peer.clone(),
            authority: incoming.request().authority.to_string(),
        });
        if shared.refusing.load(Ordering::Relaxed) {
            incoming.refuse(StatusCode::UNAUTHORIZED);
        } else {
            spawn(&shutdown, "tunnel", deliver(incoming));
        }
    }
}

async fn deliver(incoming: Incoming) {
    let destination = incoming.request().authority.address().unwrap();
    match TcpStream::connect(destination).await {
        Ok(application) => {
            let tunnel = incoming.accept(&ConnectResponse::default()).unwrap();
            relay(application, tunnel, &Counters::default()).await;
        }
        Err(_) => incoming.refuse(StatusCode::SERVICE_UNAVAILABLE),
    }
}
