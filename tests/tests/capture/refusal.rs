//! Connects that must fail, at once and with the right error, and leave nothing behind.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;

use weft_agent::capture::MapSizes;
use weft_bpf::{ClientState, UpdateMode};
use weft_ebpf_abi::{
    Capture, CaptureKey, ClientKey, ClientValue, Counter, Endpoint, POD_CAPTURES_MAX,
};
use weft_tests::is_root;
use weft_types::OrigDst;

use crate::rig::{
    NEIGHBOUR_V4, NEIGHBOUR_V6, PATIENCE, POD_V4, POD_V6, Rig, accept, connect, end, is_idle,
    listen, mapped, tcp, v4, v6,
};
use crate::sys;

/// As few entries as a test can fill by hand.
const TINY: u32 = 4;

fn tiny() -> Rig {
    Rig::with_sizes(MapSizes {
        captures: TINY,
        clients: TINY,
        ..MapSizes::default()
    })
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_full_capture_map_refuses_the_connect_and_passes_nothing() {
    if !is_root() {
        return;
    }
    let rig = tiny();
    let neighbour = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let to = neighbour.local_addr().unwrap();
    let captures = rig.map::<CaptureKey, Capture>("CAPTURES");
    // Entries of a pod that does not exist: only room is taken.
    let keys: Vec<CaptureKey> = (0..TINY as u16)
        .map(|port| CaptureKey::new(999, port))
        .collect();
    for key in &keys {
        captures
            .update(
                key,
                &Capture {
                    cookie: 1,
                    ..Capture::default()
                },
                UpdateMode::Create,
            )
            .unwrap();
    }

    let refused = rig.counter(Counter::RefusedFull);
    assert_eq!(errno(connect(&rig.pod, to)), Some(libc::ECONNREFUSED));
    let socket = tcp(&rig.pod, to);
    socket.set_nonblocking(true).unwrap();
    assert_eq!(errno(socket.connect(&to.into())), Some(libc::ECONNREFUSED));
    assert_eq!(
        errno(connect(&rig.pod, v6(NEIGHBOUR_V6, 80))),
        Some(libc::ECONNREFUSED)
    );
    assert_eq!(
        errno(connect(&rig.pod, mapped(NEIGHBOUR_V4, 80))),
        Some(libc::ECONNREFUSED)
    );
    assert_eq!(rig.counter(Counter::RefusedFull), refused + 4);
    assert!(is_idle(&neighbour) && is_idle(&rig.outbound));

    for key in &keys {
        captures.delete(key).unwrap();
    }
    // The same socket works once there is room.
    socket.set_nonblocking(false).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    assert!(rig.accept_outbound().1.is_some());
}

/// What comes of a neighbour's connects while a pod has many more than its share unanswered.
fn beside_a_flood(captures: u32, flood_to: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let rig = Rig::with_sizes(MapSizes {
        captures,
        ..MapSizes::default()
    });
    let outbound = rig.enrol_neighbour();
    // The jam's own connection is not in flight any more.
    let _jam = rig.jam_outbound();
    let mut unanswered = Vec::new();
    let mut refused = 0;
    for _ in 0..FLOOD {
        let socket = tcp(&rig.pod, flood_to);
        socket.set_nonblocking(true).unwrap();
        match errno(socket.connect(&flood_to.into())) {
            Some(libc::EINPROGRESS) => unanswered.push(socket),
            Some(libc::ECONNREFUSED) => refused += 1,
            other => panic!("connect gave {other:?}"),
        }
    }
    let share = POD_CAPTURES_MAX as usize;
    assert!(
        unanswered.len() <= share && unanswered.len() * 2 > share.min(captures as usize),
        "{} are in flight",
        unanswered.len()
    );
    let by_pod = rig.counter(Counter::RefusedPod);
    assert_eq!(by_pod + rig.counter(Counter::RefusedFull), refused);

    let stream = connect(&rig.neighbour, to)?;
    assert_eq!(rig.accept_captured(&outbound).1, Some(OrigDst(to)));
    drop(stream);
    // The pod itself waits until something of its own is answered.
    assert!(by_pod > 0);
    drop(unanswered);
    rig.wait_empty("CAPTURES");
    Ok(())
}

/// Several times what one pod may have in flight.
const FLOOD: u32 = 3 * POD_CAPTURES_MAX;

#[test]
fn a_pod_that_leaves_thousands_of_connects_unanswered_stops_no_neighbour() {
    if !is_root() {
        return;
    }
    let families = [
        (v4(NEIGHBOUR_V4, 80), v4(POD_V4, 80)),
        (v6(NEIGHBOUR_V6, 80), v6(POD_V6, 80)),
        (mapped(NEIGHBOUR_V4, 80), v6(POD_V6, 80)),
    ];
    for (flood_to, to) in families {
        // Hardly more than one pod's share: the others live on what it cannot take.
        beside_a_flood(POD_CAPTURES_MAX + TINY, flood_to, to).unwrap();
    }
    // The control: in a map that is smaller than a share, the neighbour has no room.
    let (flood_to, to) = families[0];
    let refused = beside_a_flood(POD_CAPTURES_MAX / 4, flood_to, to);
    assert_eq!(errno(refused), Some(libc::ECONNREFUSED));
}

#[test]
fn a_full_client_map_tells_the_proxy_to_reset() {
    if !is_root() {
        return;
    }
    let rig = tiny();
    let application = listen(&rig.pod, POD_V4, 0);
    let to = application.local_addr().unwrap();
    let clients = rig.map::<ClientKey, ClientValue>("CLIENTS");
    let keys: Vec<ClientKey> = (0..TINY)
        .map(|pod_id| ClientKey {
            pod_id: 900 + pod_id,
            ..ClientKey::default()
        })
        .collect();
    for key in &keys {
        clients
            .update(
                key,
                &ClientValue {
                    cookie: 1,
                    ..ClientValue::default()
                },
                UpdateMode::Create,
            )
            .unwrap();
    }
    let socket = rig.deliver(v4(NEIGHBOUR_V4, 4000), to).unwrap();
    assert_eq!(
        rig.storage.client_state(socket.as_fd()).unwrap(),
        ClientState::Failed
    );
    assert!(!rig.storage.stored(socket.as_fd()).unwrap());

    for key in &keys {
        clients.delete(key).unwrap();
    }
    let socket = rig.deliver(v4(NEIGHBOUR_V4, 4000), to).unwrap();
    assert!(rig.storage.stored(socket.as_fd()).unwrap());
}

#[test]
fn known_destinations_are_refused_by_port_or_altogether() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let capture = rig.capture();
    let check = |to: SocketAddr, refused: bool| {
        let want = refused.then_some(libc::ECONNREFUSED);
        assert_eq!(errno(connect(&rig.pod, to)), want, "{to}");
        if !refused {
            rig.accept_outbound();
        }
    };
    capture.refuse(NEIGHBOUR_V4.into(), 81, true).unwrap();
    capture.refuse(NEIGHBOUR_V6.into(), 0, true).unwrap();
    check(v4(NEIGHBOUR_V4, 80), false);
    check(v4(NEIGHBOUR_V4, 81), true);
    check(mapped(NEIGHBOUR_V4, 81), true);
    check(v6(NEIGHBOUR_V6, 80), true);
    // Twice is once, in both directions.
    for refused in [true, false, false] {
        capture.refuse(NEIGHBOUR_V4.into(), 81, refused).unwrap();
        capture.refuse(NEIGHBOUR_V6.into(), 0, refused).unwrap();
    }
    check(v4(NEIGHBOUR_V4, 81), false);
    check(v6(NEIGHBOUR_V6, 80), false);
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_family_that_the_pod_lacks_is_unreachable_not_direct() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let mut pod = rig.description();
    pod.addresses = vec![POD_V4.into()];
    rig.capture().enrol(&pod).unwrap();
    // The route is there: without the mesh these would arrive.
    let neighbour = listen(&rig.neighbour, NEIGHBOUR_V6, 0);
    let to = neighbour.local_addr().unwrap();
    assert_eq!(errno(connect(&rig.pod, to)), Some(libc::ENETUNREACH));
    assert_eq!(rig.counter(Counter::RefusedFamily), 1);
    assert!(is_idle(&neighbour));
    let own = listen(&rig.pod, Ipv6Addr::LOCALHOST, 0);
    let _client = connect(&rig.pod, own.local_addr().unwrap()).unwrap();
    accept(&own);
}

