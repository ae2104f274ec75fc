//! A tunnel connection from its first byte: TLS with the pod's certificate, then one task for each request.
//!
//! Tight for a peer that has not shown a certificate: a bounded number of handshakes for each pod and each address
//! (`handshakes`), ten seconds and 40 KiB for each (`weft-identity`). Those that fail leave one record.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_hbone::{Server, ServerLimits};
use weft_identity::TlsStream;
use weft_runtime::spawn_local;
use weft_telemetry::Direction;
use weft_types::address::canonical;

use super::TunnelPeer;
use crate::connections::FirstEnd;
use crate::failure::Failure;
use crate::limits;
use crate::pods::Pod;
use crate::socket::Undecided;
use crate::worker::Worker;

type TunnelServer = Server<TlsStream<TcpStream>>;

/// Longest that a certificate is taken to live: beyond what a timer holds there is nothing to wait for.
const VALIDITY_MAX: Duration = Duration::from_hours(24 * 365);

/// Serves a tunnel connection until it ends.
pub(crate) async fn terminate(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    match Box::pin(handshake(&worker, &pod, stream, peer)).await {
        Ok((server, peer)) => serve_requests(worker, pod, Rc::new(peer), server).await,
        Err(failure) => {
            let connection = worker.connections.begin(
                &pod.spec.uid,
                Direction::Inbound,
                FirstEnd::Server,
                Rc::default(),
            );
            connection.learn(|facts| facts.source.address = Some(peer));
            connection.end(Err(failure));
        }
    }
}

async fn handshake(
    worker: &Worker,
    pod: &Arc<Pod>,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<(TunnelServer, TunnelPeer), Failure> {
    let stream = Undecided::new(stream);
    let _place = pod.handshakes.begin(address.ip()).ok_or_else(|| {
        limits::HANDSHAKES.reached();
        Failure::HandshakesFull
    })?;
    let dialled = stream.stream().local_addr();
    let dialled = canonical(dialled.map_err(|source| Failure::Local {
        what: "read the address that a peer dialled",
        source,
    })?);
    if !pod.has_address(dialled.ip()) {
        return Err(Failure::NotCaptured);
    }
    let identity = super::authorize::own_identity(worker, pod).await?;
    let credentials = worker.shared.identities.credentials(&identity).await?;
    let stream = weft_identity::accept(&credentials, stream.keep())
        .await
        .map_err(|error| Failure::PeerTls(Box::new(error)))?;
    let identity = stream.peer_identity().clone();
    let not_after = stream
        .peer_not_after()
        .map_or(credentials.not_after(), |peers| {
            peers.min(credentials.not_after())
        });
    let valid = not_after.duration_since(SystemTime::now());
    let valid_until = Instant::now() + valid.unwrap_or_default().min(VALIDITY_MAX);
    let server = weft_hbone::serve(stream, ServerLimits::default()).await?;
    let peer = TunnelPeer {
        identity,
        address,
        dialled,
        valid_until,
    };
    Ok((server, peer))
}

async fn serve_requests(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    peer: Rc<TunnelPeer>,
    mut server: TunnelServer,
) {
    let flows = worker.shared.flows.clone();
    let mut draining = false;
    let expired = tokio::time::sleep_until(peer.valid_until);
    tokio::pin!(expired);
    loop {
        tokio::select! {
            next = server.next() => match next {
                Some(Ok(incoming)) => {
                    let (worker, pod, peer) = (Rc::clone(&worker), Arc::clone(&pod), Rc::clone(&peer));
                    spawn_local(&flows, "inbound", super::serve(worker, pod, peer, incoming));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, peer = %peer.address, "tunnel connection failed");
                    return;
                }
                None => return,
            },
            // The pod's life drains with the proxy's, too.
            () = pod.life.draining(), if !draining => {
                draining = true;
                server.drain();
            }
            // What runs goes on; whoever wants more has to show a certificate that is still valid.
            () = &mut expired, if !draining => {
                draining = true;
                server.drain();
            }
            () = pod.life.stopped() => return,
        }
    }
}
