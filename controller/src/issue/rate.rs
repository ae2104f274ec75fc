//! How many certificates one node may ask for.
//!
//! In: a node's name and the time. Out: whether it may ask now. One bucket for each node whose token was accepted, so
//! there are never more than there are nodes; one node's flood costs the others nothing but the check.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use weft_runtime::Clock;
use weft_types::NodeName;

/// Sustained rate. 250 pods renewing every 30 s (twice in the shortest lifetime) need 9.
pub(super) const PER_SECOND: f64 = 50.0;

/// A node that restarts without keys asks for all its pods at once: twice the largest node that we know of (500 pods).
const BURST: f64 = 1000.0;

pub(super) struct Rates {
    clock: Arc<dyn Clock>,
    buckets: Mutex<HashMap<NodeName, Bucket>>,
}

struct Bucket {
    left: f64,
    filled: Instant,
}

impl Rates {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            buckets: Mutex::default(),
        }
    }

    /// Takes one request from the node's bucket; false when it is empty.
    pub(super) fn take(&self, node: &NodeName) -> bool {
        let now = self.clock.now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(node.clone()).or_insert(Bucket {
            left: BURST,
            filled: now,
        });
        let since = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.left = (bucket.left + since * PER_SECOND).min(BURST);
        bucket.filled = now;
        if bucket.left < 1.0 {
            return false;
        }
        bucket.left -= 1.0;
        true
    }
}
