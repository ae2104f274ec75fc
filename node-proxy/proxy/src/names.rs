//! Workloads and services in the words of records and of the tunnel's headers.

use weft_hbone::Baggage;
use weft_telemetry::ServiceLabel;
use weft_types::{Service, Workload, WorkloadKind};

/// What a tunnel peer is told about a workload.
pub(crate) fn baggage_of(workload: &Workload) -> Baggage {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let kind = match workload.kind {
        WorkloadKind::Deployment => "deployment",
        WorkloadKind::CronJob => "cronjob",
        WorkloadKind::Pod => "pod",
        WorkloadKind::Job => "job",
    };
    Baggage {
        cluster: some(&workload.cluster),
        namespace: some(&workload.namespace),
        workload: some(&workload.workload_name).map(|name| (kind.to_owned(), name)),
        service: some(&workload.canonical_name),
        revision: some(&workload.canonical_revision),
        region: some(&workload.locality.region),
        zone: some(&workload.locality.zone),
    }
}

/// A service in records.
pub(crate) fn label_of(service: &Service) -> ServiceLabel {
    ServiceLabel {
        name: service.name.clone(),
        short_name: service.short_name.clone(),
    }
}
