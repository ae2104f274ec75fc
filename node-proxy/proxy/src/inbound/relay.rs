//! Carries bytes between the application and the tunnel until they end, or the connection is cut.

use tokio::net::TcpStream;
use weft_hbone::{Outcome, Tunnel};

use crate::failure::Failure;
use crate::worker::Live;

/// The application is the first end.
pub(super) async fn relay(
    connection: &Live,
    application: TcpStream,
    tunnel: Tunnel,
) -> Result<(), Failure> {
    let counters = connection.counters();
    tokio::select! {
        end = weft_hbone::relay(application, tunnel, counters) => match end.outcome {
            Outcome::Finished => Ok(()),
            Outcome::FirstFailed(kind) | Outcome::SecondFailed(kind) => Err(Failure::Application(kind)),
            Outcome::TunnelFailed(error) => Err(Failure::TunnelBroken(error)),
        },
        // Dropping the relay resets both ends.
        failure = connection.cut() => Err(failure),
    }
}
