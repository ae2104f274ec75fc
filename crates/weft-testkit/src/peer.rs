//! Servers that run inside a pod and know nothing of the mesh.
//!
//! In: a namespace, an address, a [`Behaviour`]. Out: a [`Server`] that tells who connected. Each
//! runs on a thread of its own that entered the namespace, single-threaded, so a thousand
//! connections cost no thousand threads. Not here: clients (`load`).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

mod behaviour;

pub use behaviour::Behaviour;

use crate::netns::{Netns, runtime};

/// Connections waiting to be accepted: above the largest burst of a test.
const BACKLOG: i32 = 4096;

/// A server; dropping it ends it and its connections.
pub struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

// === impl Server ===

impl Server {
    /// Starts a server; port 0 takes a free one. When this returns, it listens.
    pub fn start(netns: &Netns, listen: SocketAddr, behaviour: Behaviour) -> Result<Self> {
        let listener = netns
            .enter(|| listen_on(listen))
            .with_context(|| format!("cannot listen on {listen} in {}", netns.name()))?;
        let address = listener.local_addr().context("a listener has an address")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let noted = seen.clone();
        let thread = netns.spawn("server", move || {
            runtime()?.block_on(async move {
                let listener = TcpListener::from_std(listener)?;
                tokio::select! {
                    result = serve(&listener, &behaviour, &noted) => result,
                    _ = stopped => Ok(()),
                }
            })
        })?;
        Ok(Self {
            address,
            seen,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Starts a server on a free port of every address of the namespace.
    pub fn on_any(netns: &Netns, behaviour: Behaviour) -> Result<Self> {
        let any = if crate::netns::has_ipv6() {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        Self::start(
            netns,
            any.parse().expect("an address that is a literal"),
            behaviour,
        )
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its port at one of its pod's addresses.
    pub fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port())
    }

    /// The address of the other end of every connection so far, as the application sees it.
    pub fn seen(&self) -> Vec<SocketAddr> {
        self.seen.lock().expect("no server panics").clone()
    }

    /// Ends the server and its connections and waits for that.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("a server panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Runs a server on the calling thread for ever.
pub fn serve_forever(listen: SocketAddr, behaviour: &Behaviour) -> Result<()> {
    let listener = listen_on(listen)?;
    let seen = Mutex::new(Vec::new());
    runtime()?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        serve(&listener, behaviour, &seen).await
    })
}

fn listen_on(address: SocketAddr) -> Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn serve(
    listener: &TcpListener,
    behaviour: &Behaviour,
    seen: &Mutex<Vec<SocketAddr>>,
) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                seen.lock().expect("no server panics").push(peer);
                let behaviour = behaviour.clone();
                // How a connection ends is for its client to judge.
                connections.spawn(async move { behaviour.serve(stream, peer).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
