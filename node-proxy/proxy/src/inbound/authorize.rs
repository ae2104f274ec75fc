//! Asks whether a connection may pass, waiting a bounded time for configuration that has not arrived.

use std::time::Duration;

use weft_config::Snapshot;
use weft_telemetry::Direction;
use weft_types::SpiffeId;

use crate::admission::{Admission, Arrival, Decision, DryRun, decide, may_be_behind};
use crate::failure::{Denial, Failure};
use crate::pods::Pod;
use crate::worker::{Live, Worker};

/// How long a connection waits for a policy, a workload or a peer's new entry before it is refused. As long as Istio's
/// node proxy waits for a workload.
pub(crate) const HOLD_MAX: Duration = Duration::from_secs(5);

/// How long plaintext of a caller in the mesh waits before it is refused: as long as one change takes at most to reach every
/// proxy of a mesh of 100 000 workloads.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// Decides, records what was found out, and remembers the arrival so that it is judged again when configuration changes.
pub(crate) async fn authorize(
    worker: &Worker,
    arrival: Arrival,
    connection: &Live,
) -> Result<Admission, Failure> {
    let config = &worker.shared.config;
    let first = decide(&config.load(), &arrival);
    let decision = match first {
        Decision::Hold(missing) => Box::pin(hold(worker, &arrival, missing)).await,
        Decision::Deny(denial) if may_be_behind(&config.load(), &arrival) => {
            Box::pin(reconsider(worker, &arrival, denial)).await
        }
        decided => decided,
    };
    match decision {
        Decision::Admit(admission) => {
            connection.learn(|facts| {
                facts.source.workload.clone_from(&admission.source);
                facts.destination.workload = Some(admission.destination.clone());
            });
            if let Some(dry_run) = &admission.dry_run {
                tell_dry_run(worker, &arrival, dry_run);
            }
            if !admission.outside {
                connection.granted(arrival);
            }
            Ok(admission)
        }
        Decision::Deny(denial) | Decision::Hold(denial) => {
            learn_refused(worker, &arrival, connection);
            Err(Failure::Denied(Box::new(denial)))
        }
    }
}

/// The identity of a pod, waiting a bounded time for configuration to name it.
pub(crate) async fn own_identity(worker: &Worker, pod: &Pod) -> Result<SpiffeId, Failure> {
    if let Some(identity) = pod.identity() {
        return Ok(identity);
    }
    let shared = &worker.shared;
    let look = |snapshot: &Snapshot| {
        pod.claim(snapshot, &shared.identities);
        pod.identity()
    };
    let found = shared.config.wait_for(HOLD_MAX, look).await;
    found.ok_or_else(|| Failure::UnknownWorkload {
        workload: pod.workload_uid(),
        waited: HOLD_MAX,
    })
}

async fn hold(worker: &Worker, arrival: &Arrival, missing: Denial) -> Decision {
    let mut last = missing;
    let found = worker
        .shared
        .config
        .wait_for(HOLD_MAX, |snapshot| match decide(snapshot, arrival) {
            Decision::Hold(missing) => {
                last = missing;
                None
            }
            decided => Some(decided),
        })
        .await;
    found.unwrap_or(Decision::Deny(last))
}

/// Waits for the word that the caller may have heard already: that the pod is out of the mesh.
async fn reconsider(worker: &Worker, arrival: &Arrival, denial: Denial) -> Decision {
    let look = |snapshot: &Snapshot| match decide(snapshot, arrival) {
        Decision::Admit(admission) => Some(Decision::Admit(admission)),
        _ => None,
    };
    let found = worker.shared.config.wait_for(BEHIND_MAX, look).await;
    found.unwrap_or(Decision::Deny(denial))
}

/// Says and counts, once for a connection, that policies that are only tried out would refuse it.
fn tell_dry_run(worker: &Worker, arrival: &Arrival, dry_run: &DryRun) {
    let policy = dry_run.policy.as_ref().map(ToString::to_string);
    let identity = arrival.via.identity().map(ToString::to_string);
    let message = if policy.is_some() {
        "dry run: a DENY policy matches, if it were enforced this connection would be refused"
    } else {
        "dry run: no ALLOW policy matches, if they were enforced this connection would be refused"
    };
    tracing::info!(
        policy,
        identity,
        source = %arrival.via.address(),
        destination = %arrival.destination,
        workload = %arrival.pod.workload_uid(),
        "{message}"
    );
    let label = vec![("policy", policy.unwrap_or_default())];
    worker.shared.dry_runs.get_or_create(&label).inc();
}

/// A refused connection is recorded with names as well: that is what the operator looks for.
fn learn_refused(worker: &Worker, arrival: &Arrival, connection: &Live) {
    let snapshot = worker.shared.config.load();
    let destination = snapshot.workload(&arrival.pod.workload());
    let network = destination.map_or("", |w| &w.network);
    let source = snapshot.workload_by_address(network, arrival.via.address());
    connection.learn(|facts| {
        facts.source.workload = source.cloned();
        facts.destination.workload = destination.cloned();
    });
    tracing::debug!(
        direction = Direction::Inbound.as_str(),
        source = %arrival.via.address(),
        destination = %arrival.destination,
        "connection refused"
    );
}
