//! Enrolment, un-enrolment, and what is left: nothing.

use std::net::TcpStream;
use std::os::fd::AsFd as _;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use weft_agent::capture::{Capture, CaptureError, CaptureSettings, MapSizes, PodCapture};
use weft_bpf::{UpdateMode, object_get};
use weft_ebpf_abi::{Capture as Entry, CaptureKey, Endpoint, PodAddressKey, PodValue};
use weft_tests::is_root;
use weft_types::OrigDst;

use crate::rig::{
    NEIGHBOUR_V4, PATIENCE, POD, POD_V4, POD_V6, Rig, accept, connect, converse, is_idle, listen,
    tcp, v4,
};

#[test]
fn connections_from_before_go_on_and_enrolment_takes_new_ones() {
    if !is_root() {
        return;
    }
    let rig = Rig::plain(MapSizes::default());
    let theirs = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let ours = listen(&rig.pod, POD_V4, 0);
    let (to, from) = (theirs.local_addr().unwrap(), ours.local_addr().unwrap());
    let mut before: Vec<(TcpStream, TcpStream)> = vec![
        (connect(&rig.pod, to).unwrap(), accept(&theirs)),
        (connect(&rig.neighbour, from).unwrap(), accept(&ours)),
    ];
    rig.enrol();
    for (one, other) in &mut before {
        converse(one, other);
    }
    assert_eq!(before[0].0.peer_addr().unwrap(), to);
    let _client = connect(&rig.pod, to).unwrap();
    assert_eq!(rig.accept_outbound().1, Some(OrigDst(to)));
    let _client = connect(&rig.neighbour, from).unwrap();
    accept(&rig.inbound);
    assert!(is_idle(&theirs) && is_idle(&ours));
}

#[test]
fn unenrolment_gives_plain_networking_back_and_open_connections_their_peer() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let theirs = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let ours = listen(&rig.pod, POD_V4, 0);
    let (to, from) = (theirs.local_addr().unwrap(), ours.local_addr().unwrap());
    let mut captured = connect(&rig.pod, to).unwrap();
    let mut accepted = rig.accept_outbound().0;
    rig.capture().unenrol(POD).unwrap();

    let _plain = connect(&rig.pod, to).unwrap();
    accept(&theirs);
    let client = connect(&rig.neighbour, from).unwrap();
    assert_eq!(
        accept(&ours).peer_addr().unwrap(),
        client.local_addr().unwrap()
    );
    assert_eq!(captured.peer_addr().unwrap(), to);
    converse(&mut captured, &mut accepted);
    assert!(is_idle(&rig.outbound) && is_idle(&rig.inbound));
}

#[test]
fn a_pod_that_is_unenrolled_is_plain_at_once_whoever_holds_its_lookup() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let ours = [listen(&rig.pod, POD_V4, 0), listen(&rig.pod, POD_V6, 0)];
    let generation = rig.settings.generation.to_string();
    let pods = rig.capture().pins().join(generation).join("pods");
    // As the kernel does until its worker comes to a link without pins.
    let _held = object_get(&pods.join(POD.to_string()).join("lookup")).unwrap();
    rig.capture().unenrol(POD).unwrap();
    for ours in &ours {
        let _client = connect(&rig.neighbour, ours.local_addr().unwrap()).unwrap();
        accept(ours);
    }
    assert!(is_idle(&rig.inbound));
}

#[test]
fn a_hundred_rounds_of_enrolment_leave_nothing_behind() {
    if !is_root() {
        return;
    }
    let rig = Rig::plain(MapSizes::default());
    for round in 0..100 {
        rig.enrol();
        rig.enrol();
        if round % 10 == 0 {
            let _client = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
            rig.accept_outbound();
        }
        rig.capture().unenrol(POD).unwrap();
        rig.capture().unenrol(POD).unwrap();
    }
    for usage in rig.capture().map_usage().unwrap() {
        assert_eq!(usage.entries, 0, "{}", usage.map);
    }
    assert!(rig.capture().pods().unwrap().is_empty());
}

#[test]
fn nothing_of_a_capture_that_is_removed_stays_pinned() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let pins = rig.capture().pins().to_owned();
    assert!(pins.exists());
    rig.capture.take().unwrap().remove().unwrap();
    assert!(!pins.exists());
    // Plain again, without un-enrolment.
    let theirs = listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let _client = connect(&rig.pod, theirs.local_addr().unwrap()).unwrap();
    accept(&theirs);
}

