//! The stream from the controller as metrics, the same for every program that has one; Istio's names where it has them.
//!
//! In: a way to read the status, asked at every scrape. Out: a collector for the program's registry.

use std::fmt;

use weft_telemetry::prometheus_client::collector::Collector;
use weft_telemetry::prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet,
};
use weft_telemetry::prometheus_client::metrics::MetricType;

use crate::status::{ConfigStatus, Connection, Termination};

/// Collects the status of one stream.
pub struct StreamMetrics(Box<dyn Fn() -> ConfigStatus + Send + Sync>);

impl StreamMetrics {
    /// Metrics of the stream whose status is read so.
    pub fn new(status: impl Fn() -> ConfigStatus + Send + Sync + 'static) -> Self {
        Self(Box::new(status))
    }
}

impl fmt::Debug for StreamMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamMetrics")
    }
}

impl Collector for StreamMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&self.0(), encoder)
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
        "Resources refused at the moment, 100 at most: the admin socket has names and reasons",
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

fn encode(status: &ConfigStatus, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
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
) -> fmt::Result {
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
    use weft_telemetry::Metrics;

    use super::StreamMetrics;
    use crate::status::{ConfigStatus, Connection, Termination, TypeStatus};

    #[test]
    fn the_stream_is_counted_under_the_names_that_dashboards_know() {
        let mut status = ConfigStatus {
            streams: 2,
            connection: Connection::Synced,
            ..ConfigStatus::default()
        };
        status.terminations.insert(Termination::Reconnect, 3);
        let received = TypeStatus {
            responses: 4,
            bytes: 500,
        };
        status.types.insert("type.x/y", received);
        status.rejected.insert("name".into(), "reason".into());
        let mut metrics = Metrics::new("test", "1");
        let stream = StreamMetrics::new(move || status.clone());
        metrics.registry().register_collector(Box::new(stream));
        let out = metrics.encode();
        for line in [
            "istio_xds_connection_terminations_total{reason=\"Reconnect\"} 3",
            "istio_xds_message_total{url=\"type.x/y\"} 4",
            "istio_xds_message_bytes_total{url=\"type.x/y\"} 500",
            "weft_config_connected 1",
            "weft_config_streams_total 2",
            "weft_config_rejected_resources 1",
        ] {
            assert!(out.lines().any(|found| found == line), "{line}: {out}");
        }
    }
}
