//! Whether a connection may reach an application here. Pure: the same for tunnels, plaintext and pods of one node, and
//! asked again for live connections whenever configuration changes.
//!
//! In: how a connection arrived, and a snapshot. Out: admitted, refused, or not yet known.
//! The order: the destination must be known and be what runs here; one that leaves the mesh is open to plaintext, as it is without
//! a mesh, although its agent has not let go of it yet; the peer's certificate must be the one that belongs
//! to its address; a service that must be reached through its waypoint is; then the policies, unless the waypoint that
//! configuration binds to the destination has judged them with the real client.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_config::Snapshot;
use weft_policy::{Connection, Reason, Verdict};
use weft_types::{
    GatewayAddress, GatewayDestination, PolicyName, SpiffeId, TunnelProtocol, Workload,
};

use crate::failure::Denial;
use crate::names::target_port;
use crate::pods::Pod;

/// How a connection arrived at a pod of this node.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// The pod that it is for.
    pub(crate) pod: Arc<Pod>,
    /// What is known about who is calling.
    pub(crate) via: Via,
    /// Address and port of the application.
    pub(crate) destination: SocketAddr,
}

/// What is known about who is calling.
#[derive(Clone, Debug)]
pub(crate) enum Via {
    /// A tunnel: identity from the certificate, address of the TCP peer.
    Tunnel { identity: SpiffeId, peer: IpAddr },
    /// A pod of this node: identity and address are known from its network namespace.
    Node { identity: SpiffeId, address: IpAddr },
    /// No mesh: an address, which proves nothing.
    Plaintext { peer: IpAddr },
}

/// The answer.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    /// It may pass.
    Admit(Admission),
    /// It may not.
    Deny(Denial),
    /// Something that decides has not arrived: wait, and then deny with this.
    Hold(Denial),
}

/// What was found out on the way.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// The caller's workload, by its address.
    pub(crate) source: Option<Arc<Workload>>,
    /// The workload that is called.
    pub(crate) destination: Arc<Workload>,
    /// It passes, and would not if policies that are only tried out were enforced.
    pub(crate) dry_run: Option<DryRun>,
    /// The pod is out of the mesh: the connection is none of its business, now or later.
    pub(crate) outside: bool,
}

/// What a policy that is only tried out would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DryRun {
    /// The DENY policy that matches; without one, no ALLOW policy does.
    pub(crate) policy: Option<PolicyName>,
}

impl Via {
    /// Address of the caller, as policies see it.
    pub(crate) fn address(&self) -> IpAddr {
        match self {
            Self::Tunnel { peer, .. } | Self::Plaintext { peer } => *peer,
            Self::Node { address, .. } => *address,
        }
    }

    /// Verified identity of the caller.
    pub(crate) fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Tunnel { identity, .. } | Self::Node { identity, .. } => Some(identity),
            Self::Plaintext { .. } => None,
        }
    }
}

/// Decides.
pub(crate) fn decide(snapshot: &Snapshot, arrival: &Arrival) -> Decision {
    let pod = &arrival.pod;
    let Some(workload) = snapshot.workload(&pod.workload()) else {
        return Decision::Hold(Denial::UnknownWorkload(pod.workload_uid()));
    };
    if workload.service_account != pod.spec.service_account {
        return Decision::Hold(Denial::ForeignWorkload(pod.workload_uid()));
    }
    let source = snapshot.workload_by_address(&workload.network, arrival.via.address());
    if let (Via::Tunnel { identity, peer }, Some(source)) = (&arrival.via, source)
        && source.identity().as_ref() != Ok(identity)
    {
        // Its successor at that address may be ahead of the configuration: wait for it.
        return Decision::Hold(Denial::WrongIdentity {
            address: *peer,
            expected: source
                .identity()
                .map_or_else(|error| error.to_string(), |id| id.to_string()),
            got: identity.clone(),
        });
    }
    if matches!(arrival.via, Via::Plaintext { .. }) && pod.is_leaving(workload) {
        return Decision::Admit(Admission {
            source: source.cloned(),
            destination: Arc::clone(workload),
            dry_run: None,
            outside: true,
        });
    }
    // Only a caller whose identity was verified can be a waypoint.
    let caller = source.filter(|_| arrival.via.identity().is_some());
    let dry_run = match passed_waypoint(
        snapshot,
        workload,
        arrival.destination.port(),
        caller.map(|c| &**c),
    ) {
        Err(denial) => return Decision::Deny(denial),
        Ok(true) => None,
        Ok(false) => match by_policy(snapshot, workload, arrival) {
            Ok(dry_run) => dry_run,
            Err(refused) => return refused,
        },
    };
    Decision::Admit(Admission {
        source: source.cloned(),
        destination: Arc::clone(workload),
        dry_run,
        outside: false,
    })
}

