//! Services: a name and addresses in front of workloads.

use std::sync::Arc;

use ipnet::IpNet;

use crate::identity::SpiffeId;
use crate::name::ServiceName;
use crate::workload::{GatewayAddress, NetworkAddress};

/// A service as configuration describes it (`istio.workload.Service`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and hostname.
    pub name: ServiceName,
    /// Short name (`metadata.name`).
    pub short_name: Arc<str>,
    /// Virtual addresses; empty for a headless service.
    pub addresses: Vec<NetworkAddress>,
    /// Virtual addresses given as whole ranges (`NetworkAddress.length` shorter than the address).
    pub address_ranges: Vec<AddressRange>,
    /// Ports that clients dial.
    pub ports: Vec<ServicePort>,
    /// Identities that endpoints may present besides their own.
    pub subject_alt_names: Vec<SpiffeId>,
    /// Waypoint that its traffic must pass.
    pub waypoint: Option<GatewayAddress>,
    /// Several waypoints by weight (a waypoint canary); wins over `waypoint` when not empty.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// A policy targets this service and direct traffic is not allowed: only its waypoint may deliver.
    pub requires_waypoint: bool,
}

/// A range of addresses within a named network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    /// Network; empty is the local one.
    pub network: Arc<str>,
    /// The range, host bits zero.
    pub range: IpNet,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Port that clients dial.
    pub service_port: u16,
    /// Port that workloads listen on; 0 when each workload says its own.
    pub target_port: u16,
}

/// A waypoint and its share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedWaypoint {
    /// Where it is.
    pub destination: GatewayAddress,
    /// Share, relative to the sum of all.
    pub weight: u32,
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Scopes in which an endpoint should match the client, the most important first; an empty list: no preference.
    pub preference: Vec<RoutingScope>,
    /// Endpoints that match less than the whole preference are not used at all (`STRICT`, internalTrafficPolicy: Local).
    pub strict: bool,
    /// Deliver to the dialled address itself.
    pub passthrough: bool,
    /// Use endpoints that are not ready as well (`publishNotReadyAddresses`).
    pub allow_unhealthy: bool,
    /// ClientIP session affinity: the timeout in seconds, 0 for none.
    pub client_ip_affinity_secs: u32,
}

/// A scope of locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoutingScope {
    /// Same region.
    Region,
    /// Same zone.
    Zone,
    /// Same subzone.
    Subzone,
    /// Same node.
    Node,
    /// Same cluster.
    Cluster,
    /// Same network.
    Network,
}
