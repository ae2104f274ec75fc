//! Two applications joined by two relays and one tunnel: what every test of this crate looks at from outside.
//!
//! In: limits. Out: the applications' sockets, and how both relays ended.
//! Deliberately not here: TLS; the tunnel cannot tell a duplex pipe from it.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test binary uses its part"
)]

use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use weft_hbone::{
    ClientLimits, ConnectRequest, ConnectResponse, Connection, Counters, Incoming, RelayEnd,
    Server, ServerLimits, Tunnel, handshake, relay, serve,
};

/// Ten times what the slowest of these tests takes on a busy machine.
pub const BOUND: Duration = Duration::from_mins(1);

/// Waits within the bound.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future)
        .await
        .expect("ends within the bound")
}

/// A connected client and server.
pub struct Link {
    pub client: Connection,
    pub incoming: mpsc::UnboundedReceiver<Incoming>,
    pub drain: Option<oneshot::Sender<()>>,
    pub driver: JoinHandle<Result<(), weft_hbone::ConnectionError>>,
    pub server: JoinHandle<Result<(), weft_hbone::ConnectionError>>,
}

pub async fn link() -> Link {
    link_with(ClientLimits::default(), ServerLimits::default()).await
}

pub async fn link_with(client: ClientLimits, server: ServerLimits) -> Link {
    let (near, far) = tokio::io::duplex(256 << 10);
    let serving = tokio::spawn(serve(far, server));
    let (client, driver) = soon(handshake(near, client)).await.unwrap();
    let driver = tokio::spawn(driver);
    let server = soon(serving).await.unwrap().unwrap();
    let (sender, incoming) = mpsc::unbounded_channel();
    let (drain, drained) = oneshot::channel();
    let server = tokio::spawn(drive(server, sender, drained));
    Link {
        client,
        incoming,
        drain: Some(drain),
        driver,
        server,
    }
}

async fn drive(
    mut server: Server<DuplexStream>,
    incoming: mpsc::UnboundedSender<Incoming>,
    mut drained: oneshot::Receiver<()>,
) -> Result<(), weft_hbone::ConnectionError> {
    let mut draining = false;
    loop {
        tokio::select! {
            next = server.next() => match next {
                None => return Ok(()),
                Some(next) => { let _ = incoming.send(next?); }
            },
            asked = &mut drained, if !draining => {
                draining = true;
                if asked.is_ok() {
                    server.drain();
                }
            }
        }
    }
}

impl Link {
    /// A tunnel, seen from both ends.
    pub async fn tunnel(&mut self) -> (Tunnel, Tunnel) {
        let request = ConnectRequest::new("10.0.0.1:80".parse::<std::net::SocketAddr>().unwrap());
        let accepting = async {
            let incoming = self.incoming.recv().await.expect("a request arrives");
            incoming.accept(&ConnectResponse::default()).unwrap()
        };
        let (near, far) = soon(async { tokio::join!(self.client.open(&request), accepting) }).await;
        (near.unwrap(), far)
    }

    /// Two applications, and the two relays between them.
    pub async fn applications(&mut self) -> Applications {
        let (near, far) = self.tunnel().await;
        let (client, tcp_near) = tcp_pair().await;
        let (server, tcp_far) = tcp_pair().await;
        Applications {
            client,
            server,
            near: spawn_relay(tcp_near, near),
            far: spawn_relay(tcp_far, far),
        }
    }
}

pub struct Applications {
    pub client: TcpStream,
    pub server: TcpStream,
    pub near: JoinHandle<RelayEnd>,
    pub far: JoinHandle<RelayEnd>,
}

fn spawn_relay(tcp: TcpStream, tunnel: Tunnel) -> JoinHandle<RelayEnd> {
    tokio::spawn(async move { relay(tcp, tunnel, &Counters::default()).await })
}

/// Two ends of a TCP connection over loopback.
pub async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}
