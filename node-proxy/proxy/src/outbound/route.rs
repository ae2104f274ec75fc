//! Where a connection should go. Pure: a snapshot and an address in, a plan out.
//!
//! A Service is asked for its waypoint first, a workload dialled by its own address for its own; then the endpoint itself.
//! Addresses that the mesh does not know pass through, or are refused, by the mesh's setting.

use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;
use weft_config::{Destination, Snapshot};
use weft_types::{GatewayAddress, GatewayDestination, OrigDst, OutboundMode, Service, Workload};

use crate::failure::Failure;
use crate::names::service_on_port;

/// A plan for one connection.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// The service that the connection is for, as records name it.
    pub(super) service: Option<Arc<Service>>,
    pub(super) target: Target,
}

/// Where to connect.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// The address dialled, in plaintext: the mesh does not know it.
    Unknown,
    /// A workload, at the address dialled.
    Workload(Arc<Workload>),
    /// An endpoint of a service, on this port of it.
    Service(Arc<Service>, u16),
    /// A waypoint, which is told the address dialled.
    Waypoint(Waypoint),
}

/// How a waypoint is reached; the port is that of its tunnel.
#[derive(Clone, Debug)]
pub(super) enum Waypoint {
    Workload(Arc<Workload>, SocketAddr),
    Service(Arc<Service>, u16),
}

/// Plans a connection of a workload to the address that it dialled.
pub(super) fn route(
    snapshot: &Snapshot,
    source: &Workload,
    OrigDst(dialled): OrigDst,
    random: &mut impl Rng,
) -> Result<Route, Failure> {
    match snapshot.destination(&source.network, dialled.ip()) {
        Some(Destination::Service(service)) => to_service(snapshot, service, dialled, random),
        Some(Destination::Workload(workload)) => to_workload(snapshot, workload, dialled),
        None => match snapshot.settings().outbound {
            OutboundMode::AllowAny => Ok(Route {
                service: None,
                target: Target::Unknown,
            }),
            OutboundMode::RegistryOnly => Err(Failure::RegistryOnly(dialled)),
        },
    }
}

fn to_service(
    snapshot: &Snapshot,
    service: &Arc<Service>,
    dialled: SocketAddr,
    random: &mut impl Rng,
) -> Result<Route, Failure> {
    let port = dialled.port();
    // A waypoint may serve ports that the service itself does not list, but a service knows its ports.
    if !service.ports.iter().any(|p| p.service_port == port) {
        return Err(Failure::NoPort {
            service: service.name.clone(),
            port,
        });
    }
    let target = match waypoint_of(service, random) {
        Some(gateway) => Target::Waypoint(find_waypoint(snapshot, gateway)?),
        None => Target::Service(Arc::clone(service), port),
    };
    Ok(Route {
        service: Some(Arc::clone(service)),
        target,
    })
}

fn to_workload(
    snapshot: &Snapshot,
    workload: &Arc<Workload>,
    dialled: SocketAddr,
) -> Result<Route, Failure> {
    let target = match &workload.waypoint {
        Some(gateway) => Target::Waypoint(find_waypoint(snapshot, gateway)?),
        None => Target::Workload(Arc::clone(workload)),
    };
    Ok(Route {
        service: service_on_port(snapshot, workload, dialled.port()),
        target,
    })
}

/// A service's waypoint: one of several by weight, or its only one.
fn waypoint_of<'s>(service: &'s Service, random: &mut impl Rng) -> Option<&'s GatewayAddress> {
    let total: u64 = service
        .weighted_waypoints
        .iter()
        .map(|one| u64::from(one.weight))
        .sum();
    if total == 0 {
        return service.waypoint.as_ref();
    }
    let mut at = random.random_range(0..total);
    let chosen = service.weighted_waypoints.iter().find(|one| {
        let weight = u64::from(one.weight);
        let found = at < weight;
        at = at.saturating_sub(weight);
        found
    });
    chosen.map(|one| &one.destination)
}

fn find_waypoint(snapshot: &Snapshot, gateway: &GatewayAddress) -> Result<Waypoint, Failure> {
    let port = gateway.hbone_port;
    let service = |service: &Arc<Service>| Waypoint::Service(Arc::clone(service), port);
    match &gateway.destination {
        GatewayDestination::Hostname(name) => snapshot
            .service(name)
            .map(service)
            .ok_or_else(|| Failure::NoWaypoint(name.to_string())),
        GatewayDestination::Address(at) => snapshot
            .service_by_address(&at.network, at.address)
            .map(service)
            .or_else(|| {
                let workload = snapshot.workload_by_address(&at.network, at.address)?;
                let address = SocketAddr::new(at.address, port);
                Some(Waypoint::Workload(Arc::clone(workload), address))
            })
            .ok_or_else(|| Failure::NoWaypoint(at.address.to_string())),
    }
}

#[cfg(test)]
mod tests;
