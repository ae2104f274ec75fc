//! System calls of a thread that has entered a pod's network namespace.
//!
//! In: nothing but the thread's namespace. Out: sockets, addresses, cookies.

#![expect(unsafe_code, reason = "SO_NETNS_COOKIE has no safe wrapper")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use weft_node_api::{Family, Listeners};

use super::Fd;

/// Connections that may wait at a listener. The kernel cuts it to `net.core.somaxconn` of the namespace (4096 since 5.4):
/// while the proxy restarts, everything that a pod does within some hundred milliseconds waits here.
const BACKLOG: i32 = 65535;

/// The cookie of the thread's namespace.
pub(super) fn netns_cookie_here() -> io::Result<u64> {
    netns_cookie(tcp_socket(Family::V4)?.as_fd())
}

/// The cookie of a socket's network namespace (SO_NETNS_COOKIE, kernel 5.14).
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: cookie and len are valid for writes of the sizes given, and live through the call.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if outcome == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// All addresses of the namespace but the loopback ones.
pub(super) fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for address in weft_runtime::interface_addresses()? {
        if !address.ip.is_loopback() && !found.contains(&address.ip) {
            found.push(address.ip);
        }
    }
    Ok(found)
}

/// The three listeners, and whether they are dual-stack.
///
/// Bound to loopback and an ephemeral port: nothing but `sk_lookup` reaches them from outside,
/// and no port of the application is taken. An IPv6 one serves both families; without IPv6 it is IPv4.
pub(super) fn make_listeners() -> io::Result<(Listeners<Fd>, bool)> {
    match three(Family::V6) {
        Ok(listeners) => Ok((listeners, true)),
        Err(_no_ipv6) => Ok((three(Family::V4)?, false)),
    }
}

/// Whether these listen in the namespace with this cookie.
pub(super) fn listen_in(listeners: &Listeners<Fd>, cookie: u64) -> bool {
    [&listeners.outbound, &listeners.inbound, &listeners.hbone]
        .into_iter()
        .all(|socket| {
            sockopt::socket_acceptconn(socket).unwrap_or(false)
                && netns_cookie(socket.as_fd()).is_ok_and(|of| of == cookie)
        })
}

/// Whether a socket is IPv6.
pub(super) fn is_ipv6(socket: &Fd) -> bool {
    sockopt::socket_domain(socket).is_ok_and(|domain| domain == AddressFamily::INET6)
}

/// A socket's inode, which names it for as long as it lives.
pub(super) fn inode(socket: &Fd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

/// An unconnected TCP socket, non-blocking and close-on-exec. Plain TCP: MPTCP would not survive the hand-over of one subflow.
pub(super) fn tcp_socket(family: Family) -> io::Result<OwnedFd> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(ipproto::TCP),
    )?)
}

fn three(family: Family) -> io::Result<Listeners<Fd>> {
    Ok(Listeners {
        outbound: listener(family)?,
        inbound: listener(family)?,
        hbone: listener(family)?,
    })
}

fn listener(family: Family) -> io::Result<Fd> {
    let socket = tcp_socket(family)?;
    let loopback: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            // Binding to ::1 would make it IPv6-only, and sk_lookup refuses to hand it an IPv4 connection (EAFNOSUPPORT);
            // bound to a mapped address it accepts both.
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()
        }
    };
    // Accepted connections inherit it. A captured one occupies the rewritten port in the pod for as long as it lives, and an
    // application that sets the option, as servers do, may still listen there.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::new(loopback, 0))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Arc::new(socket))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::{addresses, inode, is_ipv6, listen_in, make_listeners, netns_cookie};

    #[test]
    fn listeners_know_their_namespace_and_are_found_again() {
        let (listeners, ipv6) = make_listeners().unwrap();
        let cookie = netns_cookie(listeners.outbound.as_fd()).unwrap();
        assert!(listen_in(&listeners, cookie));
        assert!(!listen_in(&listeners, cookie + 1));
        assert_eq!(is_ipv6(&listeners.hbone), ipv6);
        assert_ne!(
            inode(&listeners.outbound).unwrap(),
            inode(&listeners.inbound).unwrap()
        );
        assert!(addresses().unwrap().iter().all(|ip| !ip.is_loopback()));
    }
}
