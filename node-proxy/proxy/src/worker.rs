//! What one worker thread owns: its live connections and its tunnels. Nothing of it is shared with another thread.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use weft_hbone::PoolLimits;

use crate::admission::Arrival;
use crate::connections::{Connection, Connections};
use crate::endpoints::Endpoints;
use crate::shared::Shared;
use crate::tunnel::{TunnelConnector, Tunnels};

/// One worker, shared by the tasks of its thread.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connections: Rc<Connections<Arrival>>,
    pub(crate) tunnels: Tunnels,
    /// Endpoints as this worker sees their load.
    pub(crate) endpoints: Rc<Endpoints>,
    /// Given up for a moment when descriptors have run out, to accept and reset what waits.
    pub(crate) spare: RefCell<Option<OwnedFd>>,
}

/// A live connection of a worker.
pub(crate) type Live = Connection<Arrival>;

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let connector = TunnelConnector(Arc::clone(&shared));
        Rc::new(Self {
            connections: Connections::new(shared.telemetry.clone()),
            tunnels: Tunnels::new(connector, PoolLimits::default()),
            endpoints: Rc::new(Endpoints::new(Arc::clone(&shared.affinity))),
            spare: RefCell::new(None),
            shared,
        })
    }
}
