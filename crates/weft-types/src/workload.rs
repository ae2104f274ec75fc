//! Workloads: anything with an address that the mesh knows, usually a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::{SpiffeId, SpiffeIdError, TrustDomain};
use crate::name::{NodeName, PolicyName, ServiceName, WorkloadUid};

/// A workload as configuration describes it (`istio.workload.Workload`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Unique name in configuration.
    pub uid: WorkloadUid,
    /// Pod name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Addresses, v4 and v6; empty while the pod has none yet.
    pub addresses: Vec<IpAddr>,
    /// Hostname, when it is reached by name instead of address.
    pub hostname: Arc<str>,
    /// Network that the addresses belong to; empty is the local one.
    pub network: Arc<str>,
    /// How it takes mesh traffic.
    pub tunnel: TunnelProtocol,
    /// Trust domain of its identity.
    pub trust_domain: TrustDomain,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// Waypoint that its traffic must pass, when addressed as a workload.
    pub waypoint: Option<GatewayAddress>,
    /// Node that runs it.
    pub node: NodeName,
    /// `service.istio.io/canonical-name`, for telemetry.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`, for telemetry.
    pub canonical_revision: Arc<str>,
    /// What owns the pod.
    pub kind: WorkloadKind,
    /// Name of the owner.
    pub workload_name: Arc<str>,
    /// It terminates HBONE itself: no node proxy in front of it.
    pub native_tunnel: bool,
    /// How bytes reach the application behind the tunnel, when not plainly.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Policies that select this workload by labels or namespace scope beyond the global and namespace ones.
    pub authorization_policies: Vec<PolicyName>,
    /// Whether it takes new connections.
    pub health: Health,
    /// Cluster that it belongs to.
    pub cluster: Arc<str>,
    /// Gateway to its network, when that is not ours.
    pub network_gateway: Option<GatewayAddress>,
    /// Services that it backs, with the ports that it backs them on.
    /// Shared: replicas back the same services, and a map for each would be half of a proxy's memory at 100 000 workloads.
    pub services: Arc<BTreeMap<ServiceName, Vec<PortMapping>>>,
    /// Where it runs.
    pub locality: Locality,
    /// Whether its addresses are its own.
    pub network_mode: NetworkMode,
    /// Relative weight among endpoints; 1 when not given.
    pub capacity: u32,
}

/// How a workload takes mesh traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP: not in the mesh.
    #[default]
    None,
    /// HTTP/2 CONNECT over mTLS on port 15008.
    Hbone,
    /// Istio sidecar mTLS without HBONE; we treat it as unreachable by tunnel.
    LegacyIstioMtls,
}

/// Whether a workload takes new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// It does.
    #[default]
    Healthy,
    /// Not ready, or being deleted.
    Unhealthy,
}

/// Whether a workload's addresses are its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// They are.
    #[default]
    Standard,
    /// They are the node's: never used as identity.
    HostNetwork,
}

/// What owns a pod (`workload_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// A Deployment, and all that is treated like one.
    Deployment,
    /// A CronJob.
    CronJob,
    /// A bare pod.
    #[default]
    Pod,
    /// A Job.
    Job,
}

/// A destination in another network or behind a waypoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// Where it is.
    pub destination: GatewayDestination,
    /// Its HBONE port; 15008 when not given.
    pub hbone_port: u16,
}

/// How a gateway is named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// By address.
    Address(NetworkAddress),
    /// By service name.
    Hostname(ServiceName),
}

/// An address within a named network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// Network; empty is the local one.
    pub network: Arc<str>,
    /// Address in it.
    pub address: IpAddr,
}

/// How bytes reach the application behind the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// A PROXY protocol v2 header comes first.
    pub proxy_protocol: bool,
    /// The port to connect to, when it is not the one asked for.
    pub port: Option<u16>,
}

/// One port of a service and where it lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// Port that clients dial.
    pub service_port: u16,
    /// Port that the workload listens on; 0 when the service itself says.
    pub target_port: u16,
}

/// Where a workload runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

impl Workload {
    /// The identity that its certificate must carry.
    pub fn identity(&self) -> Result<SpiffeId, SpiffeIdError> {
        SpiffeId::new(
            self.trust_domain.clone(),
            &self.namespace,
            &self.service_account,
        )
    }
}
