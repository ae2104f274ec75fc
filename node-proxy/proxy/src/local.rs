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
use weft_types::{ClientAddr, PodUid, SpiffeId};

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
    pub(crate) pod: &'a PodUid,
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
            let told = tell(&failure, caller, pod);
            inbound.end(Err(failure));
            Err(told)
        }
    }
}

/// What the calling side learns. A pod that calls itself lacks the socket as the client, whom no other endpoint helps.
fn tell(failure: &Failure, caller: &Caller<'_>, pod: &Pod) -> Failure {
    match failure {
        Failure::NoSocket(why) if *caller.pod == pod.spec.uid => Failure::NoSocket(*why),
        other => other.to_caller(),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_config::SnapshotBuilder;
    use weft_node_api::Family;
    use weft_telemetry::ResponseFlag;

    use super::{Caller, tell};
    use crate::failure::{Denial, Failure};
    use crate::pods::{NoSocket, Pod};
    use crate::testing::{Node, fake_pod, id};

    /// What a pod's call to a pod of its node learns of a failure there.
    fn told(client: &Pod, failure: &Failure, server: &Pod) -> Failure {
        let caller = Caller {
            pod: &client.spec.uid,
            identity: &id("client"),
            client: "127.0.0.1:40000".parse().unwrap(),
        };
        tell(failure, &caller, server)
    }

    #[tokio::test]
    async fn a_server_of_this_node_that_leaves_is_replaced_by_another_endpoint() {
        let node = Node::new(SnapshotBuilder::new().build());
        let pods = &node.shared.pods;
        let client = fake_pod(pods, "client", &["127.0.0.1"]);
        let server = fake_pod(pods, "server", &["127.0.0.2"]);
        let waiting = server.stock.take(Family::V4);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        pods.remove(&server.spec.uid);
        let failure = Failure::from(waiting.await.unwrap_err());
        assert!(!failure.is_retryable(), "whose pod it is decides");
        let elsewhere = told(&client, &failure, &server);
        assert!(elsewhere.is_retryable(), "{elsewhere}");
        assert_eq!(elsewhere.flag(), ResponseFlag::Connect);
        assert!(elsewhere.to_string().contains("left"), "{elsewhere}");
        let itself = told(&server, &failure, &server);
        assert!(!itself.is_retryable(), "{itself}");
        assert_eq!(itself.flag(), ResponseFlag::Connect);
    }

    #[tokio::test]
    async fn of_what_a_server_of_this_node_says_decisions_are_final_and_what_it_lacks_is_not() {
        let node = Node::new(SnapshotBuilder::new().build());
        let client = fake_pod(&node.shared.pods, "client", &["127.0.0.1"]);
        let server = fake_pod(&node.shared.pods, "server", &["127.0.0.2"]);
        let late = NoSocket::Late(Duration::from_secs(5));
        let lacks = told(&client, &Failure::NoSocket(late), &server);
        assert!(lacks.is_retryable(), "{lacks}");
        let unknown = Denial::UnknownWorkload(server.workload_uid());
        for denial in [Denial::NotAllowed, unknown] {
            let denied = told(&client, &Failure::Denied(Box::new(denial)), &server);
            assert_eq!(denied.flag(), ResponseFlag::Deny, "{denied}");
            assert!(!denied.is_retryable(), "{denied}");
        }
    }
}