#[test]
fn a_connect_in_handshake_survives_or_fails_but_is_never_misled_by_unenrolment() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let _jam = rig.jam_outbound();
    let socket = tcp(&rig.pod, v4(NEIGHBOUR_V4, 80));
    socket.set_nonblocking(true).unwrap();
    let _in_progress = socket.connect(&v4(NEIGHBOUR_V4, 80).into());
    let captures = rig.map::<CaptureKey, Entry>("CAPTURES");
    let key = captures.keys().unwrap()[0];
    // An application sits on the very port that stands for the capture.
    let application = listen(&rig.pod, POD_V4, key.port);
    std::thread::scope(|scope| {
        let unenrol = scope.spawn(|| rig.capture().unenrol(POD).unwrap());
        // Un-enrolment waits for the handshake, so room in the queue lets it through.
        rustix::net::listen(&rig.outbound, 16).unwrap();
        unenrol.join().unwrap();
    });
    assert!(is_idle(&application));
    assert_eq!(captures.keys().unwrap(), []);
}

#[test]
fn two_agents_on_one_kernel_serve_pods_of_the_same_id() {
    if !is_root() {
        return;
    }
    let (one, other) = (Rig::new(), Rig::new());
    for rig in [&one, &other, &one] {
        let _client = connect(&rig.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
        assert_eq!(rig.accept_outbound().1, Some(OrigDst(v4(NEIGHBOUR_V4, 80))));
    }
    one.capture().unenrol(POD).unwrap();
    let _client = connect(&other.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    assert!(other.accept_outbound().1.is_some());
    assert!(is_idle(&one.outbound));
}

#[test]
fn addresses_that_come_and_go_are_followed() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let second = std::net::Ipv4Addr::new(10, 99, 0, 77);
    rig.pod
        .ip_batch(&format!("addr add {second}/32 dev eth0\n"))
        .unwrap();
    let mut pod = rig.description();
    pod.addresses.push(second.into());
    rig.capture().enrol(&pod).unwrap();
    let own = listen(&rig.pod, second, 0);
    let _client = connect(&rig.pod, own.local_addr().unwrap()).unwrap();
    accept(&own);
    // From the second address to the first is local as well.
    let first = listen(&rig.pod, POD_V4, 0);
    let socket = tcp(&rig.pod, v4(POD_V4, 0));
    socket.bind(&v4(second, 0).into()).unwrap();
    socket
        .connect_timeout(&first.local_addr().unwrap().into(), PATIENCE)
        .unwrap();
    accept(&first);
    assert!(is_idle(&rig.inbound) && is_idle(&rig.outbound));

    rig.enrol();
    let keys = rig
        .map::<PodAddressKey, u32>("POD_ADDRESSES")
        .keys()
        .unwrap();
    assert!(!keys.iter().any(|key| key.ip == second.into()));
}

#[test]
fn the_sweep_takes_captures_without_a_syn_and_pods_without_a_namespace() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let captures = rig.map::<CaptureKey, Entry>("CAPTURES");
    let put = |port: u16, created_ns: u64, source: Endpoint| {
        let entry = Entry {
            cookie: u64::from(port),
            created_ns,
            source,
            ..Entry::default()
        };
        captures
            .update(&CaptureKey::new(POD, port), &entry, UpdateMode::Create)
            .unwrap();
    };
    put(1, 1, Endpoint::default());
    put(2, 1, v4(POD_V4, 4000).into());
    put(3, u64::MAX, Endpoint::default());
    let swept = rig.capture().sweep().unwrap();
    assert_eq!((swept.captures, swept.pods), (1, vec![]));
    let mut left: Vec<u16> = captures
        .keys()
        .unwrap()
        .iter()
        .map(|key| key.port)
        .collect();
    left.sort_unstable();
    assert_eq!(left, [2, 3]);

    // The namespace goes while no agent runs; held sockets would keep it.
    let settings = rig.settings.clone();
    drop(rig.capture.take());
    let replacement = || listen(&rig.neighbour, NEIGHBOUR_V4, 0);
    let (a, b, c) = (replacement(), replacement(), replacement());
    (rig.outbound, rig.inbound, rig.hbone) = (a, b, c);
    rig.forget_netns();
    rig.pod.delete().unwrap();
    let capture = Capture::open(settings).unwrap();
    crate::rig::wait(
        || {
            capture.sweep().unwrap();
            capture.pods().unwrap().is_empty()
        },
        "the pod is not swept",
    );
    for usage in capture.map_usage().unwrap() {
        assert_eq!(usage.entries, 0, "{}", usage.map);
    }
    rig.capture = Some(capture);
}

#[test]
fn a_pod_id_or_namespace_used_again_replaces_what_was() {
    if !is_root() {
        return;
    }
    let (rig, other) = (Rig::new(), Rig::plain(MapSizes::default()));
    // The same namespace under another id.
    let renamed = PodCapture {
        pod_id: 8,
        ..rig.description()
    };
    rig.capture().enrol(&renamed).unwrap();
    assert_eq!(rig.capture().pods().unwrap(), [8]);
    // The same id for another namespace.
    let moved = PodCapture {
        pod_id: 8,
        ..other.description()
    };
    rig.capture().enrol(&moved).unwrap();
    assert_eq!(rig.capture().pods().unwrap(), [8]);
    let _client = connect(&other.pod, v4(NEIGHBOUR_V4, 80)).unwrap();
    let accepted = accept(&other.outbound);
    assert_eq!(
        rig.storage.original_destination(accepted.as_fd()).unwrap(),
        Some(OrigDst(v4(NEIGHBOUR_V4, 80)))
    );
    let pods = rig.map::<u64, PodValue>("PODS").keys().unwrap();
    assert_eq!(pods, [other.cookie]);
}

