//! Carries bytes between the application and wherever it was connected to.

use tokio::net::TcpStream;
use weft_hbone::{Outcome, RelayEnd, Tunnel};

use crate::endpoints::InFlight;
use crate::failure::Failure;
use crate::local::Joined;
use crate::worker::Live;

/// The other side of a connection.
pub(super) enum Upstream {
    /// A tunnel to a peer or a waypoint.
    Tunnel(Box<Tunnel>),
    /// A plain connection to something outside the mesh.
    Plain(TcpStream),
    /// An application of this node, with the record of its side.
    Local(Joined),
}

/// An upstream, with what is given back when the connection ends.
pub(super) struct Reached {
    upstream: Upstream,
    /// Counts as load of the endpoint while it lives.
    _occupied: Option<InFlight>,
}

impl Reached {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            _occupied: None,
        }
    }

    pub(super) fn balanced(upstream: Upstream, occupied: InFlight) -> Self {
        Self {
            upstream,
            _occupied: Some(occupied),
        }
    }
}

/// The application that called is the first end.
pub(super) async fn relay(
    connection: &Live,
    application: TcpStream,
    reached: Reached,
) -> Result<(), Failure> {
    let counters = connection.counters();
    match reached.upstream {
        Upstream::Tunnel(tunnel) => tokio::select! {
            end = weft_hbone::relay(application, *tunnel, counters) => outcome(&end),
            failure = connection.cut() => Err(failure),
        },
        Upstream::Plain(stream) => tokio::select! {
            end = weft_hbone::join(application, stream, counters) => outcome(&end),
            failure = connection.cut() => Err(failure),
        },
        Upstream::Local(joined) => joined.relay(connection, application).await,
    }
}

fn outcome(end: &RelayEnd) -> Result<(), Failure> {
    match &end.outcome {
        Outcome::Finished => Ok(()),
        Outcome::FirstFailed(kind) => Err(Failure::Application(*kind)),
        Outcome::SecondFailed(kind) => Err(Failure::Peer(*kind)),
        Outcome::TunnelFailed(error) => Err(Failure::TunnelBroken(error.clone())),
    }
}
