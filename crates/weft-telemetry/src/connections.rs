//! `istio_tcp_*` metrics: one series per distinct set of labels, found once per connection.
//!
//! In: the parties of a connection when it opens, byte totals as it lives, its end.
//! Out: counters at scrape time. A connection holds its series, so that a flush is two atomic additions and no lookup.
//! Limit: [`SERIES_MAX`] series; when full, those without a connection go, then everything new counts in one series of unknowns.

use std::collections::HashMap;
use std::fmt::Error;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

pub use labels::SeriesLabels;

use crate::record::ResponseFlag;

mod labels;

/// Distinct sets of labels kept: 200 pods that each talk to 50 others; about 1 KB each.
pub const SERIES_MAX: usize = 10_000;

/// All series of this process.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    series: RwLock<HashMap<SeriesLabels, Arc<Series>>>,
    overflows: AtomicU64,
}

/// The counters of one set of labels.
#[derive(Debug, Default)]
struct Series {
    opened: AtomicU64,
    closed: AtomicU64,
    failed: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sockets_open: AtomicI64,
}

/// One open connection's hold on its series. Dropping it counts the connection as closed without a reason.
#[derive(Debug)]
pub struct ConnectionSeries {
    metrics: Arc<ConnectionMetrics>,
    labels: Box<SeriesLabels>,
    series: Arc<Series>,
    sent_bytes: u64,
    received_bytes: u64,
    flag: ResponseFlag,
}

impl ConnectionMetrics {
    /// Counts a connection as opened.
    pub fn open(self: &Arc<Self>, labels: SeriesLabels) -> ConnectionSeries {
        let series = self.find(&labels);
        series.opened.fetch_add(1, Ordering::Relaxed);
        series.sockets_open.fetch_add(1, Ordering::Relaxed);
        ConnectionSeries {
            metrics: Arc::clone(self),
            labels: Box::new(labels),
            series,
            sent_bytes: 0,
            received_bytes: 0,
            flag: ResponseFlag::None,
        }
    }

    /// Counts a connection that failed before it opened.
    pub fn fail(&self, labels: &SeriesLabels, flag: ResponseFlag) {
        let series = self.find(&labels.with_flag(flag));
        series.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn find(&self, labels: &SeriesLabels) -> Arc<Series> {
        // A poisoned lock means that a scrape or lookup panicked between two valid states of the map.
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(labels) {
            return Arc::clone(series);
        }
        drop(known);
        let mut known = self.series.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SERIES_MAX && !known.contains_key(labels) {
            known.retain(|_, series| Arc::strong_count(series) > 1);
        }
        if known.len() >= SERIES_MAX && !known.contains_key(labels) {
            self.overflows.fetch_add(1, Ordering::Relaxed);
            return Arc::clone(known.entry(SeriesLabels::overflow()).or_default());
        }
        Arc::clone(known.entry(labels.clone()).or_default())
    }
}

impl ConnectionSeries {
    /// Brings the byte counters up to these totals of the connection so far.
    pub fn flush(&mut self, sent_bytes: u64, received_bytes: u64) {
        let sent = sent_bytes.saturating_sub(self.sent_bytes);
        let received = received_bytes.saturating_sub(self.received_bytes);
        self.series.sent_bytes.fetch_add(sent, Ordering::Relaxed);
        self.series
            .received_bytes
            .fetch_add(received, Ordering::Relaxed);
        self.sent_bytes += sent;
        self.received_bytes += received;
    }

    /// Counts the connection as closed, with how it ended.
    pub fn close(mut self, flag: ResponseFlag) {
        self.flag = flag;
    }
}

impl Drop for ConnectionSeries {
    fn drop(&mut self) {
        self.series.sockets_open.fetch_sub(1, Ordering::Relaxed);
        if self.flag == ResponseFlag::None {
            self.series.closed.fetch_add(1, Ordering::Relaxed);
        } else {
            let labels = self.labels.with_flag(self.flag);
            let series = self.metrics.find(&labels);
            series.closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

type Read = fn(&Series) -> u64;

/// Counters: name, help, where the value is.
const COUNTERS: [(&str, &str, Read); 5] = [
    ("istio_tcp_connections_opened", "Connections opened", |s| {
        s.opened.load(Ordering::Relaxed)
    }),
    ("istio_tcp_connections_closed", "Connections closed", |s| {
        s.closed.load(Ordering::Relaxed)
    }),
    (
        "istio_tcp_connections_failed",
        "Connections that failed before they were established",
        |s| s.failed.load(Ordering::Relaxed),
    ),
    (
        "istio_tcp_sent_bytes",
        "Bytes from servers to clients",
        |s| s.sent_bytes.load(Ordering::Relaxed),
    ),
    (
        "istio_tcp_received_bytes",
        "Bytes from clients to servers",
        |s| s.received_bytes.load(Ordering::Relaxed),
    ),
];

impl Collector for ConnectionMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        // Copied out, so that a slow scrape never holds a connection up.
        let known: Vec<(SeriesLabels, Arc<Series>)> = self
            .series
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(labels, series)| (labels.clone(), Arc::clone(series)))
            .collect();
        for (name, help, read) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, series) in &known {
                let value = read(series);
                if value > 0 {
                    counter(&mut metric, labels, value)?;
                }
            }
        }
        let mut metric = encoder.encode_descriptor(
            "istio_tcp_sockets_open",
            "Connections open now",
            None,
            MetricType::Gauge,
        )?;
        for (labels, series) in &known {
            let open = series.sockets_open.load(Ordering::Relaxed);
            metric.encode_family(labels)?.encode_gauge(&open)?;
        }
        let overflows = self.overflows.load(Ordering::Relaxed);
        encoder
            .encode_descriptor(
                "weft_metric_series_overflows",
                "Connections counted under unknown labels because there were too many series",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, u64, u64>(&overflows, None)
    }
}

fn counter(metric: &mut MetricEncoder<'_>, labels: &SeriesLabels, value: u64) -> Result<(), Error> {
    metric
        .encode_family(labels)?
        .encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

#[cfg(test)]
mod tests;
