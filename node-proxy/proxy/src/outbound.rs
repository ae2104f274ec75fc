//! Connections that a pod here opens: identify, discover, route, connect, relay.
//!
//! In: the outbound listener's connections. Out: tunnels, plain connections, or connections to a pod of this node.
//! A failure is a reset at the application: never a clean end of stream.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use weft_telemetry::Direction;

use crate::connections::FirstEnd;
use crate::failure::Failure;
use crate::pods::Pod;
use crate::socket::Undecided;
use crate::worker::{Live, Worker};

mod connect;
mod discover;
mod identify;
mod relay;
mod route;

/// Serves one connection.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    stream: TcpStream,
    client: SocketAddr,
) {
    let connection = worker.connections.begin(
        &pod.spec.uid,
        Direction::Outbound,
        FirstEnd::Client,
        Rc::default(),
    );
    let outcome = run(&worker, &pod, Undecided::new(stream), client, &connection).await;
    connection.end(outcome);
}

async fn run(
    worker: &Worker,
    pod: &Arc<Pod>,
    stream: Undecided,
    client: SocketAddr,
    connection: &Live,
) -> Result<(), Failure> {
    connection.learn(|facts| facts.source.address = Some(client));
    let source = identify::identify(worker, pod, &stream, client).await?;
    connection.learn(|facts| {
        facts.source.workload = Some(Arc::clone(&source.workload));
        facts.source.identity = Some(source.identity.clone());
        facts.destination.address = Some(source.dialled.0);
    });
    discover::discover(worker, &source).await;
    // Rare in size, not in number: the phases before the relay need ten times its memory, for some milliseconds.
    let upstream = Box::pin(connect::connect(worker, &source, connection)).await?;
    connection.opened();
    relay::relay(connection, stream.keep(), upstream).await
}

#[cfg(test)]
mod tests;
