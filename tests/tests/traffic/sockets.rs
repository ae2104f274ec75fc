//! Sockets used in the ways in which runtimes use them: non-blocking, bound, v4-mapped.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use weft_testkit::netns::{Netns, has_ipv6};
use weft_testkit::peer::Behaviour;

use super::{everywhere, three_pods};

/// Bound of one step of a connection.
const LIMIT: Duration = Duration::from_secs(20);

fn socket(netns: &Netns, domain: Domain) -> Socket {
    netns
        .enter(|| Ok(Socket::new(domain, Type::STREAM, None)?))
        .unwrap()
}

fn echo(socket: &Socket) {
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut stream = socket;
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

#[test]
fn a_non_blocking_connect_completes_and_tells_no_error() {
    everywhere(&Behaviour::Echo, |lab, _, to| {
        let socket = socket(&lab.netns("a"), Domain::for_address(to));
        socket.set_nonblocking(true).unwrap();
        if let Err(error) = socket.connect(&to.into()) {
            assert_eq!(error.raw_os_error(), Some(libc_einprogress()), "{error}");
        }
        let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
        let limit = Timespec {
            tv_sec: LIMIT.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1);
        assert!(socket.take_error().unwrap().is_none());
        assert_eq!(socket.peer_addr().unwrap().as_socket().unwrap(), to);
        socket.set_nonblocking(false).unwrap();
        echo(&socket);
    });
}

#[test]
fn a_bound_source_address_and_port_are_kept() {
    everywhere(&Behaviour::Echo, |lab, server, to| {
        let own = if to.is_ipv4() {
            lab.v4("a")
        } else {
            lab.v6("a")
        };
        let before = server.seen().len();
        let socket = socket(&lab.netns("a"), Domain::for_address(to));
        socket.bind(&SocketAddr::new(own, 0).into()).unwrap();
        let bound = socket.local_addr().unwrap().as_socket().unwrap();
        socket.connect_timeout(&to.into(), LIMIT).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket().unwrap(), bound);
        echo(&socket);
        let seen = server.seen()[before];
        assert_eq!(
            (seen.ip().to_canonical(), seen.port()),
            (bound.ip(), bound.port())
        );
    });
}

#[test]
fn a_v4_mapped_socket_dials_ipv4() {
    if !weft_tests::is_root() || !has_ipv6() {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        let (server, to) = lab.serve(pod, Behaviour::Echo).unwrap();
        let std::net::IpAddr::V4(v4) = to.ip() else {
            unreachable!("serve gives the IPv4 address");
        };
        let mapped: Ipv6Addr = v4.to_ipv6_mapped();
        let to = SocketAddr::new(mapped.into(), to.port());
        let socket = socket(&lab.netns("a"), Domain::IPV6);
        socket.set_only_v6(false).unwrap();
        socket.connect_timeout(&to.into(), LIMIT).unwrap();
        assert_eq!(socket.peer_addr().unwrap().as_socket().unwrap(), to);
        echo(&socket);
        assert_eq!(server.seen()[0].ip().to_canonical(), lab.v4("a"));
    }
}

#[test]
fn a_server_may_listen_where_a_captured_connection_lives() {
    everywhere(&Behaviour::Echo, |lab, _, to| {
        let netns = lab.netns("a");
        let client = socket(&netns, Domain::for_address(to));
        client.connect_timeout(&to.into(), LIMIT).unwrap();
        echo(&client);
        let own = client.local_addr().unwrap().as_socket().unwrap();
        let taken = captured_port(&netns, own.port());
        let server = socket(&netns, Domain::for_address(to));
        server.set_reuse_address(true).unwrap();
        let at = SocketAddr::new(own.ip(), taken);
        let listening = server.bind(&at.into()).and_then(|()| server.listen(1));
        assert!(listening.is_ok(), "at {at}: {listening:?}");
        echo(&client);
    });
}

/// The port, in the pod, of the end that the proxy holds of a client's connection.
fn captured_port(netns: &Netns, client: u16) -> u16 {
    let peer = format!(":{client:04X}");
    let tables = netns
        .enter(|| {
            // Of the calling thread: it alone has entered the namespace.
            let v4 = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
            let v6 = std::fs::read_to_string("/proc/thread-self/net/tcp6")?;
            Ok(v4 + &v6)
        })
        .unwrap();
    let local = tables.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        remote.ends_with(&peer).then_some(local)
    });
    let (_, port) = local.and_then(|local| local.split_once(':')).unwrap();
    u16::from_str_radix(port, 16).unwrap()
}

fn libc_einprogress() -> i32 {
    rustix::io::Errno::INPROGRESS.raw_os_error()
}
