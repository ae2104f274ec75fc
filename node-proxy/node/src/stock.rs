//! How many sockets wait in each pod. Pure: the caller makes sockets and gives them out.
//!
//! In: requests, sockets, ticks. Out: answers, and how many to make.
//! The stock of a pod and family doubles while requests empty it, and halves when nobody asks.

use std::collections::{BTreeMap, VecDeque};

use weft_node_api::{DESCRIPTORS_MAX, Family};
use weft_types::PodUid;

use crate::limits;

/// Sockets kept for a quiet pod: enough for one page load while the next ones are made (about 20 us each).
pub(crate) const TARGET_MIN: usize = 4;

/// Sockets kept for a busy pod: at 5000 connections a second, 50 ms of them.
const TARGET_MAX: usize = 256;

/// Sockets of all pods together: a fifth of the 20 000 descriptors that an unprivileged limit often allows.
const TOTAL_MAX: usize = 4096;

/// Requests of one pod and family that wait: the proxy has one at a time.
const WAITING_MAX: usize = 16;

/// An answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<F> {
    /// The request.
    pub(crate) of: u64,
    /// At least one socket.
    pub(crate) sockets: Vec<F>,
}

/// Sockets that should be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) uid: PodUid,
    pub(crate) family: Family,
    pub(crate) count: usize,
}

/// All stocks.
#[derive(Debug)]
pub(crate) struct Stock<F> {
    shelves: BTreeMap<(PodUid, Family), Shelf<F>>,
    total: usize,
}

#[derive(Debug)]
struct Shelf<F> {
    sockets: Vec<F>,
    target: usize,
    ordered: usize,
    asked: bool,
    waiting: VecDeque<(u64, usize)>,
}

impl<F> Stock<F> {
    pub(crate) fn new() -> Self {
        Self {
            shelves: BTreeMap::new(),
            total: 0,
        }
    }

    /// Opens the stock of a pod; `families` are those of its addresses.
    pub(crate) fn open(&mut self, uid: &PodUid, families: &[Family]) {
        for family in [Family::V4, Family::V6] {
            let target = if families.contains(&family) {
                TARGET_MIN
            } else {
                0
            };
            let key = (uid.clone(), family);
            self.shelves.entry(key).or_insert_with(|| Shelf {
                sockets: Vec::new(),
                target,
                ordered: 0,
                asked: false,
                waiting: VecDeque::new(),
            });
        }
    }

    /// Closes the stock of a pod; its sockets are dropped, and the requests that waited are returned.
    pub(crate) fn close(&mut self, uid: &PodUid) -> Vec<u64> {
        let mut orphans = Vec::new();
        for family in [Family::V4, Family::V6] {
            if let Some(shelf) = self.shelves.remove(&(uid.clone(), family)) {
                self.total -= shelf.sockets.len();
                orphans.extend(shelf.waiting.into_iter().map(|(of, _)| of));
            }
        }
        orphans
    }

    /// Drops every socket: they were flagged in a map that is not used any more.
    pub(crate) fn flush(&mut self) {
        for shelf in self.shelves.values_mut() {
            shelf.sockets.clear();
        }
        self.total = 0;
    }

    /// The proxy's connection is gone, its requests with it.
    pub(crate) fn forget_waiting(&mut self) {
        for shelf in self.shelves.values_mut() {
            shelf.waiting.clear();
        }
    }

    /// A request. False: the pod has no stock, or too many requests wait.
    pub(crate) fn ask(&mut self, of: u64, uid: &PodUid, family: Family, count: usize) -> bool {
        let Some(shelf) = self.shelves.get_mut(&(uid.clone(), family)) else {
            return false;
        };
        if shelf.waiting.len() >= WAITING_MAX {
            limits::REQUESTS.reached();
            return false;
        }
        let count = count.clamp(1, DESCRIPTORS_MAX);
        shelf.asked = true;
        // A request that takes more than half of the target says that the target is too low.
        if count * 2 > shelf.target {
            shelf.target = (shelf.target * 2).max(count).clamp(TARGET_MIN, TARGET_MAX);
        }
        shelf.waiting.push_back((of, count));
        true
    }

    /// Sockets that were ordered, or fewer.
    pub(crate) fn deliver(&mut self, order: &Order, sockets: Vec<F>) {
        let Some(shelf) = self.shelves.get_mut(&(order.uid.clone(), order.family)) else {
            return;
        };
        shelf.ordered = shelf.ordered.saturating_sub(order.count);
        self.total += sockets.len();
        shelf.sockets.extend(sockets);
    }

    /// An order that failed; requests that waited for it are returned, or they would wait for ever.
    pub(crate) fn fail(&mut self, order: &Order) -> Vec<u64> {
        let Some(shelf) = self.shelves.get_mut(&(order.uid.clone(), order.family)) else {
            return Vec::new();
        };
        shelf.ordered = shelf.ordered.saturating_sub(order.count);
        shelf.target = 0;
        shelf.waiting.drain(..).map(|(of, _)| of).collect()
    }

    /// Requests that can be answered now.
    pub(crate) fn answers(&mut self) -> Vec<Answer<F>> {
        let mut answers = Vec::new();
        for shelf in self.shelves.values_mut() {
            while !shelf.sockets.is_empty()
                && let Some((of, count)) = shelf.waiting.pop_front()
            {
                let rest = shelf.sockets.len().saturating_sub(count);
                let sockets = shelf.sockets.split_off(rest);
                self.total -= sockets.len();
                answers.push(Answer { of, sockets });
            }
        }
        answers
    }

    /// What to make: below half of its target, or with a request waiting, a stock is filled up.
    pub(crate) fn orders(&mut self) -> Vec<Order> {
        let mut room = TOTAL_MAX.saturating_sub(self.total);
        let mut orders = Vec::new();
        for ((uid, family), shelf) in &mut self.shelves {
            let asked: usize = shelf.waiting.iter().map(|(_, count)| count).sum();
            let have = shelf.sockets.len() + shelf.ordered;
            let low = have * 2 < shelf.target || have < asked;
            // A request is served even when all stocks together are full.
            let wanted = (shelf.target.max(asked)).saturating_sub(have);
            let count = wanted.min(DESCRIPTORS_MAX).min(room.max(asked));
            if !low || shelf.ordered > 0 {
                continue;
            }
            if count < wanted.min(DESCRIPTORS_MAX) {
                limits::STOCK.reached();
            }
            if count == 0 {
                continue;
            }
            room = room.saturating_sub(count);
            shelf.ordered += count;
            orders.push(Order {
                uid: uid.clone(),
                family: *family,
                count,
            });
        }
        orders
    }

    /// Time passed (some seconds): stocks that nobody asked for shrink.
    pub(crate) fn tick(&mut self) {
        for shelf in self.shelves.values_mut() {
            if !std::mem::take(&mut shelf.asked) && shelf.target > TARGET_MIN {
                shelf.target = (shelf.target / 2).max(TARGET_MIN);
                let surplus = shelf.sockets.len().saturating_sub(shelf.target);
                shelf.sockets.truncate(shelf.target);
                self.total -= surplus;
            }
        }
    }

    /// Sockets in stock of one pod: v4 and v6.
    pub(crate) fn count(&self, uid: &PodUid) -> (usize, usize) {
        let of = |family| {
            let shelf = self.shelves.get(&(uid.clone(), family));
            shelf.map_or(0, |shelf| shelf.sockets.len())
        };
        (of(Family::V4), of(Family::V6))
    }

    /// Sockets in stock of all pods.
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests;
