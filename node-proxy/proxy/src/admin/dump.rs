//! The configuration in force as one JSON document, for people and for `weft` commands that compare nodes.

use serde_json::{Value, json};
use weft_config::{PolicyEntry, Snapshot};
use weft_types::{GatewayAddress, GatewayDestination, Service, Workload};

use crate::shared::Shared;

/// Everything that decides about traffic; never a key.
pub(super) fn dump(shared: &Shared) -> Value {
    let snapshot = shared.config.snapshot();
    let status = shared.config.status();
    json!({
        "node": shared.node.as_str(),
        "revision": snapshot.revision(),
        "origin": format!("{:?}", snapshot.origin()),
        "controller": {
            "connection": format!("{:?}", status.connection),
            "lastError": status.last_error,
            "streams": status.streams,
            "responses": status.responses,
            "resources": status.resources,
            "removals": status.removals,
            "nacks": status.nacks,
            "rejected": status.rejected,
            "diskError": status.disk_error,
        },
        "settings": settings(&snapshot),
        "pods": shared.pods.table().iter().map(|pod| json!({
            "uid": pod.spec.uid.as_str(),
            "workload": pod.workload().as_str(),
            "addresses": pod.addresses,
            "identity": pod.identity().map(|id| id.to_string()),
        })).collect::<Vec<_>>(),
        "workloads": sorted(snapshot.workloads().map(|w| workload(w)), "uid"),
        "services": sorted(snapshot.services().map(|s| service(s)), "hostname"),
        "policies": sorted(snapshot.policies().map(|(_, entry)| policy(entry)), "name"),
    })
}

fn sorted(values: impl Iterator<Item = Value>, key: &str) -> Vec<Value> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(|a, b| a[key].as_str().cmp(&b[key].as_str()));
    values
}

fn settings(snapshot: &Snapshot) -> Value {
    let settings = snapshot.settings();
    json!({
        "known": snapshot.settings_known(),
        "trustDomain": settings.trust_domain.as_str(),
        "outboundTrafficPolicy": format!("{:?}", settings.outbound),
        "drainLimitSeconds": settings.drain_limit.as_secs(),
        "requireWireMtls": settings.require_wire_mtls,
        "certificateTtlSeconds": settings.certificate_ttl.as_secs(),
        "accessLog": settings.access_log,
        "accessLogJson": settings.access_log_json,
        "cluster": settings.cluster,
    })
}

fn workload(workload: &Workload) -> Value {
    json!({
        "uid": workload.uid.as_str(),
        "addresses": workload.addresses,
        "network": &*workload.network,
        "node": workload.node.as_str(),
        "identity": workload.identity().ok().map(|id| id.to_string()),
        "tunnel": format!("{:?}", workload.tunnel),
        "health": format!("{:?}", workload.health),
        "waypoint": workload.waypoint.as_ref().map(gateway),
        "policies": workload.authorization_policies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "services": workload.services.keys().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn service(service: &Service) -> Value {
    json!({
        "hostname": &*service.name.hostname,
        "namespace": &*service.name.namespace,
        "addresses": service.addresses.iter().map(|a| a.address).collect::<Vec<_>>(),
        "ports": service.ports.iter().map(|p| json!({"port": p.service_port, "target": p.target_port})).collect::<Vec<_>>(),
        "waypoint": service.waypoint.as_ref().map(gateway),
        "weightedWaypoints": service.weighted_waypoints.iter()
            .map(|w| json!({"waypoint": gateway(&w.destination), "weight": w.weight})).collect::<Vec<_>>(),
        "requiresWaypoint": service.requires_waypoint,
    })
}

fn gateway(gateway: &GatewayAddress) -> String {
    let port = gateway.hbone_port;
    match &gateway.destination {
        GatewayDestination::Address(at) => format!("{}/{}:{port}", at.network, at.address),
        GatewayDestination::Hostname(name) => format!("{name}:{port}"),
    }
}

fn policy(entry: &PolicyEntry) -> Value {
    match entry {
        PolicyEntry::Good(policy) => json!({
            "name": policy.name.to_string(),
            "scope": format!("{:?}", policy.scope),
            "action": format!("{:?}", policy.action),
            "dryRun": policy.dry_run,
            "rules": policy.rules.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>(),
        }),
        PolicyEntry::Broken(broken) => json!({
            "name": broken.name.to_string(),
            "broken": &*broken.reason,
        }),
    }
}
