//! Accept queues that are full of waiting connections when a proxy dies or is replaced.
//!
//! Method: the proxy is stopped (SIGSTOP), a thousand clients connect and speak, then the proxy is killed, or its node is
//! upgraded. Nobody accepted them, so only the queues of the held listeners have them: each must be served by the next proxy.

use std::io::{Read as _, Write as _};

use rustix::process::Signal;
use weft_testkit::lab::program::{Running, kill_all};
use weft_testkit::lab::upgrade;
use weft_testkit::load;
use weft_testkit::peer::Behaviour;
use weft_testkit::wait::{LONG, SHORT, until};
use weft_tests::lab::{Builder, build_folder};

use super::{ping_all, program, raise_open_files, until_none_is_left};

/// Connections in the queue; `net.core.somaxconn` of a new namespace is 4096.
const WAITING: usize = 1000;

#[test]
fn a_full_accept_queue_is_served_by_the_next_proxy() {
    if !weft_tests::is_root() {
        return;
    }
    raise_open_files();
    let mut lab = Builder::two_nodes()
        .pod("a", "n1")
        .pod("b", "n2")
        .plain_pod("p", "n1")
        .up()
        .unwrap();
    let (server, to) = lab.serve("b", Behaviour::Echo).unwrap();
    // The outbound listener of a on n1, then the one for plaintext from outside the mesh of b on n2.
    for (client, node) in [("a", "n1"), ("p", "n2")] {
        for dies in [true, false] {
            load::echo(&lab.netns(client), to, 1000).unwrap();
            let before = server.seen().len();
            let proxy = program(&lab, node, "weft-proxy");
            stop(proxy);
            let mut waiting = load::connect_many(&lab.netns(client), to, WAITING).unwrap();
            for stream in &mut waiting {
                stream.write_all(b"~wait~").unwrap();
            }
            assert_eq!(server.seen().len(), before, "nobody is served meanwhile");
            if dies {
                kill_all(&[proxy]).unwrap();
            } else {
                upgrade(lab.lab_mut(), &build_folder(), Some(node)).unwrap();
            }
            for (number, stream) in waiting.iter_mut().enumerate() {
                let mut answer = [0; 6];
                stream.read_exact(&mut answer).unwrap_or_else(|error| {
                    panic!("connection {number} of {client}, dies: {dies}: {error}")
                });
            }
            ping_all(&mut waiting);
            assert_eq!(server.seen().len(), before + WAITING);
            if !dies {
                // It was told to end while it was stopped.
                assert!(proxy.signal(Signal::CONT));
                assert!(proxy.wait(LONG), "the old proxy does not end");
            }
            drop(waiting);
            until_none_is_left(&lab.netns("b"), server.port());
        }
    }
}

/// Stops a process, which is done when each of its threads says so.
fn stop(process: Running) {
    assert!(process.signal(Signal::STOP));
    until("the proxy to be stopped", SHORT, || {
        for thread in std::fs::read_dir(format!("/proc/{}/task", process.pid))? {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
            anyhow::ensure!(state == Some("T"), "{stat}");
        }
        Ok(())
    })
    .unwrap();
}
