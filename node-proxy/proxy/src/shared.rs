//! What every worker reads and the control thread writes: snapshots, never locks held across an await.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use weft_bpf::SocketStorage;
use weft_config::ProxyConfig;
use weft_identity::Identities;
use weft_runtime::Shutdown;
use weft_types::NodeName;

use crate::connections::Telemetry;
use crate::endpoints::SharedAffinity;
use crate::pods::Pods;

/// One for the process.
pub(crate) struct Shared {
    /// The node that this is.
    pub(crate) node: NodeName,
    /// What the controller said.
    pub(crate) config: ProxyConfig,
    /// Certificates and keys.
    pub(crate) identities: Identities,
    /// The pods served here.
    pub(crate) pods: Pods,
    /// The map through which proxy and hooks speak about one socket; none until the holder has given it.
    pub(crate) storage: ArcSwapOption<SocketStorage>,
    /// Which endpoint a client keeps.
    pub(crate) affinity: SharedAffinity,
    /// Records and counts.
    pub(crate) telemetry: Telemetry,
    /// Destinations that should be refused at connect and are not, for want of room.
    pub(crate) refusals_omitted: Gauge,
    /// Connections that passed and would not if policies that are only tried out were enforced, by policy.
    pub(crate) dry_runs: Family<Vec<(&'static str, String)>, Counter>,
    /// Application connections and accept loops: a drain waits for these.
    pub(crate) flows: Shutdown,
    /// Tunnel drivers and housekeeping: end when the workers end.
    pub(crate) background: Shutdown,
}

impl Shared {
    /// The socket storage for one use.
    pub(crate) fn storage(&self) -> Option<Arc<SocketStorage>> {
        self.storage.load_full()
    }
}
