//! Connects to where the route says: through a tunnel, plainly, or to a pod of this node.
//!
//! In: a source and a route. Out: an upstream. A connect that fails before any byte was sent is tried at another endpoint,
//! and the one that failed is left alone for a while. One that meets a pod on its way into the mesh, or out of it, is made anew.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_balance::{Endpoint, EndpointId, NoEndpoint};
use weft_hbone::{ConnectRequest, Forwarded, HBONE_PORT, TraceParent};
use weft_runtime::Backoff;
use weft_telemetry::Security;
use weft_types::{Service, SpiffeId, TunnelProtocol, Workload};

use super::identify::Source;
use super::relay::{Reached, Upstream};
use super::route::{Target, Waypoint, route};
use crate::endpoints::{Client, Picked};
use crate::failure::Failure;
use crate::inbound::authorize::HOLD_MAX;
use crate::local::{self, Caller};
use crate::names::{baggage_of, label_of};
use crate::passthrough::watch_peer;
use crate::pods::Pod;
use crate::socket;
use crate::tunnel::{self, TunnelKey, family_of};
use crate::worker::{Live, Worker};

/// Endpoints tried for one connection: with half of them gone without notice, one connection in eight fails.
const ATTEMPTS_MAX: usize = 3;

/// The next stop of a connection.
enum Hop {
    /// In plaintext.
    Plain(SocketAddr),
    /// Through a tunnel to `to`, where one of `expected` must answer.
    Tunnel {
        to: SocketAddr,
        expected: Arc<[SpiffeId]>,
        authority: SocketAddr,
    },
    /// A pod of this node.
    Local(Arc<Pod>, SocketAddr),
}

/// How long a connection keeps asking for a tunnel where nobody listens. Configuration tells of a pod that joins before its
/// node has made its listeners, which takes some tens of milliseconds, and seconds on a node that has no processor to spare.
const JOINING_MAX: Duration = HOLD_MAX;
/// First and longest wait between two of these tries.
const JOINING_WAIT_MIN: Duration = Duration::from_millis(5);
const JOINING_WAIT_MAX: Duration = Duration::from_millis(100);

/// Connects. Where nobody listens for tunnels, the pod is not in the mesh yet or no longer: what to do is decided anew, by
/// configuration alone, until it is or configuration says otherwise.
pub(super) async fn connect(
    worker: &Worker,
    source: &Source,
    connection: &Live,
) -> Result<Reached, Failure> {
    let mut waits = Backoff::random(JOINING_WAIT_MIN, JOINING_WAIT_MAX);
    let end = Instant::now() + JOINING_MAX;
    loop {
        match attempt(worker, source, connection).await {
            Err(failure) if failure.is_no_listener() && Instant::now() < end => {
                tracing::debug!(%failure, to = %source.dialled.0, "nobody takes tunnels there, trying again");
                tokio::time::sleep(waits.next_wait()).await;
            }
            done => return done,
        }
    }
}

async fn attempt(worker: &Worker, source: &Source, connection: &Live) -> Result<Reached, Failure> {
    let snapshot = worker.shared.config.snapshot();
    let dialled = source.dialled.0;
    let route = route(
        &snapshot,
        &source.workload,
        source.dialled,
        &mut rand::rng(),
    )?;
    let label = route.service.as_deref().map(label_of);
    connection.learn(|facts| facts.service = label);
    drop(snapshot);
    match &route.target {
        Target::Unknown => reach(worker, source, connection, Hop::Plain(dialled))
            .await
            .map(Reached::new),
        Target::Workload(workload) => {
            let hop = to_workload(worker, source, workload, dialled, None);
            learn_destination(connection, workload);
            reach(worker, source, connection, hop?)
                .await
                .map(Reached::new)
        }
        Target::Waypoint(Waypoint::Workload(workload, to)) => {
            learn_destination(connection, workload);
            let hop = to_waypoint(workload, *to, None, dialled)?;
            reach(worker, source, connection, hop)
                .await
                .map(Reached::new)
        }
        Target::Waypoint(Waypoint::Service(service, port)) => {
            let found = balanced(worker, source, connection, (service, *port), true).await;
            found.map_err(|failure| match failure {
                Failure::NoEndpoint { .. } => Failure::NoWaypoint(service.name.to_string()),
                other => other,
            })
        }
        Target::Service(service, port) => {
            balanced(worker, source, connection, (service, *port), false).await
        }
    }
}

