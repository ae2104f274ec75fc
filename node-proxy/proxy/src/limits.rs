//! Limits at which this program refuses or sheds something, as its metrics and its log name them.
//!
//! The numbers stand beside what they bound; `docs/limits.md` lists them with their reasons.

use weft_runtime::{Limit, limit_counts};

/// Peers of one pod in their TLS handshake.
pub(crate) static HANDSHAKES: Limit = Limit::new(
    "tunnel_handshakes",
    "too many peers of one pod were in their TLS handshake, others were reset; check who opens connections to its port 15008 without finishing them",
);

/// Deliveries of one pod in handshake.
pub(crate) static DELIVERIES: Limit = Limit::new(
    "deliveries",
    "too many connections to several ports of one pod wait for the applications to accept, others to this pod wait behind them; check why they do not accept",
);

/// Those of them to one port.
pub(crate) static PORT_DELIVERIES: Limit = Limit::new(
    "port_deliveries",
    "too many connections to one port of a pod wait for the application to accept, others to this port wait behind them; the records of those that fail name pod and port, check why it does not accept",
);

/// Sockets inside a pod.
pub(crate) static SOCKETS: Limit = Limit::new(
    "pod_sockets",
    "connections failed because no socket inside the pod came in time; check that weft-node runs and its limit of open files",
);

/// Open files of this process.
pub(crate) static DESCRIPTORS: Limit = Limit::new(
    "descriptors",
    "out of descriptors or memory, connections are reset; raise the limit of open files",
);

/// All that are counted in this process, by name.
pub(crate) fn counts() -> Vec<(&'static str, u64)> {
    let own = limit_counts(&[
        &HANDSHAKES,
        &DELIVERIES,
        &PORT_DELIVERIES,
        &SOCKETS,
        &DESCRIPTORS,
    ]);
    [own, limit_counts(&weft_hbone::COUNTED)].concat()
}
