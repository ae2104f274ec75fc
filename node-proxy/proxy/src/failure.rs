//! Why a connection did not go through, by blame, with what the client, the peer and the operator are told.
//!
//! In: errors of the phases. Out: response flag, HTTP status for a tunnel peer, one line for the record.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use thiserror::Error;
use weft_balance::NoEndpoint;
use weft_hbone::{Authority, OpenError, PoolError, TunnelError};
use weft_identity::{TlsError, Unready};
use weft_telemetry::ResponseFlag;
use weft_types::{PolicyName, ServiceName, SpiffeId, WorkloadUid};

use crate::pods::{NoSocket, NoTurn};

/// Why a connection ended otherwise than by both sides closing it.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    // Somebody on this node does what nobody should.
    /// The outbound listener itself was dialled.
    #[error("no original destination: the mesh's own listener was dialled")]
    NotCaptured,
    /// Peers open connections faster than they show certificates.
    #[error("too many connections to one pod, or from one address, are still in their handshake")]
    HandshakesFull,
    /// The application does not accept.
    #[error(transparent)]
    DeliveriesFull(#[from] NoTurn),

    // Configuration says no, or nothing.
    /// The source pod is not in the configuration.
    #[error("configuration has no workload {workload} after {} s; check that the controller publishes it", waited.as_secs())]
    UnknownWorkload {
        workload: WorkloadUid,
        waited: Duration,
    },
    /// Controller and agent disagree on the service account of a pod.
    #[error(
        "workload {workload} has identity {configured} in configuration but {enrolled} on this node; one of them is stale"
    )]
    ForeignIdentity {
        workload: WorkloadUid,
        configured: String,
        enrolled: Box<SpiffeId>,
    },
    /// Not a destination of the mesh, with `REGISTRY_ONLY`.
    #[error("{0} is unknown to the mesh and outboundTrafficPolicy is REGISTRY_ONLY")]
    RegistryOnly(SocketAddr),
    /// The service has no such port.
    #[error("service {service} has no port {port}")]
    NoPort { service: ServiceName, port: u16 },
    /// Nobody ready behind the service.
    #[error("service {service} has no usable endpoint for port {port}: {}", no_endpoint(*reason))]
    NoEndpoint {
        service: ServiceName,
        port: u16,
        reason: NoEndpoint,
    },
    /// The waypoint is named but not there.
    #[error("waypoint {0} has no usable address; its traffic is refused until it has one")]
    NoWaypoint(String),
    /// Reached through a gateway only.
    #[error("{0} is on another network, and east-west gateways are not supported yet")]
    OtherNetwork(WorkloadUid),
    /// Configuration names no identity that a certificate could carry.
    #[error("configuration gives {0} no valid identity")]
    NoIdentity(WorkloadUid),
    /// The destination demands a PROXY header.
    #[error("{0} wants an application tunnel, which is not supported")]
    ApplicationTunnel(WorkloadUid),

    // Ours: something on this node is missing.
    /// No certificate for the pod.
    #[error(transparent)]
    Identity(Box<Unready>),
    /// No socket inside the pod whose record this is: in an outbound one, the client's.
    #[error(transparent)]
    NoSocket(#[from] NoSocket),
    /// No socket inside the called pod, which is of this node: another endpoint is another pod.
    #[error("the server on this node: {0}")]
    NoServerSocket(NoSocket),
    /// The eBPF side did not take the client's address over.
    #[error("the client's address was not taken over by eBPF: {0}; check weft-agent")]
    ClientNotStored(&'static str),
    /// A local system call failed.
    #[error("cannot {what}: {source}")]
    Local {
        what: &'static str,
        source: io::Error,
    },

    // Upstream.
    /// TCP.
    #[error("cannot connect to {to}: {source}")]
    Connect { to: SocketAddr, source: io::Error },
    /// No tunnel.
    #[error(transparent)]
    Tunnel(#[from] PoolError<TunnelConnectError>),

    // The peer of a tunnel that it opened.
    /// TLS with a tunnel peer failed.
    #[error("tls with the client: {0}")]
    PeerTls(#[source] Box<TlsError>),
    /// HTTP/2 with a tunnel peer failed.
    #[error("the client's tunnel: {0}")]
    PeerHttp(#[from] weft_hbone::HandshakeError),
    /// It asks for something that is not here.
    #[error("the client asked for {asked} at {dialled}")]
    Authority {
        asked: Box<Authority>,
        dialled: SocketAddr,
    },
    /// It asks for a port of the mesh.
    #[error("the client asked for port {0}, which is the mesh's own")]
    MeshPort(u16),

    /// The other side of this node refused or failed; its own record says why.
    #[error("{reason}")]
    ByServer { flag: ResponseFlag, reason: String },
    /// Policy says no.
    #[error("denied: {0}")]
    Denied(Box<Denial>),
    /// It said yes before.
    #[error("cut: {0}")]
    Cut(Box<Denial>),

    // Later.
    /// The application reset or vanished.
    #[error("the application's connection failed: {0}")]
    Application(io::ErrorKind),
    /// The other end reset or vanished.
    #[error("the peer's connection failed: {0}")]
    Peer(io::ErrorKind),
    /// The tunnel was reset or its connection failed.
    #[error("the tunnel failed: {0}")]
    TunnelBroken(TunnelError),
    /// The pod is gone.
    #[error("the pod is gone")]
    PodGone,
    /// The proxy ends.
    #[error("the proxy stopped before the connection ended")]
    Stopped,
}

/// Why policy or the configuration check refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Denial {
    /// A DENY matched.
    #[error("policy {0} denies it")]
    ByPolicy(PolicyName),
    /// There are ALLOW policies and none matched.
    #[error("no ALLOW policy matches")]
    NotAllowed,
    /// A policy that applies has not arrived.
    #[error("policy {0} applies but has not arrived")]
    MissingPolicy(PolicyName),
    /// A policy that applies is not understood.
    #[error("policy {0} applies but is not understood by this version")]
    BrokenPolicy(PolicyName),
    /// The certificate is not the one that belongs to the address.
    #[error("{address} belongs to {expected}, but the certificate says {got}")]
    WrongIdentity {
        address: IpAddr,
        expected: String,
        got: SpiffeId,
    },
    /// Direct traffic to a service that has to pass its waypoint.
    #[error("service {0} must be reached through its waypoint")]
    PastWaypoint(ServiceName),
    /// The destination pod is not in the configuration (any more).
    #[error("configuration has no workload {0}")]
    UnknownWorkload(WorkloadUid),
    /// The destination's service account differs.
    #[error("workload {0} has another service account in configuration than on this node")]
    ForeignWorkload(WorkloadUid),
}

/// Why there is no tunnel connection to a peer; shared by all connections that waited for it.
#[derive(Debug, Error)]
pub(crate) enum TunnelConnectError {
    #[error(transparent)]
    Identity(#[from] Unready),
    #[error(transparent)]
    NoSocket(#[from] NoSocket),
    #[error("{to}: {source}")]
    Connect { to: SocketAddr, source: io::Error },
    #[error("tls with {to}: {source}")]
    Tls { to: SocketAddr, source: TlsError },
    #[error("{0}")]
    Http(#[from] weft_hbone::HandshakeError),
}

impl From<Unready> for Failure {
    fn from(unready: Unready) -> Self {
        Self::Identity(Box::new(unready))
    }
}

impl Failure {
    /// A live connection is no longer allowed.
    pub(crate) fn cut(denial: Denial) -> Self {
        Self::Cut(Box::new(denial))
    }

    /// The `response_flags` label.
    pub(crate) fn flag(&self) -> ResponseFlag {
        match self {
            Self::Denied(denial) | Self::Cut(denial) => match **denial {
                Denial::WrongIdentity { .. } => ResponseFlag::IdentityError,
                _ => ResponseFlag::Deny,
            },
            Self::Identity(_) | Self::ForeignIdentity { .. } => ResponseFlag::IdentityError,
            Self::UnknownWorkload { .. }
            | Self::RegistryOnly(_)
            | Self::NoPort { .. }
            | Self::NoEndpoint { .. }
            | Self::NoWaypoint(_)
            | Self::OtherNetwork(_)
            | Self::NoIdentity(_)
            | Self::ApplicationTunnel(_) => ResponseFlag::NoRoute,
            Self::PeerTls(_) => ResponseFlag::TlsFailure,
            Self::PeerHttp(_) => ResponseFlag::H2HandshakeFailure,
            Self::Tunnel(error) => tunnel_flag(error),
            Self::ByServer { flag, .. } => *flag,
            Self::Application(_)
            | Self::Peer(_)
            | Self::TunnelBroken(_)
            | Self::PodGone
            | Self::Stopped => ResponseFlag::Reset,
            Self::NotCaptured
            | Self::HandshakesFull
            | Self::DeliveriesFull(_)
            | Self::NoSocket(_)
            | Self::NoServerSocket(_)
            | Self::ClientNotStored(_)
            | Self::Local { .. }
            | Self::Connect { .. }
            | Self::Authority { .. }
            | Self::MeshPort(_) => ResponseFlag::Connect,
        }
    }

    /// What a tunnel peer is answered.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Denied(_) | Self::Cut(_) => StatusCode::UNAUTHORIZED,
            Self::Authority { .. } | Self::MeshPort(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Whether nobody listens for tunnels at an address that has them by configuration.
    pub(crate) fn is_no_listener(&self) -> bool {
        let Self::Tunnel(PoolError::Connect(error)) = self else {
            return false;
        };
        matches!(&**error, TunnelConnectError::Connect { source, .. }
            if source.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Whether nothing was sent to the destination and another endpoint may be tried.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::NoServerSocket(_) => true,
            Self::Tunnel(PoolError::Connect(error)) => !matches!(
                **error,
                TunnelConnectError::Identity(_) | TunnelConnectError::NoSocket(_)
            ),
            // 503: the peer's application did not accept, so it saw no byte. Any other answer is a decision.
            Self::Tunnel(PoolError::Open(OpenError::Refused(refusal))) => {
                refusal.status == StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Tunnel(PoolError::Open(error)) => error.is_retryable(),
            _ => false,
        }
    }
}

impl Failure {
    /// The same for the record of the calling side, when both sides are of this node.
    pub(crate) fn to_caller(&self) -> Self {
        match self {
            Self::Connect { to, source } => Self::Connect {
                to: *to,
                source: source.kind().into(),
            },
            Self::NoSocket(why) => Self::NoServerSocket(*why),
            Self::Application(kind) => Self::Application(*kind),
            Self::Peer(kind) => Self::Peer(*kind),
            Self::PodGone => Self::PodGone,
            other => Self::ByServer {
                flag: other.flag(),
                reason: other.to_string(),
            },
        }
    }

    /// The same for the record of the called side: application and peer change places.
    pub(crate) fn seen_from_server(self) -> Self {
        match self {
            Self::Application(kind) => Self::Peer(kind),
            Self::Peer(kind) => Self::Application(kind),
            other => other,
        }
    }
}

fn no_endpoint(reason: NoEndpoint) -> &'static str {
    match reason {
        NoEndpoint::None => "no workload serves it",
        NoEndpoint::NotReady => "none of its workloads is ready",
        NoEndpoint::NotLocal => "none of its ready workloads is in the required locality",
        NoEndpoint::AllTried => "all were tried",
    }
}

fn tunnel_flag(error: &PoolError<TunnelConnectError>) -> ResponseFlag {
    let connect = |error: &Arc<TunnelConnectError>| match **error {
        TunnelConnectError::Identity(_) => ResponseFlag::IdentityError,
        TunnelConnectError::Tls { .. } => ResponseFlag::TlsFailure,
        TunnelConnectError::Http(_) => ResponseFlag::H2HandshakeFailure,
        _ => ResponseFlag::Connect,
    };
    match error {
        PoolError::Connect(error) => connect(error),
        PoolError::Open(OpenError::Refused(refusal))
            if refusal.status == StatusCode::UNAUTHORIZED =>
        {
            ResponseFlag::Deny
        }
        PoolError::Open(_) | PoolError::Full(_) => ResponseFlag::Connect,
    }
}
