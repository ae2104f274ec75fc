//! What an application sees when it connects, and what the proxy learns of it.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;

use socket2::{Domain, Protocol, Socket, Type};
use weft_tests::{is_root, skip};
use weft_types::OrigDst;

use crate::rig::{
    NEIGHBOUR_V4, NEIGHBOUR_V6, PATIENCE, POD_V4, POD_V6, Rig, accept, connect, converse, is_idle,
    listen, mapped, tcp, v4, v6,
};
use crate::sys;

#[test]
fn a_connect_is_captured_and_the_proxy_reads_its_destination() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for (dialled, want, own) in [
        (v4(NEIGHBOUR_V4, 80), v4(NEIGHBOUR_V4, 80), v4(POD_V4, 0)),
        (v6(NEIGHBOUR_V6, 80), v6(NEIGHBOUR_V6, 80), v6(POD_V6, 0)),
        (
            mapped(NEIGHBOUR_V4, 80),
            v4(NEIGHBOUR_V4, 80),
            mapped(POD_V4, 0),
        ),
        // Nobody has this address: a captured connect succeeds at once all the same.
        (
            v4([203, 0, 113, 9].into(), 65535),
            v4([203, 0, 113, 9].into(), 65535),
            v4(POD_V4, 0),
        ),
    ] {
        let mut client = connect(&rig.pod, dialled).unwrap();
        let (mut accepted, original) = rig.accept_outbound();
        assert_eq!(original, Some(OrigDst(want)));
        assert_eq!(
            client.peer_addr().unwrap(),
            dialled,
            "the peer is the one that was dialled"
        );
        assert_eq!(
            client.local_addr().unwrap().ip(),
            own.ip(),
            "the source is the pod's own"
        );
        converse(&mut client, &mut accepted);
    }
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_non_blocking_connect_ends_like_a_blocking_one() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for dialled in [
        v4(NEIGHBOUR_V4, 80),
        v6(NEIGHBOUR_V6, 80),
        mapped(NEIGHBOUR_V4, 80),
    ] {
        let socket = tcp(&rig.pod, dialled);
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&dialled.into()) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS)),
        }
        let (mut accepted, original) = rig.accept_outbound();
        assert!(original.is_some());
        assert!(sys::writable(socket.as_fd(), PATIENCE));
        assert!(socket.take_error().unwrap().is_none());
        assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(dialled));
        socket.set_nonblocking(false).unwrap();
        converse(&mut socket.into(), &mut accepted);
    }
}

#[test]
fn a_bound_source_stays_and_never_meets_itself() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for (source, dialled) in [
        (v4(POD_V4, 0), v4(NEIGHBOUR_V4, 80)),
        (v6(POD_V6, 0), v6(NEIGHBOUR_V6, 80)),
    ] {
        // Ports on both sides of the range that rewritten ports keep out of, and none of those that they are drawn from (61000 to
        // 62023): a connection before may hold one, and the kernel then refuses the bind.
        for port in [0, 700, 5000, 40_000, 64_001] {
            let source = SocketAddr::new(source.ip(), port);
            let socket = tcp(&rig.pod, dialled);
            socket.set_reuse_address(true).unwrap();
            socket.bind(&source.into()).unwrap();
            let bound = socket.local_addr().unwrap().as_socket().unwrap();
            socket.connect_timeout(&dialled.into(), PATIENCE).unwrap();
            let (accepted, original) = rig.accept_outbound();
            assert_eq!(original, Some(OrigDst(dialled)));
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(bound));
            assert_eq!(
                weft_types::address::canonical(accepted.peer_addr().unwrap()),
                bound
            );
            assert_ne!(accepted.local_addr().unwrap().port(), bound.port());
        }
    }
}

#[test]
fn connections_to_loopback_and_own_addresses_are_untouched() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let own: [IpAddr; 4] = [
        [127, 0, 0, 1].into(),
        POD_V4.into(),
        std::net::Ipv6Addr::LOCALHOST.into(),
        POD_V6.into(),
    ];
    for ip in own {
        let listener = listen(&rig.pod, ip, 0);
        let to = listener.local_addr().unwrap();
        let mut client = connect(&rig.pod, to).unwrap();
        let mut served = accept(&listener);
        assert_eq!(client.peer_addr().unwrap(), to);
        assert_eq!(served.peer_addr().unwrap(), client.local_addr().unwrap());
        converse(&mut client, &mut served);
    }
    // The unspecified address means this machine.
    let listener = listen(&rig.pod, [0, 0, 0, 0], 0);
    let port = listener.local_addr().unwrap().port();
    let _client = connect(&rig.pod, v4([0, 0, 0, 0].into(), port)).unwrap();
    let _served = accept(&listener);
    assert!(is_idle(&rig.outbound) && is_idle(&rig.inbound));
    assert_eq!(rig.entries("CAPTURES"), 0);
}

