//! Room for connections to the applications of one pod that have not been accepted.
//!
//! In: the port that a delivery goes to. Out: a turn for it, or which bound kept it waiting too long.
//! Bounded for each port as well: an application that does not accept must not take the room of the pod's others.
//! Not here: how long one connect may take (`socket`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::limits;

/// Deliveries of one pod that may be in handshake at once, a fraction of the kernel's map for them: an application that does not
/// accept must not take the room of others. A handshake over loopback takes microseconds.
const DELIVERIES_MAX: usize = weft_ebpf_abi::POD_CLIENTS_MAX as usize;
/// Those to one port among them: three jammed ports leave the pod's others as much room as each of them has, four leave none.
const DELIVERIES_TO_PORT_MAX: usize = DELIVERIES_MAX / 4;

/// The deliveries of one pod.
pub(crate) struct Deliveries {
    pod: Semaphore,
    /// Only ports that something waits for or goes to. A tree, because it gives its memory back.
    ports: Mutex<BTreeMap<u16, Port>>,
}

struct Port {
    places: Arc<Semaphore>,
    /// Deliveries that have a place or wait for one.
    users: usize,
}

/// The right to connect to the application; others have it when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _of_pod: SemaphorePermit<'a>,
    _of_port: OwnedSemaphorePermit,
    // Last: whoever finds no entry makes one in which all places are free.
    _user: User<'a>,
}

/// Keeps the entry of a port.
struct User<'a> {
    of: &'a Deliveries,
    port: u16,
}

/// No turn came: which bound was in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum NoTurn {
    /// The application of that port does not accept.
    #[error(
        "no turn within {} s: {DELIVERIES_TO_PORT_MAX} connections to port {port} of the pod already wait for its application; check why it does not accept",
        waited.as_secs()
    )]
    Port { port: u16, waited: Duration },
    /// Those of several ports do not.
    #[error(
        "no turn within {} s: {DELIVERIES_MAX} connections to several ports of the pod already wait for its applications; check why they do not accept",
        waited.as_secs()
    )]
    Pod { waited: Duration },
}

impl Default for Deliveries {
    fn default() -> Self {
        Self {
            pod: Semaphore::new(DELIVERIES_MAX),
            ports: Mutex::default(),
        }
    }
}

impl Deliveries {
    /// A turn for a delivery to `port`, at most `wait` later. Cancel safe.
    ///
    /// The port's place comes first: what waits for a full port must not have one of the pod's meanwhile. What has the port's
    /// and waits for the pod's keeps back only others to the same port, which would wait for the pod's as well.
    pub(crate) async fn turn(&self, port: u16, wait: Duration) -> Result<Turn<'_>, NoTurn> {
        let end = Instant::now() + wait;
        let (user, places) = self.enter(port);
        let of_port = if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            place
        } else {
            limits::PORT_DELIVERIES.reached();
            let place = timeout_at(end, places.acquire_owned()).await;
            place
                .map_err(|_| NoTurn::Port { port, waited: wait })?
                .expect("the semaphore is never closed")
        };
        let of_pod = if let Ok(place) = self.pod.try_acquire() {
            place
        } else {
            limits::DELIVERIES.reached();
            let place = timeout_at(end, self.pod.acquire()).await;
            place
                .map_err(|_| NoTurn::Pod { waited: wait })?
                .expect("the semaphore is never closed")
        };
        Ok(Turn {
            _of_pod: of_pod,
            _of_port: of_port,
            _user: user,
        })
    }

    fn enter(&self, port: u16) -> (User<'_>, Arc<Semaphore>) {
        let mut ports = self.lock();
        let entry = ports.entry(port).or_insert_with(|| Port {
            places: Arc::new(Semaphore::new(DELIVERIES_TO_PORT_MAX)),
            users: 0,
        });
        entry.users += 1;
        (User { of: self, port }, Arc::clone(&entry.places))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Port>> {
        // Held for a look at the tree, never while anything waits; nothing in there panics half-way.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let mut ports = self.of.lock();
        if let Some(entry) = ports.get_mut(&self.port) {
            entry.users -= 1;
            if entry.users == 0 {
                ports.remove(&self.port);
            }
        }
    }
}

impl std::fmt::Debug for User<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "a delivery to port {}", self.port)
    }
}

#[cfg(test)]
mod tests;
