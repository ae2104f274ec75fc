//! Everything that this program counts, as one registry.
//!
//! In: counters that live where things happen, and the status of the configuration stream, read at scrape time.
//! Out: the registry behind `/metrics`.

use std::sync::Arc;

use weft_config::StreamMetrics;
use weft_telemetry::Metrics;

use crate::limits;
use crate::shared::Shared;

/// The registry.
pub(super) fn all(shared: &Arc<Shared>) -> Metrics {
    let mut metrics = Metrics::new("weft-proxy", env!("CARGO_PKG_VERSION"));
    metrics.read_limits(limits::counts);
    metrics.read_tasks(weft_runtime::live_tasks);
    let registry = metrics.registry();
    registry.register_collector(Box::new(Arc::clone(&shared.telemetry.metrics)));
    let config = Arc::clone(shared);
    registry.register_collector(Box::new(StreamMetrics::new(move || config.config.status())));
    registry.register(
        "weft_refusals_omitted",
        "Destinations without endpoint that are refused after the connect, because the map of early refusals is full",
        shared.refusals_omitted.clone(),
    );
    registry.register(
        "weft_dry_run_denials",
        "Connections that passed and that a dry-run policy would refuse; without a policy: that no ALLOW policy would match",
        shared.dry_runs.clone(),
    );
    shared.telemetry.access.register(registry);
    metrics
}