#[test]
fn without_a_listener_a_captured_connect_is_refused_and_forgotten() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let neighbour = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let to = neighbour.local_addr().unwrap();
    // It leaves the map by itself; nothing in its place may answer.
    end(&rig.outbound);
    assert_eq!(errno(connect(&rig.pod, to)), Some(libc::ECONNREFUSED));
    assert!(rig.counter(Counter::DroppedNoListener) > 0);
    assert!(is_idle(&neighbour));
    rig.wait_empty("CAPTURES");
}

#[test]
fn connects_that_are_given_up_leave_no_entry() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let _jam = rig.jam_outbound();
    let waiting: Vec<_> = [
        v4(NEIGHBOUR_V4, 80),
        v6(NEIGHBOUR_V6, 80),
        mapped(NEIGHBOUR_V4, 80),
    ]
    .into_iter()
    .map(|to| {
        let socket = tcp(&rig.pod, to);
        socket.set_nonblocking(true).unwrap();
        assert_eq!(errno(socket.connect(&to.into())), Some(libc::EINPROGRESS));
        socket
    })
    .collect();
    assert_eq!(rig.entries("CAPTURES"), waiting.len());
    assert!(!sys::writable(
        waiting[0].as_fd(),
        std::time::Duration::ZERO
    ));
    drop(waiting);
    rig.wait_empty("CAPTURES");
}

#[test]
fn a_delivery_that_fails_leaves_no_entry() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    // Nobody listens there.
    let failed = rig.deliver(v4(NEIGHBOUR_V4, 4000), v4(POD_V4, 9));
    assert_eq!(errno(failed), Some(libc::ECONNREFUSED));
    rig.wait_empty("CLIENTS");
    assert_eq!(rig.counter(Counter::ClientStored), 1);
    let value = rig
        .map::<ClientKey, ClientValue>("CLIENTS")
        .lookup(&ClientKey {
            pod_id: crate::rig::POD,
            source: Endpoint::default(),
            destination: Endpoint::default(),
        });
    assert_eq!(value.unwrap(), None);
}
