//! The one task that owns what this node holds.
//!
//! In: packets of agent, proxy and successor, outcomes from inside namespaces, ends of children, deletions, ticks.
//! Out: packets, jobs, modes of the children. The decisions are the state machine's (`weft_node_api::Holder`).

mod peers;
mod pods;
mod takeover;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};
use weft_node_api::{Acceptor, Holder};
use weft_runtime::{Shutdown, Signals};

pub(crate) use peers::bind_socket;
pub(crate) use takeover::{Inherited, receive};
pub(crate) use view::{Gauges, View};

use crate::children::{Children, Ended, Mode, Which};
use crate::deletion::Deletions;
use crate::netns::{Fd, Job, Outcome};
use crate::stock::Stock;
use peers::{Connections, PeerEvent};
use pods::{Namespaces, Tuned};
use takeover::Succession;

/// How often namespaces are looked at where inotify is blind, and hung peers are looked for.
const TICK: Duration = Duration::from_secs(2);

/// Stocks shrink every fifth tick.
const SHRINK_TICKS: u32 = 5;

/// How long a living proxy may take to offer what it has, after this program was started again.
/// It reconnects within half a second unless it hangs.
const OFFERS_LIMIT: Duration = Duration::from_secs(5);

/// What [`Hold`] is made of.
pub(crate) struct Parts {
    pub(crate) shutdown: Shutdown,
    pub(crate) socket: PathBuf,
    pub(crate) proxy_uid: u32,
    pub(crate) acceptor: Acceptor,
    pub(crate) children: Children,
    pub(crate) ended: mpsc::Receiver<Ended>,
    pub(crate) jobs: thread_mpsc::Sender<Job>,
    pub(crate) outcomes: mpsc::Receiver<Outcome>,
    pub(crate) lock: Fd,
    pub(crate) tuned: PathBuf,
    pub(crate) gauges: Arc<Gauges>,
    /// Binds the admin socket again, after a successor that failed had taken its path.
    pub(crate) serve_admin: Box<dyn Fn() -> std::io::Result<()>>,
    pub(crate) views: mpsc::Receiver<oneshot::Sender<View>>,
    /// A proxy of an earlier node program lives, and will offer its listeners.
    pub(crate) proxy_lives: bool,
    pub(crate) inherited: Option<Inherited>,
}

/// The task's state.
pub(crate) struct Hold {
    shutdown: Shutdown,
    socket: PathBuf,
    proxy_uid: u32,
    holder: Holder<Fd>,
    stock: Stock<Fd>,
    stock_open: bool,
    namespaces: Namespaces,
    tuned: Tuned,
    deletions: Deletions,
    connections: Connections,
    succession: Succession,
    children: Children,
    jobs: thread_mpsc::Sender<Job>,
    lock: Fd,
    gauges: Arc<Gauges>,
    serve_admin: Box<dyn Fn() -> std::io::Result<()>>,
    ticks: u32,
    ending: bool,
}

/// Runs until the node is told to end and both children have, or until a successor has taken everything.
pub(crate) async fn run(parts: Parts, mut signals: Signals) -> std::io::Result<()> {
    let Parts {
        mut acceptor,
        mut ended,
        mut outcomes,
        mut views,
        inherited,
        ..
    } = parts;
    let (peer_tx, mut peer_rx) = mpsc::channel(peers::EVENTS_MAX);
    let mut hold = Hold {
        holder: Holder::new(parts.proxy_lives),
        stock: Stock::new(),
        stock_open: false,
        namespaces: Namespaces::default(),
        tuned: Tuned::load(parts.tuned),
        deletions: Deletions::new()?,
        connections: Connections::new(peer_tx),
        succession: Succession::default(),
        shutdown: parts.shutdown,
        socket: parts.socket,
        proxy_uid: parts.proxy_uid,
        children: parts.children,
        jobs: parts.jobs,
        lock: parts.lock,
        gauges: parts.gauges,
        serve_admin: parts.serve_admin,
        ticks: 0,
        ending: false,
    };
    if let Some(inherited) = inherited {
        hold.inherit(inherited);
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let offers_limit = Instant::now() + OFFERS_LIMIT;
    loop {
        hold.settle();
        if hold.is_over() {
            return Ok(());
        }
        tokio::select! {
            accepted = acceptor.accept() => hold.connections.accepted(&hold.shutdown, accepted),
            Some(event) = peer_rx.recv() => {
                if let Some(rebound) = hold.peer_event(event) {
                    acceptor = rebound;
                }
            }
            Some(outcome) = outcomes.recv() => hold.outcome(outcome),
            Some(Ended(which)) = ended.recv() => hold.child_ended(which),
            () = hold.deletions.changed() => hold.look_for_deletions(),
            _ = tick.tick() => hold.tick(),
            () = tokio::time::sleep_until(offers_limit), if hold.holder.is_awaiting_offers() => {
                warn!("the living proxy did not offer its listeners; new ones will be made");
                hold.holder.offers_over();
            }
            Some(reply) = views.recv() => {
                let _ = reply.send(hold.view());
            }
            signal = signals.next() => {
                info!(?signal, "asked to end");
                if hold.ending {
                    warn!("asked again: leaving agent and proxy running");
                    return Ok(());
                }
                hold.end();
            }
        }
    }
}

impl Hold {
    /// Asks both children to end; this program follows them.
    fn end(&mut self) {
        self.ending = true;
        self.children.set_mode(Which::Agent, Mode::End);
        self.children.set_mode(Which::Proxy, Mode::End);
    }

    fn is_over(&self) -> bool {
        let gone = |which| self.children.pid(which).is_none();
        if self.ending {
            return gone(Which::Agent) && gone(Which::Proxy);
        }
        self.succession.is_complete() && gone(Which::Agent) && gone(Which::Proxy)
    }

    fn child_ended(&mut self, which: Which) {
        match which {
            // What a dead proxy has not offered, it never will.
            Which::Proxy => self.holder.offers_over(),
            Which::Agent => self.agent_ended(),
        }
    }

    fn tick(&mut self) {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(SHRINK_TICKS) {
            self.stock.tick();
        }
        self.look_for_deletions();
        self.drop_hung_peers();
    }

    fn peer_event(&mut self, event: PeerEvent) -> Option<Acceptor> {
        match event {
            PeerEvent::Packet(number, packet) => {
                self.packet(number, packet);
                None
            }
            PeerEvent::Closed(number, error) => self.closed(number, &error),
        }
    }

    /// Does whatever the last event made possible.
    fn settle(&mut self) {
        while let Some(action) = self.holder.action() {
            self.act(action);
        }
        self.serve_stock();
        self.flush();
        self.update_gauges();
    }
}
