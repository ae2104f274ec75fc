//! Workloads and services in the words of records and of the tunnel's headers.

use std::sync::Arc;

use weft_config::Snapshot;
use weft_hbone::{Baggage, BaggageHeader};
use weft_telemetry::ServiceLabel;
use weft_types::{PortMapping, Service, Workload, WorkloadKind};

/// What a tunnel peer is told about a workload.
pub(crate) fn baggage_of(workload: &Workload) -> BaggageHeader {
    let some = |text: &Arc<str>| (!text.is_empty()).then(|| Arc::clone(text));
    let kind = match workload.kind {
        WorkloadKind::Deployment => "deployment",
        WorkloadKind::CronJob => "cronjob",
        WorkloadKind::Pod => "pod",
        WorkloadKind::Job => "job",
    };
    let baggage = Baggage {
        cluster: some(&workload.cluster),
        namespace: some(&workload.namespace),
        workload: some(&workload.workload_name).map(|name| (kind, name)),
        service: some(&workload.canonical_name),
        revision: some(&workload.canonical_revision),
        region: some(&workload.locality.region),
        zone: some(&workload.locality.zone),
    };
    baggage.into()
}

/// A service in records.
pub(crate) fn label_of(service: &Service) -> ServiceLabel {
    ServiceLabel {
        name: service.name.clone(),
        short_name: service.short_name.clone(),
    }
}

/// The port on which a workload serves a service's port.
pub(crate) fn target_port(service: &Service, mapping: PortMapping) -> u16 {
    if mapping.target_port != 0 {
        return mapping.target_port;
    }
    service
        .ports
        .iter()
        .find(|port| port.service_port == mapping.service_port && port.target_port != 0)
        .map_or(mapping.service_port, |port| port.target_port)
}

/// For records alone: the service that a workload serves on one of its ports, if it is exactly one.
pub(crate) fn service_on_port(
    snapshot: &Snapshot,
    workload: &Workload,
    port: u16,
) -> Option<Arc<Service>> {
    let mut found = workload.services.iter().filter_map(|(name, mappings)| {
        let service = snapshot.service(name)?;
        let serves = mappings.iter().any(|m| target_port(service, *m) == port);
        serves.then_some(service)
    });
    let first = found.next()?;
    found.next().is_none().then(|| Arc::clone(first))
}