#[test]
fn sync_drops_what_is_not_listed_and_adopts_what_is() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let stale = Rig::plain(MapSizes::default());
    rig.capture()
        .enrol(&PodCapture {
            pod_id: 9,
            ..stale.description()
        })
        .unwrap();
    drop(rig.capture.take());
    rig.capture = Some(Capture::open(rig.settings.clone()).unwrap());
    assert_eq!(rig.capture().pods().unwrap(), [POD, 9]);
    assert!(rig.capture().sync(&[rig.description()]).is_empty());
    assert_eq!(rig.capture().pods().unwrap(), [POD]);
    let theirs = listen(&stale.neighbour, NEIGHBOUR_V4, 0);
    let _client = connect(&stale.pod, theirs.local_addr().unwrap()).unwrap();
    accept(&theirs);
}

#[test]
fn descriptions_that_cannot_work_are_refused_and_leave_nothing() {
    if !is_root() {
        return;
    }
    let rig = Rig::plain(MapSizes {
        pods: 1,
        ..MapSizes::default()
    });
    let mut incomplete = rig.description();
    incomplete.listeners.pop();
    let no_address = PodCapture {
        addresses: vec![[127, 0, 0, 1].into()],
        ..rig.description()
    };
    let no_id = PodCapture {
        pod_id: 0,
        ..rig.description()
    };
    let node = std::fs::File::open("/proc/self/ns/net").unwrap();
    let on_the_node = PodCapture {
        netns: node.as_fd(),
        ..rig.description()
    };
    for bad in [incomplete, no_address, no_id, on_the_node] {
        assert!(matches!(
            rig.capture().enrol(&bad),
            Err(CaptureError::Pod { .. })
        ));
    }
    let second = Rig::plain(MapSizes::default());
    rig.enrol();
    let full = rig
        .capture()
        .enrol(&PodCapture {
            pod_id: 8,
            ..second.description()
        })
        .unwrap_err();
    assert!(full.to_string().contains("no room"), "{full}");
    assert_eq!(rig.capture().pods().unwrap(), [POD]);
    let theirs = listen(&second.neighbour, NEIGHBOUR_V4, 0);
    let _client = connect(&second.pod, theirs.local_addr().unwrap()).unwrap();
    accept(&theirs);
}

#[test]
fn three_capabilities_are_enough() {
    if !is_root() {
        return;
    }
    let rig = Rig::plain(MapSizes::default());
    std::thread::scope(|scope| {
        let limited = scope.spawn(|| {
            let three = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::NET_ADMIN;
            let sets = CapabilitySets {
                effective: three,
                permitted: three,
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, sets).unwrap();
            let settings = CaptureSettings::new(&format!("{}y", rig.settings.node));
            let capture = Capture::open(settings.clone()).unwrap();
            capture.enrol(&rig.description()).unwrap();
            drop(capture);
            let capture = Capture::open(settings).unwrap();
            capture.sweep().unwrap();
            capture.map_usage().unwrap();
            capture.unenrol(POD).unwrap();
            capture.remove().unwrap();
        });
        limited.join().unwrap();
    });
}

#[test]
fn a_machine_that_cannot_carry_capture_is_refused_in_one_sentence() {
    if !is_root() {
        return;
    }
    let rig = Rig::plain(MapSizes::default());
    let refusal = |change: &dyn Fn(&mut CaptureSettings)| {
        let mut settings = CaptureSettings::new(&format!("{}z", rig.settings.node));
        change(&mut settings);
        let error = Capture::open(settings).unwrap_err();
        assert!(!error.to_string().contains('\n'));
        error
    };
    let error = refusal(&|settings| settings.node.clone_from(&rig.settings.node));
    assert!(matches!(error, CaptureError::Locked { .. }), "{error}");
    let error = refusal(&|settings| settings.node = "../elsewhere".into());
    assert!(matches!(error, CaptureError::NodeName(_)), "{error}");
    let error = refusal(&|settings| settings.cgroup = Some("/tmp".into()));
    assert!(matches!(error, CaptureError::Cgroup { .. }), "{error}");
    let error = refusal(&|settings| settings.bpffs = "/proc/nowhere".into());
    assert!(matches!(error, CaptureError::NoBpffs { .. }), "{error}");
    // Capabilities are a thread's own.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets {
                effective: none,
                permitted: none,
                inheritable: none,
            };
            set_capabilities(None, sets).unwrap();
            let error = refusal(&|_| {});
            assert!(error.to_string().contains("CAP_BPF"), "{error}");
        });
    });
}
