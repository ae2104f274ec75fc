//! Two pods of this node: joined in user space without TLS, after both identities and the destination's policies have passed.
//!
//! In: a caller whose identity this node vouches for, a pod that it serves. Out: a connection to the application, with a
//! record of its own, as if it had come through a tunnel. Not here: whether this way may be taken (`outbound`).

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;
use weft_hbone::Outcome;
use weft_telemetry::{Direction, Security};
use weft_types::{ClientAddr, SpiffeId};

use crate::admission::{Arrival, Via};
use crate::connections::FirstEnd;
use crate::failure::Failure;
use crate::inbound::{authorize, deliver};
use crate::pods::Pod;
use crate::socket::Undecided;
use crate::worker::{Live, Worker};

/// An application of this node, connected, and the record of its side.
pub(crate) struct Joined {
    application: Undecided,
    inbound: Live,
}

/// Who is calling.
pub(crate) struct Caller<'a> {
    pub(crate) identity: &'a SpiffeId,
    pub(crate) client: SocketAddr,
}

/// Connects to an application of this node; `outbound` is the record of the calling side.
pub(crate) async fn connect(
    worker: &Worker,
    caller: &Caller<'_>,
    pod: &Arc<Pod>,
    destination: SocketAddr,
    outbound: &Live,
) -> Result<Joined, Failure> {
    let counters = Rc::clone(outbound.counters());
    let inbound = worker.connections.begin(
        &pod.spec.uid,
        Direction::Inbound,
        FirstEnd::Client,
        counters,
    );
    inbound.learn(|facts| {
        facts.security = Security::MutualTls;
        facts.source.address = Some(caller.client);
        facts.source.identity = Some(caller.identity.clone());
        facts.destination.address = Some(destination);
        facts.service.clone_from(&outbound.facts().service);
    });
    match prepare(worker, caller, pod, destination, &inbound).await {
        Ok(application) => {
            inbound.opened();
            Ok(Joined {
                application,
                inbound,
            })
        }
        Err(failure) => {
            let told = failure.to_caller();
            inbound.end(Err(failure));
            Err(told)
        }
    }
}

async fn prepare(
    worker: &Worker,
    caller: &Caller<'_>,
    pod: &Arc<Pod>,
    destination: SocketAddr,
    inbound: &Live,
) -> Result<Undecided, Failure> {
    let identities = &worker.shared.identities;
    let own = authorize::own_identity(worker, pod).await?;
    // A certificate authority that would not vouch for either of them is respected here as it is on the wire.
    identities.credentials(caller.identity).await?;
    identities.credentials(&own).await?;
    inbound.learn(|facts| facts.destination.identity = Some(own));
    let arrival = Arrival {
        pod: Arc::clone(pod),
        via: Via::Node {
            identity: caller.identity.clone(),
            address: caller.client.ip(),
        },
        destination,
    };
    authorize::authorize(worker, arrival, inbound).await?;
    deliver::deliver(&worker.shared, pod, destination, ClientAddr(caller.client)).await
}

impl Joined {
    /// Joins the calling application with the called one; either side's record can cut the connection.
    pub(crate) async fn relay(self, outbound: &Live, caller: TcpStream) -> Result<(), Failure> {
        let Self {
            application,
            inbound,
        } = self;
        let counters = outbound.counters();
        let outcome = tokio::select! {
            end = weft_hbone::join(caller, application.keep(), counters) => match end.outcome {
                Outcome::Finished => Ok(()),
                Outcome::FirstFailed(kind) => Err(Failure::Application(kind)),
                Outcome::SecondFailed(kind) => Err(Failure::Peer(kind)),
                Outcome::TunnelFailed(error) => Err(Failure::TunnelBroken(error)),
            },
            failure = inbound.cut() => Err(failure),
            failure = outbound.cut() => Err(failure),
        };
        match outcome {
            Ok(()) => {
                inbound.end(Ok(()));
                Ok(())
            }
            Err(failure) => {
                let told = failure.to_caller();
                inbound.end(Err(failure.seen_from_server()));
                Err(told)
            }
        }
    }
}