#[test]
fn udp_is_untouched() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for (pod, neighbour) in [
        (v4(POD_V4, 0), v4(NEIGHBOUR_V4, 0)),
        (v6(POD_V6, 0), v6(NEIGHBOUR_V6, 0)),
    ] {
        let ours = rig.pod.enter(|| Ok(UdpSocket::bind(pod)?)).unwrap();
        let theirs = rig
            .neighbour
            .enter(|| Ok(UdpSocket::bind(neighbour)?))
            .unwrap();
        ours.connect(theirs.local_addr().unwrap()).unwrap();
        assert_eq!(ours.peer_addr().unwrap(), theirs.local_addr().unwrap());
        ours.send(b"datagram").unwrap();
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = retry(|| theirs.recv_from(&mut buffer));
        assert_eq!(
            (&buffer[..length], from),
            (&b"datagram"[..], ours.local_addr().unwrap())
        );
        theirs.send_to(b"answer", from).unwrap();
        assert_eq!(retry(|| ours.recv(&mut buffer)), 6);
    }
}

#[test]
fn an_mptcp_socket_is_captured_like_a_tcp_one() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for dialled in [v4(NEIGHBOUR_V4, 80), v6(NEIGHBOUR_V6, 80)] {
        let mptcp = rig.pod.enter(|| {
            Ok(Socket::new(
                Domain::for_address(dialled),
                Type::STREAM,
                Some(Protocol::MPTCP),
            ))
        });
        let Ok(socket) = mptcp.unwrap() else {
            return skip("this kernel has no MPTCP");
        };
        socket.connect_timeout(&dialled.into(), PATIENCE).unwrap();
        let (mut accepted, original) = rig.accept_outbound();
        assert_eq!(original, Some(OrigDst(dialled)));
        assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(dialled));
        converse(&mut socket.into(), &mut accepted);
    }
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_socket_bound_to_the_interface_and_a_fast_open_are_captured() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for dialled in [v4(NEIGHBOUR_V4, 80), v6(NEIGHBOUR_V6, 80)] {
        let socket = tcp(&rig.pod, dialled);
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.connect_timeout(&dialled.into(), PATIENCE).unwrap();
        let (mut accepted, original) = rig.accept_outbound();
        assert_eq!(original, Some(OrigDst(dialled)));
        converse(&mut socket.into(), &mut accepted);

        let socket = tcp(&rig.pod, dialled);
        let sent = socket.send_to_with_flags(b"early", &dialled.into(), libc::MSG_FASTOPEN);
        assert_eq!(sent.unwrap(), 5);
        let (mut accepted, original) = rig.accept_outbound();
        assert_eq!(original, Some(OrigDst(dialled)));
        let mut text = [0; 5];
        accepted.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"early");
    }
    rig.wait_empty("CAPTURES");
}

#[test]
fn sockets_of_the_proxy_are_not_captured() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for at in [v4(NEIGHBOUR_V4, 0), v6(NEIGHBOUR_V6, 0)] {
        let listener = listen(&rig.neighbour, at.ip(), 0);
        let to = listener.local_addr().unwrap();
        let socket = rig.flagged(to);
        socket.connect_timeout(&to.into(), PATIENCE).unwrap();
        let mut served = accept(&listener);
        assert_eq!(
            served.peer_addr().unwrap(),
            socket.local_addr().unwrap().as_socket().unwrap()
        );
        converse(&mut socket.into(), &mut served);
    }
    assert!(is_idle(&rig.outbound));
}

#[test]
fn ports_that_the_mesh_is_known_for_stay_the_applications() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for port in [15001, 15006, 15008, 15021] {
        let application = listen(&rig.pod, POD_V4, port);
        let mut client = connect(&rig.pod, v4(POD_V4, port)).unwrap();
        let mut served = accept(&application);
        converse(&mut client, &mut served);

        let _client = connect(&rig.pod, v4(NEIGHBOUR_V4, port)).unwrap();
        assert_eq!(
            rig.accept_outbound().1,
            Some(OrigDst(v4(NEIGHBOUR_V4, port)))
        );
        assert!(is_idle(&application));
    }
}

