//! Unconnected sockets inside one pod, ordered from the holder ahead of need.
//!
//! In: deliveries. Out: sockets, one for each connection. The stock follows demand: it doubles while orders follow each other closely and
//! falls back when nothing was taken for a while. Any thread may take.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use weft_node_api::{DESCRIPTORS_MAX, Family};
use weft_types::PodUid;

use crate::limits;

/// Sockets kept for a pod that does little: one burst of a browser. 100 pods with both families hold 1600 descriptors.
const TARGET_MIN: usize = 8;
/// Sockets kept for a busy pod: at 20 000 connections a second, what is used while an order (about 1 ms) is under way, tenfold.
const TARGET_MAX: usize = 256;
/// Orders closer together than this double the stock: one order in a tenth of a second costs nothing that shows.
const ORDER_INTERVAL: Duration = Duration::from_millis(100);
/// How long a connection waits for a socket.
const SOCKET_WAIT: Duration = Duration::from_secs(5);

/// A wish for the holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) uid: PodUid,
    pub(crate) family: Family,
    pub(crate) count: usize,
}

/// Why there is no socket for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NoSocket {
    /// None came in the time that a connection waits.
    #[error("no socket inside the pod within {} s; check weft-node", .0.as_secs())]
    Late(Duration),
    /// None will come any more.
    #[error("the pod is gone or left the mesh")]
    PodLeft,
}

/// The stock of one pod.
pub(crate) struct Stock {
    uid: PodUid,
    orders: mpsc::UnboundedSender<Order>,
    wait: Duration,
    v4: Shelf,
    v6: Shelf,
}

struct Shelf {
    family: Family,
    state: Mutex<State>,
    /// Sockets came, or none will come any more.
    changed: Notify,
}

struct State {
    sockets: Vec<OwnedFd>,
    target: usize,
    ordered: bool,
    last_order: Option<Instant>,
    taken: bool,
    closed: bool,
}

impl Stock {
    pub(crate) fn new(uid: PodUid, orders: mpsc::UnboundedSender<Order>) -> Self {
        Self {
            uid,
            orders,
            wait: SOCKET_WAIT,
            v4: Shelf::new(Family::V4),
            v6: Shelf::new(Family::V6),
        }
    }

    /// Orders the first sockets of a family.
    pub(crate) fn open(&self, family: Family) {
        let shelf = self.shelf(family);
        self.replenish(shelf, &mut shelf.lock());
    }

