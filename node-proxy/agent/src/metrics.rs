//! Everything that the agent counts, as one registry.
//!
//! In: the published picture, the counters of the eBPF programs in it, the status of the stream from the controller.
//! Out: the registry behind `/metrics`. Not here: the server.

use std::sync::{Arc, Mutex};

use weft_config::{Enrollments, StreamMetrics};
use weft_runtime::limit_counts;
use weft_telemetry::{FamilyName, Metrics};

use crate::limits;
use crate::view::{View, current};

/// The registry; values are read when it is scraped.
pub(crate) fn all(view: &Arc<Mutex<Arc<View>>>, enrollments: Enrollments) -> Metrics {
    let mut metrics = Metrics::new("weft-agent", env!("CARGO_PKG_VERSION"));
    metrics.read_limits(|| limit_counts(&limits::ALL));
    let name = |name, help, label| FamilyName { name, help, label };
    let pods = Arc::clone(view);
    let help = "Pods that the controller names for this node";
    metrics.read_gauges(name("weft_agent_pods", help, "state"), move || {
        current(&pods).pods_by_state()
    });
    let refusals = Arc::clone(view);
    let help = "Destinations without endpoint: connects to those in force fail at once, to those omitted after they succeeded";
    metrics.read_gauges(name("weft_agent_refusals", help, "state"), move || {
        current(&refusals).refusals_by_state()
    });
    let events = Arc::clone(view);
    let help = "What the eBPF programs did; refused_known counts connects that failed at once";
    metrics.read_counters(name("weft_capture_events", help, "event"), move || {
        current(&events).counters.clone()
    });
    metrics.read_tasks(weft_runtime::live_tasks);
    let stream = StreamMetrics::new(move || enrollments.status());
    metrics.registry().register_collector(Box::new(stream));
    metrics
}
