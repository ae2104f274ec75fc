//! Labels and annotations that the mesh reads, each with its name under `istio.io/` where it has one.

/// Namespace and pod: `ambient` or `none`.
pub const DATAPLANE_MODE: &str = "weft.dev/dataplane-mode";
/// The same word of Istio, read when `istioLabels` is on.
pub const ISTIO_DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Namespace, service, pod: the name of a waypoint, or `none`.
pub const USE_WAYPOINT: &str = "weft.dev/use-waypoint";
/// The same word of Istio.
pub const ISTIO_USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Beside it: the waypoint's namespace.
pub const USE_WAYPOINT_NAMESPACE: &str = "weft.dev/use-waypoint-namespace";
/// The same word of Istio.
pub const ISTIO_USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// Pod annotation: path of its network namespace, where no CNI plugin tells (standalone).
pub const NETNS: &str = "weft.dev/netns";
/// Service annotation: a service with a policy for its waypoint may be reached directly as well.
pub const ALLOW_DIRECT: &str = "weft.dev/allow-direct";
/// Policy annotation: report what the policy would do, enforce nothing.
pub const DRY_RUN: &str = "istio.io/dry-run";

/// The value that switches a mode on.
pub const AMBIENT: &str = "ambient";
/// The value that switches a mode off.
pub const NONE: &str = "none";

/// EndpointSlice: the service that it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Node: region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Node: zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Node: subzone.
pub const SUBZONE: &str = "topology.istio.io/subzone";

/// Telemetry: canonical name and its fallbacks, the first that is there wins.
pub const CANONICAL_NAMES: [&str; 3] = [
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];
/// Telemetry: canonical revision and its fallbacks.
pub const CANONICAL_REVISIONS: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];
