//! Where connections from elsewhere go, and whom an application sees as its peer.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use socket2::{Domain, Protocol, Socket, Type};
use weft_bpf::{ClientState, UpdateMode};
use weft_ebpf_abi::{Endpoint, FlowKey};
use weft_tests::{is_root, skip};
use weft_types::address::canonical;

use crate::rig::{
    NEIGHBOUR_V4, NEIGHBOUR_V6, POD, POD_V4, POD_V6, Rig, accept, connect, converse, end, is_idle,
    listen, tcp, v4, v6,
};

#[test]
fn connections_from_elsewhere_reach_the_listener_of_their_port_and_show_their_destination() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    // Applications listen as well, and are passed over.
    let applications = [
        listen(&rig.pod, POD_V4, 80),
        listen(&rig.pod, POD_V6, 15008),
    ];
    for (to, listener) in [
        (v4(POD_V4, 80), &rig.inbound),
        (v6(POD_V6, 80), &rig.inbound),
        (v4(POD_V4, 15006), &rig.inbound),
        (v4(POD_V4, 15008), &rig.hbone),
        (v6(POD_V6, 15008), &rig.hbone),
    ] {
        let mut client = connect(&rig.neighbour, to).unwrap();
        let mut accepted = accept(listener);
        assert_eq!(canonical(accepted.local_addr().unwrap()), to);
        assert_eq!(
            canonical(accepted.peer_addr().unwrap()),
            client.local_addr().unwrap()
        );
        assert_eq!(
            rig.storage.original_destination(accepted.as_fd()).unwrap(),
            None
        );
        converse(&mut client, &mut accepted);
    }
    assert!(applications.iter().all(is_idle));
}

#[test]
fn the_application_sees_the_client_as_its_peer() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let clients = [
        (v4(NEIGHBOUR_V4, 4321), v4(POD_V4, 0)),
        (v6(NEIGHBOUR_V6, 4321), v6(POD_V6, 0)),
    ];
    for (client, at) in clients {
        let application = listen(&rig.pod, at.ip(), 0);
        let to = application.local_addr().unwrap();
        let socket = rig.deliver(client, to).unwrap();
        assert!(rig.storage.stored(socket.as_fd()).unwrap());
        let (mut served, from) = application.accept().unwrap();
        assert_eq!(from, client, "accept tells the client");
        assert_eq!(
            served.peer_addr().unwrap(),
            client,
            "getpeername tells the client"
        );
        assert_eq!(served.local_addr().unwrap(), to);
        assert!(is_idle(&rig.inbound) && is_idle(&rig.outbound));
        converse(&mut socket.into(), &mut served);
    }
    rig.wait_empty("CLIENTS");
}

#[test]
fn a_dual_stack_application_sees_an_ipv4_client_in_mapped_form() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let application = listen(&rig.pod, std::net::Ipv6Addr::UNSPECIFIED, 0);
    let port = application.local_addr().unwrap().port();
    let _socket = rig
        .deliver(v4(NEIGHBOUR_V4, 4321), v4(POD_V4, port))
        .unwrap();
    let (_served, from) = application.accept().unwrap();
    assert_eq!(
        from,
        SocketAddr::new(NEIGHBOUR_V4.to_ipv6_mapped().into(), 4321)
    );
}

#[test]
fn an_mptcp_application_sees_the_client_as_its_peer() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let made = rig.pod.enter(|| {
        Ok(Socket::new(
            Domain::IPV4,
            Type::STREAM,
            Some(Protocol::MPTCP),
        ))
    });
    let Ok(application) = made.unwrap() else {
        return skip("this kernel has no MPTCP");
    };
    application.bind(&v4(POD_V4, 0).into()).unwrap();
    application.listen(1).unwrap();
    let to = application.local_addr().unwrap().as_socket().unwrap();
    let _socket = rig.deliver(v4(NEIGHBOUR_V4, 4321), to).unwrap();
    let (_served, from) = application.accept().unwrap();
    assert_eq!(from.as_socket(), Some(v4(NEIGHBOUR_V4, 4321)));
}

#[test]
fn an_accept_that_waits_already_sees_the_client() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let application = listen(&rig.pod, POD_V4, 0);
    let to = application.local_addr().unwrap();
    let waiting = std::thread::spawn(move || application.accept().unwrap().1);
    let _socket = rig.deliver(v4(NEIGHBOUR_V4, 4321), to).unwrap();
    assert_eq!(waiting.join().unwrap(), v4(NEIGHBOUR_V4, 4321));
}

#[test]
fn a_client_that_was_not_set_or_a_pod_that_is_not_enrolled_shows_in_the_state() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let application = listen(&rig.pod, POD_V4, 0);
    let to = application.local_addr().unwrap();
    let plain = rig.flagged(to);
    plain.connect(&to.into()).unwrap();
    assert_eq!(
        rig.storage.client_state(plain.as_fd()).unwrap(),
        ClientState::Idle
    );
    // A socket that the node did not flag.
    let stranger = tcp(&rig.pod, to);
    assert_eq!(
        rig.storage.client_state(stranger.as_fd()).unwrap(),
        ClientState::Failed
    );
    rig.capture().unenrol(POD).unwrap();
    let orphan = rig.deliver(v4(NEIGHBOUR_V4, 4321), to).unwrap();
    assert_eq!(
        rig.storage.client_state(orphan.as_fd()).unwrap(),
        ClientState::Failed
    );
}

#[test]
fn a_granted_flow_passes_to_the_application_and_no_other_does() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let application = listen(&rig.pod, POD_V4, 0);
    let to = application.local_addr().unwrap();
    let grant = |source: SocketAddr| {
        let key = FlowKey {
            pod_id: POD,
            source: source.into(),
            destination: Endpoint::from(to),
        };
        rig.map::<FlowKey, u32>("GRANTS")
            .update(&key, &1, UpdateMode::Any)
            .unwrap();
    };
    grant(v4(NEIGHBOUR_V4, 4000));
    for (port, is_granted) in [(4000, true), (4001, false)] {
        let socket = tcp(&rig.neighbour, to);
        socket.bind(&v4(NEIGHBOUR_V4, port).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        accept(if is_granted {
            &application
        } else {
            &rig.inbound
        });
    }
}

#[test]
fn without_listeners_connections_from_elsewhere_are_dropped_not_passed() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let application = listen(&rig.pod, POD_V4, 80);
    end(&rig.inbound);
    end(&rig.hbone);
    for port in [80, 15008] {
        let error = connect(&rig.neighbour, v4(POD_V4, port)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }
    assert!(is_idle(&application));
}
