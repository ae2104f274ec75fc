//! Domain words of the mesh, as pure data.
//!
//! Every crate speaks in these types; wire formats (xDS, YAML, the node protocol) are converted at their border.
//! No I/O, no async, no derives of a wire format here.

#![forbid(unsafe_code)]

pub mod address;
pub mod enrollment;
pub mod identity;
pub mod name;
pub mod policy;
pub mod service;
pub mod settings;
pub mod workload;

pub use address::{ClientAddr, OrigDst};
pub use enrollment::{DataplaneMode, Enrollment};
pub use identity::{SpiffeId, SpiffeIdError, TrustDomain};
pub use name::{NodeName, PodUid, PolicyName, ResourceName, ServiceName, WorkloadUid};
pub use policy::{
    Action, AppliedPolicies, AuthorizationPolicy, Clause, Match, Rule, Scope, ServiceAccountMatch,
    StringMatch,
};
pub use service::{
    AddressRange, LoadBalancing, RoutingScope, Service, ServicePort, WeightedWaypoint,
};
pub use settings::{MeshSettings, OutboundMode};
pub use workload::{
    ApplicationTunnel, GatewayAddress, GatewayDestination, Health, Locality, NetworkAddress,
    NetworkMode, PortMapping, TunnelProtocol, Workload, WorkloadKind,
};