/// Whether a caller who is refused for plaintext may know more than we do: one of the mesh speaks plainly only to what
/// its proxy takes to be out of it.
pub(crate) fn may_be_behind(snapshot: &Snapshot, arrival: &Arrival) -> bool {
    let Via::Plaintext { peer } = arrival.via else {
        return false;
    };
    let network = snapshot
        .workload(&arrival.pod.workload())
        .map(|w| &w.network);
    network
        .and_then(|network| snapshot.workload_by_address(network, peer))
        .is_some_and(|caller| caller.tunnel == TunnelProtocol::Hbone)
}

/// Whether the caller is a waypoint of the destination; refused when a service insists on its waypoint and it is not.
fn passed_waypoint(
    snapshot: &Snapshot,
    workload: &Workload,
    port: u16,
    caller: Option<&Workload>,
) -> Result<bool, Denial> {
    let is = |gateway: &GatewayAddress| {
        caller.is_some_and(|caller| is_behind(snapshot, gateway, caller))
    };
    let mut passed = workload.waypoint.as_ref().is_some_and(is);
    for (name, mappings) in workload.services.iter() {
        let Some(service) = snapshot.service(name) else {
            continue;
        };
        let has_waypoint = service.waypoint.is_some() || !service.weighted_waypoints.is_empty();
        if !has_waypoint && !service.requires_waypoint {
            continue;
        }
        let serves = |m: &weft_types::PortMapping| target_port(service, *m) == port;
        if !mappings.iter().any(serves) {
            continue;
        }
        let weighted = service.weighted_waypoints.iter().map(|w| &w.destination);
        let came_through = service.waypoint.iter().chain(weighted).any(is);
        if service.requires_waypoint && !came_through {
            return Err(Denial::PastWaypoint(name.clone()));
        }
        passed |= came_through;
    }
    Ok(passed)
}

/// Whether a workload is one that a gateway address leads to.
fn is_behind(snapshot: &Snapshot, gateway: &GatewayAddress, workload: &Workload) -> bool {
    match &gateway.destination {
        GatewayDestination::Hostname(name) => workload.services.contains_key(name),
        GatewayDestination::Address(at) => {
            let same = |found: &Arc<Workload>| found.uid == workload.uid;
            if snapshot
                .workload_by_address(&at.network, at.address)
                .is_some_and(same)
            {
                return true;
            }
            snapshot
                .service_by_address(&at.network, at.address)
                .is_some_and(|service| workload.services.contains_key(&service.name))
        }
    }
}

/// Refused, not yet known, or admitted: with what policies that are only tried out say otherwise.
fn by_policy(
    snapshot: &Snapshot,
    workload: &Arc<Workload>,
    arrival: &Arrival,
) -> Result<Option<DryRun>, Decision> {
    let policies = arrival.pod.policies(snapshot, workload);
    let connection = Connection {
        source_identity: arrival.via.identity(),
        source_ip: arrival.via.address(),
        destination_ip: arrival.destination.ip(),
        destination_port: arrival.destination.port(),
    };
    let decision = policies.authorize(&connection);
    let policy = |reason: &Reason<'_>| reason.policy().cloned();
    match (decision.verdict, &decision.reason) {
        (Verdict::Allow, _) => {
            let denied = decision
                .dry_run
                .filter(|tried| tried.verdict == Verdict::Deny);
            Ok(denied.map(|tried| DryRun {
                policy: policy(&tried.reason),
            }))
        }
        (_, Reason::Missing(name)) => Err(Decision::Hold(Denial::MissingPolicy((*name).clone()))),
        (_, Reason::Broken(name)) => Err(Decision::Deny(Denial::BrokenPolicy((*name).clone()))),
        (_, reason) => Err(Decision::Deny(
            policy(reason).map_or(Denial::NotAllowed, Denial::ByPolicy),
        )),
    }
}

#[cfg(test)]
mod tests;
