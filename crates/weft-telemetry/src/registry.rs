//! The set of metrics of one process and its text form.
//!
//! In: metrics registered at start. Out: OpenMetrics text on demand.
//! Not here: the HTTP server.

use std::fmt::Write as _;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::process::ProcessMetrics;

/// Content type of [`Metrics::encode`].
pub const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a process: build, process, and what the program registers itself.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// A registry that already has `istio_build{component,tag}` and the `process_*` metrics.
    pub fn new(component: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::default();
        let build = Family::<Vec<(&str, &str)>, Gauge>::default();
        build
            .get_or_create(&vec![("component", component), ("tag", version)])
            .set(1);
        let help = "Component and version of this process";
        registry.register("istio_build", help, build);
        registry.register_collector(Box::new(ProcessMetrics));
        Self { registry }
    }

    /// Where a program registers metrics of its own, at start.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// The current values in OpenMetrics text, ended by `# EOF`.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            // Writing to a String cannot fail; a collector that does is a fault of ours, and the scrape must show it.
            text.clear();
            let _ = write!(text, "# a collector failed\n# EOF\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn build_and_process_metrics_are_there_from_the_start() {
        let text = Metrics::new("proxy", "1.2.3").encode();
        assert!(
            text.contains("istio_build{component=\"proxy\",tag=\"1.2.3\"} 1"),
            "{text}"
        );
        assert!(text.contains("process_open_fds "), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
