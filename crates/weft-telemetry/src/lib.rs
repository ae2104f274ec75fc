//! What the programs of the mesh say about themselves: logs, connection records, metrics.
//!
//! In: facts that the data path found out about a connection, once, at its end.
//! Out: an access-log line, Prometheus series, and log lines. Names are Istio's, so that existing dashboards work.
//! Not here: HTTP servers (each program serves [`Metrics::encode`] itself) and any decision about traffic.

#![forbid(unsafe_code)]

pub mod access;
pub mod connections;
pub mod log;
pub mod process;
pub mod read;
pub mod record;
pub mod registry;
mod time;

pub use access::{AccessFormat, AccessLog};
pub use connections::{ConnectionMetrics, ConnectionSeries, SeriesLabels};
pub use log::{LogError, LogHandle};
pub use read::FamilyName;
pub use record::{ConnectionRecord, Direction, Party, ResponseFlag, Security, ServiceLabel};
pub use registry::{Metrics, OPENMETRICS_CONTENT_TYPE};

/// The library behind [`Metrics::registry`], for programs that register metrics of their own.
pub use prometheus_client;
