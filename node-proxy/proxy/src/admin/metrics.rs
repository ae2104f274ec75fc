//! Everything that this program counts, as one registry.
//!
//! In: counters that live where things happen, and the status of the configuration stream, read at scrape time.
//! Out: the registry behind `/metrics`.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use weft_config::{ConfigStatus, Connection, Termination};
use weft_telemetry::Metrics;

use crate::shared::Shared;

/// The registry.
pub(super) fn all(shared: &Arc<Shared>) -> Metrics {
    let mut metrics = Metrics::new("weft-proxy", env!("CARGO_PKG_VERSION"));
    let registry = metrics.registry();
    registry.register_collector(Box::new(Arc::clone(&shared.telemetry.metrics)));
    registry.register_collector(Box::new(Stream(Arc::clone(shared))));
    registry.register(
        "weft_connections_shed",
        "Connections reset because descriptors or memory had run out",
        shared.shed.clone(),
    );
    shared.telemetry.access.register(registry);
    metrics
}

/// The stream from the controller: Istio's names where it has one.
struct Stream(Arc<Shared>);

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Collector for Stream {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        encode(&self.0.config.status(), encoder)
    }
}

type Read = fn(&ConfigStatus) -> u64;

/// Values without labels: name, help, kind, where the value is.
const PLAIN: [(&str, &str, MetricType, Read); 5] = [
    (
        "weft_config_connected",
        "1 while the stream from the controller is open and everything asked for has arrived",
        MetricType::Gauge,
        |status| u64::from(status.connection == Connection::Synced),
    ),
    (
        "weft_config_streams",
        "Streams to the controller opened",
        MetricType::Counter,
        |status| status.streams,
    ),
    (
        "weft_config_nacks",
        "Responses of the controller answered with a NACK",
        MetricType::Counter,
        |status| status.nacks,
    ),
    (
        "weft_config_rejected_resources",
        "Resources refused at the moment, 100 at most: see /config_dump for names and reasons",
        MetricType::Gauge,
        |status| status.rejected.len() as u64,
    ),
    (
        "weft_config_disk_error",
        "1 while the last configuration cannot be read from or written to disk",
        MetricType::Gauge,
        |status| u64::from(status.disk_error.is_some()),
    ),
];

fn encode(status: &ConfigStatus, mut encoder: DescriptorEncoder) -> Result<(), Error> {
    let kind = MetricType::Counter;
    let mut metric = encoder.encode_descriptor(
        "istio_xds_connection_terminations",
        "Streams to the controller that ended or could not be opened",
        None,
        kind,
    )?;
    for (reason, count) in &status.terminations {
        counter(&mut metric, &[("reason", word(*reason))], *count)?;
    }
    let mut metric = encoder.encode_descriptor(
        "istio_xds_message",
        "Responses received from the controller",
        None,
        kind,
    )?;
    for (url, received) in &status.types {
        counter(&mut metric, &[("url", *url)], received.responses)?;
    }
    let mut metric = encoder.encode_descriptor(
        "istio_xds_message_bytes",
        "Bytes of the responses received from the controller",
        None,
        kind,
    )?;
    for (url, received) in &status.types {
        counter(&mut metric, &[("url", *url)], received.bytes)?;
    }
    for (name, help, kind, read) in PLAIN {
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        let value = read(status);
        match kind {
            MetricType::Gauge => metric.encode_gauge(&value)?,
            _ => metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)?,
        }
    }
    Ok(())
}

fn counter(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    value: u64,
) -> Result<(), Error> {
    metric
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

fn word(reason: Termination) -> &'static str {
    match reason {
        Termination::ConnectionError => "ConnectionError",
        Termination::Error => "Error",
        Termination::Reconnect => "Reconnect",
        Termination::Complete => "Complete",
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, text};
    use prometheus_client::registry::Registry;
    use weft_config::{ConfigStatus, Termination, TypeStatus};

    #[derive(Debug)]
    struct Fixed(ConfigStatus);

    impl Collector for Fixed {
        fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
            super::encode(&self.0, encoder)
        }
    }

    #[test]
    fn the_stream_is_counted_under_the_names_that_dashboards_know() {
        let mut status = ConfigStatus {
            streams: 2,
            ..ConfigStatus::default()
        };
        status.terminations.insert(Termination::Reconnect, 3);
        let received = TypeStatus {
            responses: 4,
            bytes: 500,
        };
        status.types.insert("type.x/y", received);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Fixed(status)));
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            "istio_xds_connection_terminations_total{reason=\"Reconnect\"} 3",
            "istio_xds_message_total{url=\"type.x/y\"} 4",
            "istio_xds_message_bytes_total{url=\"type.x/y\"} 500",
            "weft_config_connected 0",
            "weft_config_streams_total 2",
        ] {
            assert!(out.lines().any(|found| found == line), "{line}: {out}");
        }
    }
}
