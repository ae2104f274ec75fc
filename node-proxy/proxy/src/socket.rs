//! TCP sockets: resets that stay resets, connecting with a socket from inside a pod, options.
//!
//! In: accepted streams and unconnected sockets. Out: streams. Not here: where sockets come from (`pods`).

#![expect(
    unsafe_code,
    reason = "IP_BIND_ADDRESS_NO_PORT has no safe wrapper in the libraries at hand"
)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

/// How long a TCP connect may take; Istio's node proxy waits as long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An application's or peer's connection before its fate is known. Dropped, it is reset: never a clean end of stream.
pub(crate) struct Undecided(Option<TcpStream>);

impl Undecided {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    /// The connection goes on; from here whoever holds the stream decides how it ends.
    pub(crate) fn keep(mut self) -> TcpStream {
        self.0.take().expect("taken only here, which consumes it")
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.0
            .as_ref()
            .expect("taken only by keep, which consumes it")
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            reset(stream);
        }
    }
}

/// Closes with RST.
pub(crate) fn reset(stream: TcpStream) {
    reset_when_killed(&stream);
    drop(stream);
}

/// Makes the kernel reset the connection when this process is killed, instead of ending it as if its other end had; a relay
/// clears it where that end has come. Also for a socket that is not connected yet.
pub(crate) fn reset_when_killed(socket: &impl AsFd) {
    // Fails only on a socket that is not connected any more; there is nobody left to tell.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Connects an unconnected socket, from `source` when given (any free port of it), within ten seconds.
///
/// Cancel safe: dropping the future closes the socket.
pub(crate) async fn connect(
    socket: OwnedFd,
    source: Option<IpAddr>,
    to: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket.into());
    socket.set_nodelay(true)?;
    if let Some(source) = source {
        bind_address_only(&socket)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        )),
    }
}

/// Delays the choice of a port from bind to connect (`IP_BIND_ADDRESS_NO_PORT`, Linux 4.2; for IPv6 sockets as well),
/// so that one source address may have one port for each destination rather than one port in all.
fn bind_address_only(socket: &TcpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the length of the call, and the value is a c_int of the given size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::{Undecided, connect};

    fn fresh() -> OwnedFd {
        let socket = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM.nonblocking(),
            None,
        );
        socket.unwrap().into()
    }

    #[tokio::test]
    async fn a_dropped_undecided_connection_is_a_reset_not_an_end_of_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        drop(Undecided::new(server));
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_given_source_address_is_used_and_two_destinations_share_its_ports() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let source = "127.0.0.9".parse().unwrap();
        let stream = connect(fresh(), Some(source), to).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), source);
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), source);
    }

    #[tokio::test]
    async fn a_refused_connect_says_so() {
        let gone: SocketAddr = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let error = connect(fresh(), None, gone).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
