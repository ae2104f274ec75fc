//! Who is calling, and whom: from the listener, the socket's storage and the configuration, never from the packet.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use weft_config::Snapshot;
use weft_types::{OrigDst, SpiffeId, Workload};

use crate::failure::Failure;
use crate::inbound::authorize::HOLD_MAX;
use crate::pods::Pod;
use crate::socket::Undecided;
use crate::worker::Worker;

/// The calling side of a connection.
pub(super) struct Source {
    pub(super) pod: Arc<Pod>,
    pub(super) workload: Arc<Workload>,
    pub(super) identity: SpiffeId,
    /// An address of the pod, and the application's port.
    pub(super) client: SocketAddr,
    pub(super) dialled: OrigDst,
}

/// Finds it out, waiting a bounded time for configuration to name the pod: a new pod is never open meanwhile.
pub(super) async fn identify(
    worker: &Worker,
    pod: &Arc<Pod>,
    stream: &Undecided,
    client: SocketAddr,
) -> Result<Source, Failure> {
    let shared = &worker.shared;
    let dialled = shared
        .storage()
        .ok_or(Failure::NotCaptured)?
        .original_destination(stream.stream().as_fd())
        .map_err(|error| Failure::Local {
            what: "read the original destination",
            source: std::io::Error::other(error),
        })?
        .ok_or(Failure::NotCaptured)?;
    let client = own_address(pod, client).ok_or(Failure::NotCaptured)?;
    let found = own_workload(&shared.config.load(), pod);
    let (workload, identity) = match found {
        Some(found) => found,
        None => Box::pin(wait(worker, pod)).await?,
    };
    Ok(Source {
        pod: Arc::clone(pod),
        workload,
        identity,
        client,
        dialled,
    })
}

/// The client as others get to see it. An application may bind to any address of its namespace: one that is bound to 127.0.0.1
/// is not on the loopback of the pod that it calls, and policies on addresses must not take it for somebody else.
fn own_address(pod: &Pod, client: SocketAddr) -> Option<SocketAddr> {
    if pod.has_address(client.ip()) {
        return Some(client);
    }
    let any = || pod.addresses.first().copied();
    let own = pod.address_like(client.ip()).or_else(any)?;
    Some(SocketAddr::new(own, client.port()))
}

async fn wait(worker: &Worker, pod: &Pod) -> Result<(Arc<Workload>, SpiffeId), Failure> {
    let shared = &worker.shared;
    let look = |snapshot: &Snapshot| {
        pod.claim(snapshot, &shared.identities);
        own_workload(snapshot, pod)
    };
    if let Some(found) = shared.config.wait_for(HOLD_MAX, look).await {
        return Ok(found);
    }
    let configured = shared.config.load().workload(&pod.workload()).cloned();
    Err(match (configured, pod.identity()) {
        (Some(workload), Some(enrolled)) => Failure::ForeignIdentity {
            workload: pod.workload_uid(),
            configured: workload
                .identity()
                .map_or_else(|error| error.to_string(), |id| id.to_string()),
            enrolled: Box::new(enrolled),
        },
        _ => Failure::UnknownWorkload {
            workload: pod.workload_uid(),
            waited: HOLD_MAX,
        },
    })
}

/// The pod's workload, if it is the identity that this node holds for the pod.
fn own_workload(snapshot: &Snapshot, pod: &Pod) -> Option<(Arc<Workload>, SpiffeId)> {
    let workload = snapshot.workload(&pod.workload())?;
    let identity = pod.identity()?;
    (workload.identity().as_ref() == Ok(&identity)).then(|| (Arc::clone(workload), identity))
}
