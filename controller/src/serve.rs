//! TLS on one port for both gRPC services. In: connections. Out: calls to `publish` and `issue`.
//!
//! The server's certificate is renewed long before its end by starting a second server beside the first: new connections go to the new one,
//! old ones stay where they are.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use weft_identity::{Authority, IssueError};
use weft_runtime::{Shutdown, spawn};

/// A client that is gone without a word is noticed after both.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that does not finish its handshake holds a descriptor for no longer.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections that wait for a server to take them.
const ACCEPTED_MAX: usize = 64;
/// After a failed accept (no descriptors left, mostly) others get time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A certificate is renewed at the latest after this long, as timers of a sleeping machine drift.
const RENEWAL_MAX: Duration = Duration::from_hours(12);

/// Why there is no server.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {error}; check --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The authority cannot sign for us.
    #[error("no certificate for the server: {0}")]
    Certificate(#[from] IssueError),
    /// The certificate does not load.
    #[error("tls: {0}")]
    Tls(#[from] tonic::transport::Error),
}

/// What a server is made of.
pub(crate) struct Serve {
    pub(crate) routes: Routes,
    pub(crate) authority: Arc<Authority>,
    /// DNS names and addresses in the certificate.
    pub(crate) names: Vec<String>,
}

impl Serve {
    /// Binds; the address is the actual one where port 0 was asked for.
    pub(crate) fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
        let failed = |error| ServeError::Listen { address, error };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let actual = listener.local_addr().map_err(failed)?;
        Ok((TcpListener::from_std(listener).map_err(failed)?, actual))
    }

    /// Serves until the drain.
    pub(crate) fn start(
        self,
        shutdown: &Shutdown,
        listener: TcpListener,
    ) -> Result<(), ServeError> {
        let (server, renewal) = self.server(shutdown)?;
        let accept = self.accept(shutdown.clone(), listener, server, renewal);
        spawn(shutdown, "accept", accept);
        Ok(())
    }

    async fn accept(
        self,
        shutdown: Shutdown,
        listener: TcpListener,
        mut server: mpsc::Sender<io::Result<TcpStream>>,
        mut renewal: Duration,
    ) {
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(renewal) => match self.server(&shutdown) {
                    Ok(next) => (server, renewal) = next,
                    Err(error) => tracing::error!(%error, "the server's certificate cannot be renewed"),
                },
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        // Waits while handshakes are many; the backlog of the kernel holds the rest.
                        let _ = server.send(Ok(stream)).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// A server with a fresh certificate, fed by the sender, and when the next one is due.
    fn server(
        &self,
        shutdown: &Shutdown,
    ) -> Result<(mpsc::Sender<io::Result<TcpStream>>, Duration), ServeError> {
        let certificate = self.authority.server_certificate(&self.names)?;
        let identity = Identity::from_pem(&certificate.chain_pem, certificate.key_pem.as_bytes());
        let tls = ServerTlsConfig::new()
            .identity(identity)
            .timeout(HANDSHAKE_LIMIT);
        let router = Server::builder()
            .tls_config(tls)?
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(self.routes.clone());
        let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
        let drained = shutdown.clone();
        spawn(shutdown, "grpc", async move {
            let drained = async move { drained.draining().await };
            let served =
                router.serve_with_incoming_shutdown(ReceiverStream::new(receiver), drained);
            if let Err(error) = served.await {
                tracing::error!(%error, "the grpc server has ended");
            }
        });
        let left = certificate.not_after.duration_since(SystemTime::now());
        let renewal = (left.unwrap_or_default() / 2).min(RENEWAL_MAX);
        Ok((sender, renewal.max(Duration::from_secs(1))))
    }
}
