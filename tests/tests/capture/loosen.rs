//! A pod that leaves the mesh: plain networking, but for tunnels of peers that have not heard of it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;

use weft_agent::capture::Capture;
use weft_bpf::ClientState;
use weft_ebpf_abi::HBONE_PORT;
use weft_tests::is_root;
use weft_types::OrigDst;

use crate::rig::{
    NEIGHBOUR_V4, NEIGHBOUR_V6, POD, POD_V4, POD_V6, Rig, accept, connect, is_idle, listen, v4,
};

/// Listeners of applications: one of the pod, on a port of its own and where tunnels go, and one of the neighbour.
struct Applications {
    ours: [TcpListener; 2],
    at_tunnels: [TcpListener; 2],
    theirs: [TcpListener; 2],
}

impl Applications {
    fn listen(rig: &Rig) -> Self {
        Self {
            ours: [listen(&rig.pod, POD_V4, 0), listen(&rig.pod, POD_V6, 0)],
            at_tunnels: [
                listen(&rig.pod, POD_V4, HBONE_PORT),
                listen(&rig.pod, POD_V6, HBONE_PORT),
            ],
            theirs: [
                listen(&rig.neighbour, NEIGHBOUR_V4, 0),
                listen(&rig.neighbour, NEIGHBOUR_V6, 0),
            ],
        }
    }

    /// Who calls and is called is the application itself, and `tunnels` get what comes to their port.
    fn are_plain(&self, rig: &Rig, tunnels: [&TcpListener; 2]) {
        for (ours, theirs) in self.ours.iter().zip(&self.theirs) {
            let (_client, _served) = (connect(&rig.pod, at(theirs)).unwrap(), accept(theirs));
            let (_client, _served) = (connect(&rig.neighbour, at(ours)).unwrap(), accept(ours));
        }
        for (to, listener) in self.at_tunnels.iter().zip(tunnels) {
            let (_peer, _served) = (connect(&rig.neighbour, at(to)).unwrap(), accept(listener));
        }
        self.are_idle();
        assert!(is_idle(&rig.outbound) && is_idle(&rig.inbound) && is_idle(&rig.hbone));
    }

    fn are_captured(&self, rig: &Rig) {
        for (ours, theirs) in self.ours.iter().zip(&self.theirs) {
            let _client = connect(&rig.pod, at(theirs)).unwrap();
            assert_eq!(rig.accept_outbound().1, Some(OrigDst(at(theirs))));
            let _client = connect(&rig.neighbour, at(ours)).unwrap();
            accept(&rig.inbound);
        }
        for to in &self.at_tunnels {
            let _peer = connect(&rig.neighbour, at(to)).unwrap();
            accept(&rig.hbone);
        }
        self.are_idle();
    }

    fn are_idle(&self) {
        for listeners in [&self.ours, &self.at_tunnels, &self.theirs] {
            assert!(listeners.iter().all(is_idle));
        }
    }
}

fn at(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}

#[test]
fn a_pod_that_leaves_is_plain_but_for_tunnels_and_may_join_again_or_go() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let applications = Applications::listen(&rig);
    let of_proxy = [&rig.hbone, &rig.hbone];
    for _ in 0..3 {
        applications.are_captured(&rig);
        rig.capture().loosen(POD).unwrap();
        applications.are_plain(&rig, of_proxy);
        rig.capture().loosen(POD).unwrap();
        applications.are_plain(&rig, of_proxy);
        rig.enrol();
    }
    applications.are_captured(&rig);
    rig.capture().loosen(POD).unwrap();
    rig.capture().unenrol(POD).unwrap();
    let [v4, v6] = &applications.at_tunnels;
    applications.are_plain(&rig, [v4, v6]);
    // What is not enrolled cannot leave.
    rig.capture().loosen(POD).unwrap();
    applications.are_plain(&rig, [v4, v6]);
}

#[test]
fn what_comes_through_a_late_tunnel_is_delivered_under_its_callers_address() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    let application = listen(&rig.pod, POD_V4, 0);
    rig.capture().loosen(POD).unwrap();
    let client = v4(NEIGHBOUR_V4, 4321);
    let delivered = rig.deliver(client, at(&application)).unwrap();
    let state = rig.storage.client_state(delivered.as_fd()).unwrap();
    assert_eq!(state, ClientState::Stored);
    assert_eq!(accept(&application).peer_addr().unwrap(), client);
}

#[test]
fn the_next_agent_finds_a_pod_that_leaves_as_it_was() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let applications = Applications::listen(&rig);
    rig.capture().loosen(POD).unwrap();
    drop(rig.capture.take());
    rig.capture = Some(Capture::open(rig.settings.clone()).unwrap());
    applications.are_plain(&rig, [&rig.hbone, &rig.hbone]);
    rig.enrol();
    applications.are_captured(&rig);
}
