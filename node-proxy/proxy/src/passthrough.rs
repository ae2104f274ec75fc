//! Plaintext that reaches a pod from outside the mesh: the same policies, with no identity, then the same delivery.
//!
//! In: the plaintext listener's connections. Out: connections to the application. Refused is a reset.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use weft_hbone::Outcome;
use weft_telemetry::Direction;
use weft_types::ClientAddr;
use weft_types::address::canonical;

use crate::admission::{Arrival, Via};
use crate::connections::FirstEnd;
use crate::failure::Failure;
use crate::inbound::{authorize, deliver};
use crate::names::{label_of, service_on_port};
use crate::pods::Pod;
use crate::socket::Undecided;
use crate::worker::{Live, Worker};

/// A client that vanished is noticed within a minute: 30 s idle, then three probes 10 s apart.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Serves one connection.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    stream: TcpStream,
    client: SocketAddr,
) {
    let connection = worker.connections.begin(
        &pod.spec.uid,
        Direction::Inbound,
        FirstEnd::Client,
        Rc::default(),
    );
    let outcome = run(&worker, &pod, Undecided::new(stream), client, &connection).await;
    connection.end(outcome);
}

async fn run(
    worker: &Worker,
    pod: &Arc<Pod>,
    stream: Undecided,
    client: SocketAddr,
    connection: &Live,
) -> Result<(), Failure> {
    connection.learn(|facts| facts.source.address = Some(client));
    let destination = stream.stream().local_addr().map(canonical);
    let destination = destination.map_err(|source| Failure::Local {
        what: "read the address that a client dialled",
        source,
    })?;
    connection.learn(|facts| facts.destination.address = Some(destination));
    // A process of the pod that dials the listener itself arrives with a loopback destination; nothing from outside does.
    if !pod.has_address(destination.ip()) {
        return Err(Failure::NotCaptured);
    }
    let arrival = Arrival {
        pod: Arc::clone(pod),
        via: Via::Plaintext { peer: client.ip() },
        destination,
    };
    let admission = authorize::authorize(worker, arrival, connection).await?;
    let service = {
        let snapshot = worker.shared.config.load();
        service_on_port(&snapshot, &admission.destination, destination.port())
    };
    connection.learn(|facts| facts.service = service.as_deref().map(label_of));
    let application =
        deliver::deliver(&worker.shared, pod, destination, ClientAddr(client)).await?;
    watch_peer(stream.stream());
    connection.opened();
    let counters = connection.counters();
    tokio::select! {
        end = weft_hbone::join(stream.keep(), application.keep(), counters) => match end.outcome {
            Outcome::Finished => Ok(()),
            Outcome::FirstFailed(kind) => Err(Failure::Peer(kind)),
            Outcome::SecondFailed(kind) => Err(Failure::Application(kind)),
            Outcome::TunnelFailed(error) => Err(Failure::TunnelBroken(error)),
        },
        failure = connection.cut() => Err(failure),
    }
}

/// Notices a peer that vanished without a word.
pub(crate) fn watch_peer(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "keepalive not set");
    }
}