#[test]
fn a_client_that_leaves_at_once_is_served_from_the_backlog() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let mut client = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    client.write_all(b"farewell").unwrap();
    drop(client);
    rig.wait_empty("CAPTURES");
    let (mut accepted, original) = rig.accept_outbound();
    assert_eq!(original, Some(OrigDst(v4(NEIGHBOUR_V4, 80))));
    let mut text = String::new();
    accepted.read_to_string(&mut text).unwrap();
    assert_eq!(text, "farewell");
}

#[test]
fn a_socket_may_connect_again_elsewhere() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let socket = tcp(&rig.pod, v4(NEIGHBOUR_V4, 0));
    for port in [80, 81] {
        socket
            .connect_timeout(&v4(NEIGHBOUR_V4, port).into(), PATIENCE)
            .unwrap();
        let (_accepted, original) = rig.accept_outbound();
        assert_eq!(original, Some(OrigDst(v4(NEIGHBOUR_V4, port))));
        assert_eq!(
            socket.peer_addr().unwrap().as_socket(),
            Some(v4(NEIGHBOUR_V4, port))
        );
        disconnect(&socket);
    }
    // To its own pod it is a plain socket again.
    let application = listen(&rig.pod, POD_V4, 0);
    let own = application.local_addr().unwrap();
    socket.connect_timeout(&own.into(), PATIENCE).unwrap();
    let _served = accept(&application);
    assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(own));
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_thousand_connections_at_once_keep_their_destinations_apart() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let dialled: Vec<SocketAddr> = (0..1000_u16)
        .map(|n| v4(NEIGHBOUR_V4, 20_000 + n))
        .collect();
    let mut clients: Vec<TcpStream> = Vec::new();
    rig.pod
        .enter(|| {
            for to in &dialled {
                clients.push(TcpStream::connect_timeout(to, PATIENCE)?);
            }
            Ok(())
        })
        .unwrap();
    let mut sources = std::collections::HashMap::new();
    for _ in &dialled {
        let (accepted, original) = rig.accept_outbound();
        let source = weft_types::address::canonical(accepted.peer_addr().unwrap());
        let port = accepted.local_addr().unwrap().port();
        sources.insert((source, port), original.unwrap().0);
    }
    for (client, to) in clients.iter().zip(&dialled) {
        let source = client.local_addr().unwrap();
        assert!(
            sources
                .iter()
                .any(|((from, _), original)| *from == source && original == to)
        );
    }
    rig.wait_empty("CAPTURES");
}

/// The client closes first, so each leaves its 4-tuple in TIME_WAIT; the range has 28 232 ports.
const CONNECTIONS: u32 = 40_000;

#[test]
fn more_connections_than_there_are_ports_reach_one_destination() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let to = v4(NEIGHBOUR_V4, 80);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..CONNECTIONS {
                let (mut accepted, original) = rig.accept_outbound();
                assert_eq!(original, Some(OrigDst(to)));
                let _end = accepted.read(&mut [0; 1]);
            }
        });
        rig.pod
            .enter(|| {
                for number in 0..CONNECTIONS {
                    let connected = TcpStream::connect(to);
                    assert!(connected.is_ok(), "connection {number}: {connected:?}");
                }
                Ok(())
            })
            .unwrap();
    });
    rig.wait_empty("CAPTURES");
}

#[test]
fn half_closed_connections_and_resets_arrive_as_what_they_are() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let mut client = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    let (mut accepted, _) = rig.accept_outbound();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(accepted.read(&mut [0; 8]).unwrap(), 0);
    accepted.write_all(b"late").unwrap();
    drop(accepted);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "late");

    let mut client = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    let (accepted, _) = rig.accept_outbound();
    socket2::SockRef::from(&accepted)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(accepted);
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// `connect` with AF_UNSPEC: the socket is as new.
fn disconnect(socket: &Socket) {
    rustix::net::connect_unspec(socket).unwrap();
}

/// A receive with a time-out is not started again by the kernel after a signal.
fn retry<T>(mut receive: impl FnMut() -> io::Result<T>) -> T {
    loop {
        match receive() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.unwrap(),
        }
    }
}
