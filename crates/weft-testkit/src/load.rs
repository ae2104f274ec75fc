//! Clients: one exchange, or a steady stream of new connections on a fixed schedule.
//!
//! In: a namespace, an address. Out: what came back, or [`ChurnReport`] that counts every way in
//! which a connection can go wrong. Not here: servers (`peer`).

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

mod churn;
mod death;
mod report;

pub use churn::{Churn, Churning};
pub use death::{Death, Failure, Held, Phase};
pub use report::{ChurnReport, Spread};

use crate::leak::canary_payload;
use crate::netns::Netns;

/// Bound of one exchange: a hundred times what it takes on a busy machine.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(20);

/// Connects from inside a namespace.
pub fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    let connected = netns.enter(|| Ok(TcpStream::connect_timeout(&to, EXCHANGE_LIMIT)));
    let stream = connected.map_err(io::Error::other)??;
    prepare(&stream)?;
    Ok(stream)
}

/// Opens many connections, one after the other, from inside a namespace.
pub fn connect_many(netns: &Netns, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    netns.enter(|| {
        (0..count)
            .map(|number| {
                let stream = TcpStream::connect_timeout(&to, EXCHANGE_LIMIT)
                    .with_context(|| format!("connection {number} to {to}"))?;
                prepare(&stream)?;
                Ok(stream)
            })
            .collect()
    })
}

/// Connects, sends, ends the sending side, and returns all that comes back.
pub fn exchange(netns: &Netns, to: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(netns, to)?;
    let mut sender = stream.try_clone()?;
    // Both directions at once: a large payload does not fit into the buffers between.
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            sender.write_all(payload)?;
            sender.shutdown(Shutdown::Write)
        });
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        sending
            .join()
            .map_err(|_| io::Error::other("the sending thread panicked"))??;
        Ok(answer)
    })
}

/// An exchange with an echo server whose payload is all canaries; an error when anything but the
/// same bytes comes back.
pub fn echo(netns: &Netns, to: SocketAddr, length: usize) -> Result<()> {
    let payload = canary_payload(length);
    let answer = exchange(netns, to, &payload)
        .with_context(|| format!("{to} from {} does not echo", netns.name()))?;
    if answer != payload {
        return Err(anyhow!(
            "{to} from {}: sent {length} bytes, {} other ones came back",
            netns.name(),
            answer.len()
        ));
    }
    Ok(())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(EXCHANGE_LIMIT))?;
    stream.set_write_timeout(Some(EXCHANGE_LIMIT))
}
