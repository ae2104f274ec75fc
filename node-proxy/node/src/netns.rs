//! Everything that happens inside a pod's network namespace, on the one thread that enters them.
//!
//! In: jobs with the namespace's descriptor. Out: listeners, sockets, facts.
//! Deliberately not here: which pods exist, and when to make how many sockets.

mod inside;
mod sysctl;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc as thread_mpsc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::mpsc;
use tracing::{info, warn};
use weft_bpf::SocketStorage;
use weft_node_api::{Listeners, NackReason, PodFacts, PodSpec, Refusal};
use weft_runtime::spawn_thread;

pub(crate) use inside::netns_cookie;

use crate::deletion::leads_to;
use crate::stock::Order;

pub(crate) type Fd = Arc<OwnedFd>;

/// Something to do in a namespace.
#[derive(Debug)]
pub(crate) enum Job {
    /// Flag sockets in this map from now on.
    Maps(Fd),
    /// Check the namespace, read its facts, make listeners unless the given ones are of this namespace.
    Prepare {
        spec: PodSpec,
        generation: u64,
        netns: Fd,
        listeners: Option<Listeners<Fd>>,
    },
    /// Make sockets.
    Make { order: Order, netns: Fd },
    /// Set `tcp_tw_reuse`, and tell what it was.
    Tune { cookie: u64, netns: Fd },
    /// Put `tcp_tw_reuse` back.
    Restore { value: u8, netns: Fd },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Prepared {
        spec: PodSpec,
        generation: u64,
        netns: Fd,
        outcome: Result<(PodFacts, Listeners<Fd>), Refusal>,
    },
    Made {
        order: Order,
        sockets: Result<Vec<Fd>, String>,
    },
    Tuned {
        cookie: u64,
        before: u8,
    },
}

/// Outcomes that may wait for the holder's task, which takes them at once.
const OUTCOMES_MAX: usize = 256;

/// Starts the thread. It ends when the sender of jobs is dropped.
///
/// `home` is the cookie of the node's own namespace, which is never a pod's.
pub(crate) fn start(
    home: u64,
) -> std::io::Result<(thread_mpsc::Sender<Job>, mpsc::Receiver<Outcome>)> {
    let (job_tx, job_rx) = thread_mpsc::channel::<Job>();
    let (outcome_tx, outcome_rx) = mpsc::channel(OUTCOMES_MAX);
    let own = std::fs::File::open("/proc/thread-self/ns/net")?;
    let home_netns: Fd = Arc::new(own.into());
    spawn_thread("weft-netns", move || {
        let mut worker = Worker {
            home,
            storage: None,
        };
        while let Ok(job) = job_rx.recv() {
            let outcome = worker.work(job);
            // A thread keeps the namespace that it is in alive, like a socket does.
            if let Err(error) = enter(&home_netns) {
                warn!(%error, "the namespace thread cannot return");
            }
            if let Some(outcome) = outcome
                && outcome_tx.blocking_send(outcome).is_err()
            {
                return;
            }
        }
    })?;
    Ok((job_tx, outcome_rx))
}

struct Worker {
    home: u64,
    storage: Option<SocketStorage>,
}

impl Worker {
    fn work(&mut self, job: Job) -> Option<Outcome> {
        match job {
            Job::Maps(map) => {
                self.take_map(&map);
                None
            }
            Job::Prepare {
                spec,
                generation,
                netns,
                listeners,
            } => {
                let outcome = self.prepare(&spec, &netns, listeners);
                Some(Outcome::Prepared {
                    spec,
                    generation,
                    netns,
                    outcome,
                })
            }
            Job::Make { order, netns } => {
                let sockets = self.make(&order, &netns);
                Some(Outcome::Made { order, sockets })
            }
            Job::Tune { cookie, netns } => {
                let before = enter(&netns).and_then(|()| sysctl::set_tw_reuse(1));
                match before {
                    Ok(before) => Some(Outcome::Tuned { cookie, before }),
                    Err(error) => {
                        warn!(%error, "cannot set tcp_tw_reuse in a pod: many connections to one destination may run out of ports");
                        None
                    }
                }
            }
            Job::Restore { value, netns } => {
                if let Err(error) = enter(&netns).and_then(|()| sysctl::set_tw_reuse(value)) {
                    warn!(%error, value, "cannot restore tcp_tw_reuse in a pod");
                }
                None
            }
        }
    }

    fn take_map(&mut self, map: &Fd) {
        let storage = map
            .try_clone()
            .map_err(|error| error.to_string())
            .and_then(|fd| SocketStorage::from_fd(fd).map_err(|error| error.to_string()));
        match storage {
            Ok(storage) => {
                info!("sockets will be flagged in the agent's map");
                self.storage = Some(storage);
            }
            Err(error) => warn!(%error, "the agent's map of socket storage cannot be used"),
        }
    }

    fn prepare(
        &self,
        spec: &PodSpec,
        netns: &Fd,
        listeners: Option<Listeners<Fd>>,
    ) -> Result<(PodFacts, Listeners<Fd>), Refusal> {
        if !leads_to(&spec.netns, netns) {
            let detail = format!("{} does not lead there (any more)", spec.netns.display());
            return Err(refusal(NackReason::WrongNetns, detail));
        }
        enter(netns).map_err(|e| refusal(NackReason::Failed, format!("setns: {e}")))?;
        let failed = |e: std::io::Error| refusal(NackReason::Failed, e.to_string());
        let cookie = inside::netns_cookie_here().map_err(failed)?;
        if cookie == self.home {
            let detail = "it is the node's own: a pod with hostNetwork cannot be enrolled";
            return Err(refusal(NackReason::WrongNetns, detail.into()));
        }
        let addresses = inside::addresses().map_err(failed)?;
        if !spec.addresses.iter().any(|ip| addresses.contains(ip)) {
            let detail = format!(
                "the namespace has {addresses:?}, the pod should have {:?}; check status.podIPs and the path",
                spec.addresses
            );
            return Err(refusal(NackReason::AddressMissing, detail));
        }
        let local_ports = sysctl::local_ports().map_err(failed)?;
        let (listeners, ipv6) = match listeners.filter(|old| inside::listen_in(old, cookie)) {
            Some(old) => {
                let ipv6 = inside::is_ipv6(&old.outbound);
                (old, ipv6)
            }
            None => inside::make_listeners().map_err(failed)?,
        };
        let facts = PodFacts {
            netns_cookie: cookie,
            local_ports,
            addresses,
            ipv6,
            listener_inode: inside::inode(&listeners.outbound).map_err(failed)?,
        };
        Ok((facts, listeners))
    }

    fn make(&self, order: &Order, netns: &Fd) -> Result<Vec<Fd>, String> {
        let Some(storage) = &self.storage else {
            return Err("the agent has not given the map of socket storage".into());
        };
        enter(netns).map_err(|error| format!("setns: {error}"))?;
        let mut sockets = Vec::with_capacity(order.count);
        for _ in 0..order.count {
            let socket = inside::tcp_socket(order.family).map_err(|error| error.to_string())?;
            // An unflagged socket would be captured and come back to the proxy for ever.
            storage
                .flag(socket.as_fd())
                .map_err(|error| error.to_string())?;
            sockets.push(Arc::new(socket));
        }
        Ok(sockets)
    }
}

fn enter(netns: &Fd) -> std::io::Result<()> {
    Ok(move_into_link_name_space(
        netns.as_fd(),
        Some(LinkNameSpaceType::Network),
    )?)
}

fn refusal(reason: NackReason, detail: String) -> Refusal {
    Refusal { reason, detail }
}