/// Tries endpoints of a service until one takes the connection.
async fn balanced(
    worker: &Worker,
    source: &Source,
    connection: &Live,
    service: (&Arc<Service>, u16),
    is_waypoint: bool,
) -> Result<Reached, Failure> {
    let dialled = source.dialled.0;
    let mut tried: Vec<EndpointId> = Vec::new();
    let mut last = None;
    while tried.len() < ATTEMPTS_MAX {
        let endpoint = match pick(worker, source, service, &tried) {
            Ok(Picked::Endpoint(endpoint)) => endpoint,
            Ok(Picked::AsDialled) => {
                let reached = reach(worker, source, connection, Hop::Plain(dialled)).await;
                return reached.map(Reached::new);
            }
            Err(failure) => return Err(last.unwrap_or(failure)),
        };
        learn_destination(connection, &endpoint.workload);
        let occupied = worker.endpoints.occupy(endpoint.id());
        let attempt = async {
            let hop = to_endpoint(worker, source, &endpoint, service.0, is_waypoint)?;
            reach(worker, source, connection, hop).await
        };
        match attempt.await {
            Ok(upstream) => {
                worker.endpoints.succeeded(endpoint.id());
                return Ok(Reached::balanced(upstream, occupied));
            }
            Err(failure) if failure.is_retryable() => {
                tracing::debug!(%failure, endpoint = %endpoint.workload.uid, "endpoint set aside");
                worker.endpoints.failed(endpoint.id());
                tried.push(endpoint.id());
                last = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(last.expect("the loop ends by itself only after a failure"))
}

fn pick(
    worker: &Worker,
    source: &Source,
    (service, port): (&Arc<Service>, u16),
    tried: &[EndpointId],
) -> Result<Picked, Failure> {
    let client = Client {
        workload: &source.workload,
        address: source.client.ip(),
    };
    let snapshot = worker.shared.config.load();
    worker
        .endpoints
        .pick(&snapshot, (service, port), &client, tried)
        .map_err(|reason: NoEndpoint| Failure::NoEndpoint {
            service: service.name.clone(),
            port,
            reason,
        })
}

fn to_endpoint(
    worker: &Worker,
    source: &Source,
    endpoint: &Endpoint,
    service: &Service,
    is_waypoint: bool,
) -> Result<Hop, Failure> {
    let dialled = source.dialled.0;
    let address = endpoint.address(dialled.ip()).ok_or_else(|| {
        // Known by name alone, or to be reached through a gateway.
        Failure::OtherNetwork(endpoint.workload.uid.clone())
    })?;
    if is_waypoint {
        to_waypoint(&endpoint.workload, address, Some(service), dialled)
    } else {
        to_workload(worker, source, &endpoint.workload, address, Some(service))
    }
}

/// How a workload is reached at an address of its own.
fn to_workload(
    worker: &Worker,
    source: &Source,
    workload: &Arc<Workload>,
    address: SocketAddr,
    service: Option<&Service>,
) -> Result<Hop, Failure> {
    if workload.network != source.workload.network {
        return Err(Failure::OtherNetwork(workload.uid.clone()));
    }
    let table = worker.shared.pods.table();
    let here = table
        .by_workload(&workload.uid)
        .filter(|pod| pod.has_address(address.ip()));
    if let Some(pod) = here {
        let itself = pod.spec.uid == source.pod.spec.uid;
        let shortcut = workload.tunnel == TunnelProtocol::Hbone
            && !worker.shared.config.load().settings().require_wire_mtls;
        // A pod's way to itself never leaves it, so there is no wire to protect and no tunnel to dial.
        if itself || shortcut {
            return Ok(Hop::Local(Arc::clone(pod), address));
        }
    }
    if workload.tunnel != TunnelProtocol::Hbone {
        return Ok(Hop::Plain(address));
    }
    Ok(Hop::Tunnel {
        to: SocketAddr::new(address.ip(), HBONE_PORT),
        expected: expected(workload, service)?,
        authority: address,
    })
}

fn to_waypoint(
    workload: &Workload,
    to: SocketAddr,
    service: Option<&Service>,
    dialled: SocketAddr,
) -> Result<Hop, Failure> {
    Ok(Hop::Tunnel {
        to,
        expected: expected(workload, service)?,
        authority: dialled,
    })
}

/// Who may answer: the identity that configuration gives the workload, or one that the service names besides.
fn expected(workload: &Workload, service: Option<&Service>) -> Result<Arc<[SpiffeId]>, Failure> {
    let own = workload
        .identity()
        .map_err(|_| Failure::NoIdentity(workload.uid.clone()))?;
    let besides = service
        .into_iter()
        .flat_map(|s| s.subject_alt_names.iter().cloned());
    Ok(std::iter::once(own).chain(besides).collect())
}

async fn reach(
    worker: &Worker,
    source: &Source,
    connection: &Live,
    hop: Hop,
) -> Result<Upstream, Failure> {
    match hop {
        Hop::Plain(to) => plain(source, to, connection).await.map(Upstream::Plain),
        Hop::Local(pod, to) => {
            connection.learn(|facts| {
                facts.security = Security::MutualTls;
                facts.destination.address = Some(to);
                facts.destination.identity = pod.identity();
                facts.hbone_target = None;
            });
            let caller = Caller {
                pod: &source.pod.spec.uid,
                identity: &source.identity,
                client: source.client,
            };
            local::connect(worker, &caller, &pod, to, connection)
                .await
                .map(Upstream::Local)
        }
        Hop::Tunnel {
            to,
            expected,
            authority,
        } => {
            connection.learn(|facts| {
                facts.security = Security::MutualTls;
                facts.destination.address = Some(to);
                facts.destination.identity = None;
                facts.hbone_target = Some(authority.to_string());
            });
            let answers = expected.first().cloned();
            let key = TunnelKey {
                pod: source.pod.spec.uid.clone(),
                identity: source.identity.clone(),
                source: source_for(source, to)?,
                expected,
                to,
            };
            let request = request(source, authority, connection);
            let tunnel = tunnel::open(&worker.tunnels, &key, &request).await?;
            // Only now it is proven.
            connection.learn(|facts| facts.destination.identity = answers);
            Ok(Upstream::Tunnel(Box::new(tunnel)))
        }
    }
}

fn request(source: &Source, authority: SocketAddr, connection: &Live) -> ConnectRequest {
    let mut request = ConnectRequest::new(authority);
    request.baggage = baggage_of(&source.workload);
    request.forwarded = Forwarded {
        client: Some(source.client),
        host: connection
            .facts()
            .service
            .as_ref()
            .map(|service| service.name.hostname.to_string()),
    };
    request.traceparent = Some(TraceParent::random());
    request
}

async fn plain(
    source: &Source,
    to: SocketAddr,
    connection: &Live,
) -> Result<tokio::net::TcpStream, Failure> {
    connection.learn(|facts| {
        facts.security = Security::Unknown;
        facts.destination.address = Some(to);
        facts.destination.identity = None;
        facts.hbone_target = None;
    });
    let from = source_for(source, to)?;
    let socket = source.pod.stock.take(family_of(to.ip())).await?;
    socket::reset_when_killed(&socket);
    let stream = socket::connect(socket, Some(from), to)
        .await
        .map_err(|source| Failure::Connect { to, source })?;
    watch_peer(&stream);
    Ok(stream)
}

/// The pod's own address to connect from: the one that the application used, if it fits.
fn source_for(source: &Source, to: SocketAddr) -> Result<IpAddr, Failure> {
    let used = source.client.ip();
    if used.is_ipv4() == to.is_ipv4() && source.pod.has_address(used) {
        return Ok(used);
    }
    source
        .pod
        .address_like(to.ip())
        .ok_or_else(|| Failure::Connect {
            to,
            source: io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the pod has no address of that family",
            ),
        })
}

fn learn_destination(connection: &Live, workload: &Arc<Workload>) {
    connection.learn(|facts| facts.destination.workload = Some(Arc::clone(workload)));
}
