//! The client of the control plane: a delta xDS stream in, immutable snapshots out.
//!
//! ```text
//! controller --TLS--> client::session -> state (one task owns it) -> Snapshot (ArcSwap) -> readers
//!                                             |  ^
//!                                             v  | at start
//!                                        disk: last good state
//! ```
//!
//! Works with our controller and with istiod; types that a server does not know stay at their defaults.
//! Not here: what a policy or an endpoint choice means (`weft-policy`, `weft-balance`), certificates (`weft-identity`).

#![forbid(unsafe_code)]

mod client;
mod disk;
mod enrollments;
mod metrics;
mod proxy;
mod settings;
pub mod snapshot;
mod status;

pub use enrollments::{EnrollmentChange, EnrollmentSet, Enrollments};
pub use metrics::StreamMetrics;
pub use proxy::ProxyConfig;
pub use settings::{ConfigSettings, SettingsError};
pub use snapshot::{
    BrokenPolicy, Destination, Origin, PolicyEntry, ServiceEndpoints, Snapshot, SnapshotBuilder,
};
pub use status::{ConfigStatus, Connection, Termination, TypeStatus};