    /// Takes a socket, waiting up to [`SOCKET_WAIT`] for one. Cancel safe.
    pub(crate) async fn take(&self, family: Family) -> Result<OwnedFd, NoSocket> {
        let shelf = self.shelf(family);
        if let Some(socket) = self.take_now(shelf)? {
            return Ok(socket);
        }
        let arrival = async {
            loop {
                // Made before the look, so that a change in between is not missed.
                let changed = shelf.changed.notified();
                if let Some(socket) = self.take_now(shelf)? {
                    return Ok(socket);
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(self.wait, arrival).await;
        waited.unwrap_or_else(|_| {
            limits::SOCKETS.reached();
            Err(NoSocket::Late(self.wait))
        })
    }

    /// Sockets came.
    pub(crate) fn deliver(&self, family: Family, sockets: Vec<OwnedFd>) {
        let shelf = self.shelf(family);
        let mut state = shelf.lock();
        state.ordered = false;
        if state.closed {
            return;
        }
        state.sockets.extend(sockets);
        self.replenish(shelf, &mut state);
        drop(state);
        shelf.changed.notify_waiters();
    }

    /// An order came back empty; call again after a pause of the caller's choice.
    pub(crate) fn retry(&self, family: Family) {
        let shelf = self.shelf(family);
        let mut state = shelf.lock();
        state.ordered = false;
        self.replenish(shelf, &mut state);
    }

    /// Throws everything away (its flag lives in a map that is no longer used) and orders anew.
    pub(crate) fn renew(&self) {
        for shelf in [&self.v4, &self.v6] {
            let mut state = shelf.lock();
            if !state.sockets.is_empty() {
                state.sockets.clear();
                self.replenish(shelf, &mut state);
            }
        }
    }

    /// Falls back to the smallest stock where nothing was taken since the last call.
    pub(crate) fn settle(&self) {
        for shelf in [&self.v4, &self.v6] {
            let mut state = shelf.lock();
            if !std::mem::take(&mut state.taken) {
                state.target = TARGET_MIN;
                state.sockets.truncate(TARGET_MIN);
            }
        }
    }

    /// The pod is gone or left the mesh: nothing is kept, nothing ordered any more, and who waits is told.
    pub(crate) fn close(&self) {
        for shelf in [&self.v4, &self.v6] {
            let mut state = shelf.lock();
            state.closed = true;
            state.sockets.clear();
            drop(state);
            shelf.changed.notify_waiters();
        }
    }

    fn shelf(&self, family: Family) -> &Shelf {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn take_now(&self, shelf: &Shelf) -> Result<Option<OwnedFd>, NoSocket> {
        let mut state = shelf.lock();
        if state.closed {
            return Err(NoSocket::PodLeft);
        }
        state.taken = true;
        let socket = state.sockets.pop();
        self.replenish(shelf, &mut state);
        Ok(socket)
    }

    /// Orders when half of the stock is used; one order at a time.
    fn replenish(&self, shelf: &Shelf, state: &mut State) {
        if state.ordered || state.closed || state.sockets.len() > state.target / 2 {
            return;
        }
        // An order soon after the last one: what is kept is used up faster than the holder should be asked.
        let now = Instant::now();
        let soon = |last: Instant| now.duration_since(last) < ORDER_INTERVAL;
        if state.last_order.replace(now).is_some_and(soon) {
            state.target = (state.target * 2).min(TARGET_MAX);
        }
        let count = (state.target - state.sockets.len()).min(DESCRIPTORS_MAX);
        let order = Order {
            uid: self.uid.clone(),
            family: shelf.family,
            count,
        };
        // The receiver goes only when the proxy ends.
        state.ordered = self.orders.send(order).is_ok();
    }
}

impl Shelf {
    fn new(family: Family) -> Self {
        Self {
            family,
            state: Mutex::new(State {
                sockets: Vec::new(),
                target: TARGET_MIN,
                ordered: false,
                last_order: None,
                taken: false,
                closed: false,
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, so a poisoned lock holds no half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use weft_node_api::{DESCRIPTORS_MAX, Family};

    use super::{NoSocket, Order, Stock, TARGET_MIN};

    fn sockets(count: usize) -> Vec<OwnedFd> {
        let make = |_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        (0..count).map(make).map(|s| s.unwrap().into()).collect()
    }

    fn stock() -> (Arc<Stock>, UnboundedReceiver<Order>) {
        let (orders, inbox) = unbounded_channel();
        (Arc::new(Stock::new("uid".into(), orders)), inbox)
    }

    #[tokio::test]
    async fn a_waiting_connection_gets_the_socket_that_arrives_and_one_order_serves_many() {
        let (stock, mut orders) = stock();
        stock.open(Family::V4);
        assert_eq!(orders.recv().await.unwrap().count, TARGET_MIN);
        let waiting = stock.take(Family::V4);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(orders.try_recv().is_err(), "a second order while one runs");
        stock.deliver(Family::V4, sockets(TARGET_MIN));
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn without_a_delivery_the_wait_is_bounded_and_the_order_can_be_repeated() {
        let (sender, mut orders) = unbounded_channel();
        let mut stock = Stock::new("uid".into(), sender);
        stock.wait = Duration::ZERO;
        let late = NoSocket::Late(Duration::ZERO);
        assert_eq!(stock.take(Family::V6).await.unwrap_err(), late);
        assert_eq!(orders.recv().await.unwrap().family, Family::V6);
        assert!(orders.try_recv().is_err());
        stock.retry(Family::V6);
        assert!(orders.try_recv().is_ok());
    }

    #[tokio::test]
    async fn the_stock_grows_under_demand_and_settles_when_idle() {
        let (stock, mut orders) = stock();
        stock.open(Family::V4);
        let mut largest = 0;
        while largest < DESCRIPTORS_MAX {
            let order = orders.recv().await.unwrap();
            largest = largest.max(order.count);
            stock.deliver(Family::V4, sockets(order.count));
            while orders.is_empty() {
                drop(stock.take(Family::V4).await.unwrap());
            }
        }
        stock.deliver(Family::V4, sockets(DESCRIPTORS_MAX));
        stock.settle();
        stock.settle();
        assert_eq!(stock.v4.lock().sockets.len(), TARGET_MIN);
    }

    #[tokio::test]
    async fn who_waits_when_the_pod_leaves_and_who_comes_later_is_told_at_once() {
        let (stock, mut orders) = stock();
        let waiting = [stock.take(Family::V4), stock.take(Family::V6)];
        let [mut v4, mut v6] = waiting.map(Box::pin);
        assert!(futures_util::poll!(&mut v4).is_pending());
        assert!(futures_util::poll!(&mut v6).is_pending());
        while orders.try_recv().is_ok() {}
        stock.close();
        for told in [v4, v6, Box::pin(stock.take(Family::V4))] {
            let told = futures_util::FutureExt::now_or_never(told).expect("no wait");
            assert_eq!(told.unwrap_err(), NoSocket::PodLeft);
        }
        assert!(orders.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_closed_stock_keeps_and_orders_nothing() {
        let (stock, mut orders) = stock();
        stock.open(Family::V4);
        orders.recv().await.unwrap();
        stock.close();
        stock.deliver(Family::V4, sockets(3));
        assert!(stock.v4.lock().sockets.is_empty());
        assert!(orders.try_recv().is_err());
    }
}
