//! Limits at which this program refuses or sheds something, as its metrics and its log name them.
//!
//! The numbers stand beside what they bound; `docs/limits.md` lists them with their reasons.

use weft_runtime::Limit;

/// Connections to the node socket.
pub(crate) static CONNECTIONS: Limit = Limit::new(
    "node_connections",
    "too many connections to the node socket, another was closed; check who else connects to it",
);

/// Packets that wait for one peer.
pub(crate) static OUTGOING: Limit = Limit::new(
    "node_outgoing",
    "agent or proxy does not read what it is told, and its connection was closed; check its log",
);

/// Requests for sockets that wait.
pub(crate) static REQUESTS: Limit = Limit::new(
    "socket_requests",
    "the proxy asked for sockets of one pod too often at once, a request was refused; check for errors of the namespace thread in this log",
);

/// Sockets in stock.
pub(crate) static STOCK: Limit = Limit::new(
    "socket_stock",
    "sockets are made only when they are asked for, connections wait for them a little; fewer pods on this node would help",
);

/// All of them.
pub(crate) static ALL: [&Limit; 4] = [&CONNECTIONS, &OUTGOING, &REQUESTS, &STOCK];
