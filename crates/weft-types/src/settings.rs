//! Mesh-wide settings that a node proxy acts on.

use std::time::Duration;

use ipnet::IpNet;

use crate::identity::TrustDomain;

/// The settings; names follow Istio's MeshConfig where it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// What happens to traffic for addresses that the mesh does not know.
    pub outbound: OutboundMode,
    /// How long connections may live on in a proxy that is being replaced.
    pub drain_limit: Duration,
    /// No shortcut on the same node: every byte between two pods is inside TLS.
    pub require_wire_mtls: bool,
    /// Requested lifetime of workload certificates.
    pub certificate_ttl: Duration,
    /// Access log as JSON instead of text.
    pub access_log_json: bool,
    /// Write an access record for each connection.
    pub access_log: bool,
    /// Name of the cluster, for telemetry and workload uids.
    pub cluster: String,
    /// Where addresses of pods come from. One of these that is not known (yet) is asked for before it counts as unknown.
    pub pod_cidrs: Vec<IpNet>,
}

/// What happens to traffic for addresses that the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundMode {
    /// It passes through, in plaintext.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::new("cluster.local").expect("a legal literal"),
            outbound: OutboundMode::AllowAny,
            drain_limit: Duration::from_hours(1),
            require_wire_mtls: false,
            certificate_ttl: Duration::from_hours(24),
            access_log_json: false,
            access_log: true,
            cluster: "Kubernetes".to_owned(),
            pod_cidrs: Vec::new(),
        }
    }
}
