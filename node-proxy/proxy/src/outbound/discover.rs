//! Waits for configuration to name a pod that was dialled before its entry arrived: it must not count as unknown, because
//! what is unknown may leave in plaintext.
//!
//! In: the source and the address it dialled. Out: nothing; the route is made on whatever is known then.
//! An address outside the mesh's pod ranges is never waited for. Not here: what happens to unknown addresses (`route`).

use std::net::IpAddr;
use std::time::Duration;

use weft_config::Snapshot;

use super::identify::Source;
use crate::worker::Worker;

/// How long an address of the pod ranges may stay unknown: a push takes milliseconds, a second at most in a mesh of 100 000
/// workloads, and as much again for a controller that is just being replaced. The controller's answer that there is no such
/// address ends the wait earlier.
pub(crate) const DISCOVERY_MAX: Duration = Duration::from_secs(2);

/// Waits, if the address is one to wait for.
pub(super) async fn discover(worker: &Worker, source: &Source) {
    let config = &worker.shared.config;
    let (network, address) = (&source.workload.network, source.dialled.0.ip());
    if !is_due(&config.load(), network, address) {
        return;
    }
    // Rare: the connections of all others do not carry its state.
    let known = Box::pin(config.wait_for_address(network, address, DISCOVERY_MAX)).await;
    tracing::debug!(%address, known, "asked about an address of the pod ranges");
}

/// Whether a pod may stand behind an address that is not known.
fn is_due(snapshot: &Snapshot, network: &str, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let ranges = &snapshot.settings().pod_cidrs;
    ranges.iter().any(|range| range.contains(&address))
        && snapshot.destination(network, address).is_none()
}

#[cfg(test)]
mod tests {
    use weft_config::SnapshotBuilder;
    use weft_types::MeshSettings;

    use super::is_due;
    use crate::testing::{ip, service, workload};

    #[test]
    fn only_unknown_addresses_of_the_pod_ranges_are_waited_for() {
        let mut config = SnapshotBuilder::new();
        config.put_workload(workload("known", "10.0.0.1"));
        config.put_service(service("web", "10.0.255.1"));
        let due =
            |config: &SnapshotBuilder, address: &str| is_due(&config.build(), "", ip(address));
        assert!(!due(&config, "10.0.0.2"), "no ranges, no wait");
        config.set_settings(Some(MeshSettings {
            pod_cidrs: ["10.0.0.0/16", "fd00::/64"]
                .map(|text| text.parse().unwrap())
                .into(),
            ..MeshSettings::default()
        }));
        for address in ["10.0.0.2", "::ffff:10.0.0.2", "fd00::2"] {
            assert!(due(&config, address), "{address}");
        }
        for address in ["10.0.0.1", "10.0.255.1", "10.1.0.2", "fd00:0:0:1::2", "::1"] {
            assert!(!due(&config, address), "{address}");
        }
    }
}
