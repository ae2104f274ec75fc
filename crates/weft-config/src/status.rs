//! How the connection to the controller is doing: for readiness, `config dump` and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Resources refused at the moment that are listed by name; beyond it only their number is kept.
/// Enough to see what is wrong, small enough to print.
const REJECTED_LISTED_MAX: usize = 100;

/// How the client of the control plane is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigStatus {
    /// State of the stream.
    pub connection: Connection,
    /// Why the last stream ended or could not be opened.
    pub last_error: Option<String>,
    /// Streams opened since the start.
    pub streams: u64,
    /// Streams that ended or could not be opened since the start, by reason.
    pub terminations: BTreeMap<Termination, u64>,
    /// Responses received since the start.
    pub responses: u64,
    /// Responses of each type that was asked for.
    pub types: BTreeMap<&'static str, TypeStatus>,
    /// Resources received since the start.
    pub resources: u64,
    /// Resources removed by the server since the start.
    pub removals: u64,
    /// Responses answered with a NACK since the start.
    pub nacks: u64,
    /// Resources that are refused at the moment, with the reason; at most 100 of them.
    pub rejected: BTreeMap<String, String>,
    /// Why the state on disk could not be read or written, until it can again.
    pub disk_error: Option<String>,
}

/// What came of one type since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Responses received.
    pub responses: u64,
    /// Their size in bytes, before compression and framing.
    pub bytes: u64,
}

/// Why a stream ended, in the words of Istio's metric `istio_xds_connection_terminations_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Termination {
    /// No connection could be made, or no token or root certificate could be read for one.
    ConnectionError,
    /// The server refused it, or broke the protocol.
    Error,
    /// It ended as streams do: the server or the connection went away (Cancelled, `DeadlineExceeded`, Unavailable, Unknown),
    /// or this client connects with new root certificates.
    Reconnect,
    /// The server ended it without an error.
    Complete,
}

/// State of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Connection {
    /// No stream; the next try is on its way.
    #[default]
    Down,
    /// A stream is open, its first complete state has not arrived.
    Syncing,
    /// A stream is open, and everything asked for has been answered at least once.
    Synced,
}

/// The status as its writers share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedStatus(Arc<Mutex<ConfigStatus>>);

impl SharedStatus {
    pub(crate) fn get(&self) -> ConfigStatus {
        self.update(|status| status.clone())
    }

    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut ConfigStatus) -> T) -> T {
        // Every change leaves the status whole, so a poisoned lock holds no half of one.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn rejected(&self, resource: &str, reason: &str) {
        self.update(|status| {
            let known = status.rejected.contains_key(resource);
            if known || status.rejected.len() < REJECTED_LISTED_MAX {
                let reason = reason.to_owned();
                status.rejected.insert(resource.to_owned(), reason);
            }
        });
    }

    pub(crate) fn accepted(&self, resource: &str) {
        self.update(|status| status.rejected.remove(resource));
    }
}
