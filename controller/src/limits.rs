//! Limits at which the controller refuses something, as its metrics and its log name them.
//!
//! The numbers stand beside what they bound; `docs/limits.md` lists them with their reasons.

use weft_runtime::Limit;

/// Streams of one node.
pub(crate) static NODE_STREAMS: Limit = Limit::new(
    "node_streams",
    "a node has too many streams open, another was refused; check that only its agent and proxy use its token",
);

/// Types on one stream.
pub(crate) static SUBSCRIPTION_TYPES: Limit = Limit::new(
    "subscription_types",
    "a subscriber asked for too many types, its stream was ended; check what uses the node's token",
);

/// Names in one subscription.
pub(crate) static SUBSCRIPTION_NAMES: Limit = Limit::new(
    "subscription_names",
    "a subscriber asked for too many resources by name, its stream was ended; check what uses the node's token",
);

/// All of them.
pub(crate) static ALL: [&Limit; 3] = [&NODE_STREAMS, &SUBSCRIPTION_TYPES, &SUBSCRIPTION_NAMES];
