//! Connections that reach a pod here through a tunnel: terminate, authorize, deliver, relay.
//!
//! In: the tunnel listener's connections. Out: connections to the application, answered only once it has accepted.
//! Not here: plaintext (`passthrough`), pods of one node (`local`), the decision itself (`admission`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;
use weft_hbone::{Authority, ConnectResponse, Incoming};
use weft_telemetry::{Direction, Security, ServiceLabel};
use weft_types::{ClientAddr, SpiffeId, Workload};

use crate::admission::{Admission, Arrival, Via};
use crate::connections::FirstEnd;
use crate::failure::Failure;
use crate::names::{baggage_of, label_of, service_on_port};
use crate::pods::Pod;
use crate::socket::Undecided;
use crate::worker::{Live, Worker};

mod authority;
pub(crate) mod authorize;
pub(crate) mod deliver;
mod relay;
mod terminate;

pub(crate) use terminate::terminate;

/// The other end of a tunnel connection, and which address of the pod it dialled.
struct TunnelPeer {
    identity: SpiffeId,
    address: SocketAddr,
    dialled: SocketAddr,
    /// When the first of the two certificates ends.
    valid_until: Instant,
}

/// One request of a tunnel peer.
struct Call<'a> {
    pod: &'a Arc<Pod>,
    peer: &'a TunnelPeer,
    authority: &'a Authority,
    /// The host that the client says it dialled.
    host: Option<&'a str>,
    /// The client that the application shall see.
    client: ClientAddr,
}

/// Serves one request of a tunnel peer.
async fn serve(worker: Rc<Worker>, pod: Arc<Pod>, peer: Rc<TunnelPeer>, incoming: Incoming) {
    let connection = worker.connections.begin(
        &pod.spec.uid,
        Direction::Inbound,
        FirstEnd::Server,
        Rc::default(),
    );
    let outcome = run(&worker, &pod, &peer, incoming, &connection).await;
    connection.end(outcome);
}

async fn run(
    worker: &Worker,
    pod: &Arc<Pod>,
    peer: &TunnelPeer,
    mut incoming: Incoming,
    connection: &Live,
) -> Result<(), Failure> {
    let client = client_of(peer, &incoming);
    connection.learn(|facts| {
        facts.security = Security::MutualTls;
        facts.hbone_target = Some(incoming.request().authority.to_string());
        facts.source.address = Some(client.0);
        facts.source.identity = Some(peer.identity.clone());
        facts.destination.identity = pod.identity();
    });
    let authority = incoming.request().authority.clone();
    let host = incoming.request().forwarded.host.clone();
    let call = Call {
        pod,
        peer,
        authority: &authority,
        host: host.as_deref(),
        client,
    };
    let prepared = tokio::select! {
        prepared = prepare(worker, &call, connection) => prepared,
        () = incoming.cancelled() => Err(Failure::Peer(std::io::ErrorKind::ConnectionReset)),
    };
    let (application, admission) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => {
            incoming.refuse(failure.status());
            return Err(failure);
        }
    };
    let response = ConnectResponse::new(baggage_of(&admission.destination));
    let tunnel = incoming.accept(&response).map_err(Failure::TunnelBroken)?;
    connection.opened();
    relay::relay(connection, application.keep(), tunnel).await
}

/// Everything that must succeed before the client hears 200.
async fn prepare(
    worker: &Worker,
    call: &Call<'_>,
    connection: &Live,
) -> Result<(Undecided, Admission), Failure> {
    let Call {
        pod,
        peer,
        authority,
        host,
        client,
    } = *call;
    let destination = authority::target(authority, peer.dialled)?;
    connection.learn(|facts| facts.destination.address = Some(destination));
    let arrival = Arrival {
        pod: Arc::clone(pod),
        via: Via::Tunnel {
            identity: peer.identity.clone(),
            peer: peer.address.ip(),
        },
        destination,
    };
    let admission = authorize::authorize(worker, arrival, connection).await?;
    if admission.destination.application_tunnel.is_some() {
        return Err(Failure::ApplicationTunnel(pod.workload_uid()));
    }
    let service = dialled_service(worker, &admission.destination, host, destination.port());
    connection.learn(|facts| facts.service = service);
    let application = deliver::deliver(&worker.shared, pod, destination, client).await?;
    Ok((application, admission))
}

/// The service that the client dialled, for records alone: the client's word, believed only of a service that leads here.
fn dialled_service(
    worker: &Worker,
    destination: &Workload,
    said: Option<&str>,
    port: u16,
) -> Option<ServiceLabel> {
    let snapshot = worker.shared.config.load();
    let by_name = said
        .and_then(|host| snapshot.service_by_hostname(host))
        .filter(|service| destination.services.contains_key(&service.name));
    match by_name {
        Some(service) => Some(label_of(service)),
        None => service_on_port(&snapshot, destination, port).map(|service| label_of(&service)),
    }
}

/// The client that the application shall see: always the tunnel peer's address, which TCP has proven. The port is the
/// client's own word, taken only when it speaks of that same address.
fn client_of(peer: &TunnelPeer, incoming: &Incoming) -> ClientAddr {
    let said = incoming.request().forwarded.client;
    let client = said
        .map(weft_types::address::canonical)
        .filter(|said| said.ip() == peer.address.ip());
    ClientAddr(client.unwrap_or(peer.address))
}

#[cfg(test)]
mod tests;
