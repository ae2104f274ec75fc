//! Two namespaces joined by a cable: a pod that is captured, and a neighbour. The test is the proxy.
//!
//! In: nothing. Out: sockets of both sides, the pod's listeners, the storage that the proxy reads. Everything goes when dropped.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use weft_agent::capture::{Capture, CaptureSettings, MapSizes, PodCapture};
use weft_bpf::{Map, SocketStorage, object_get};
use weft_ebpf_abi::{Counter, ListenerKind, Plain};
use weft_testkit::netns::Netns;
use weft_types::{ClientAddr, OrigDst};

use crate::sys;

/// Ten times what anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub(crate) const NEIGHBOUR_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
pub(crate) const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const NEIGHBOUR_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);

/// Pod id in every rig: several agents use the same one, and must not meet.
pub(crate) const POD: u32 = 7;

/// Pod id of the neighbour, where it is enrolled as well.
pub(crate) const OTHER_POD: u32 = 8;

pub(crate) struct Rig {
    /// Absent only while a test has taken it.
    pub(crate) capture: Option<Capture>,
    pub(crate) settings: CaptureSettings,
    pub(crate) pod: Netns,
    pub(crate) neighbour: Netns,
    pub(crate) outbound: TcpListener,
    pub(crate) inbound: TcpListener,
    pub(crate) hbone: TcpListener,
    pub(crate) storage: SocketStorage,
    pub(crate) cookie: u64,
    netns: File,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Rig {
    /// A rig with an enrolled pod.
    pub(crate) fn new() -> Self {
        Self::with_sizes(MapSizes::default())
    }

    pub(crate) fn with_sizes(sizes: MapSizes) -> Self {
        let rig = Self::plain(sizes);
        rig.enrol();
        rig
    }

    /// A rig whose pod is not enrolled yet.
    pub(crate) fn plain(sizes: MapSizes) -> Self {
        sys::raise_open_files();
        let name = format!(
            "wc{}x{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let pod = Netns::create(format!("{name}p")).unwrap();
        let neighbour = Netns::create(format!("{name}n")).unwrap();
        pod.ip_batch(&format!(
            "link add eth0 type veth peer name eth0 netns {}\n\
             addr add {POD_V4}/24 dev eth0\naddr add {POD_V6}/64 dev eth0 nodad\nlink set eth0 up\n",
            neighbour.name()
        ))
        .unwrap();
        neighbour
            .ip_batch(&format!(
                "addr add {NEIGHBOUR_V4}/24 dev eth0\naddr add {NEIGHBOUR_V6}/64 dev eth0 nodad\nlink set eth0 up\n"
            ))
            .unwrap();
        let settings = CaptureSettings {
            sizes,
            ..CaptureSettings::new(&name)
        };
        let capture = Capture::open(settings.clone()).unwrap();
        let storage = SocketStorage::from_fd(capture.sockets_map().unwrap()).unwrap();
        let [outbound, inbound, hbone] = [(); 3].map(|()| listener(&pod));
        Self {
            capture: Some(capture),
            settings,
            cookie: sys::netns_cookie(outbound.as_fd()),
            netns: File::open(pod.path()).unwrap(),
            pod,
            neighbour,
            outbound,
            inbound,
            hbone,
            storage,
        }
    }

    pub(crate) fn capture(&self) -> &Capture {
        self.capture.as_ref().unwrap()
    }

    pub(crate) fn description(&self) -> PodCapture<'_> {
        PodCapture {
            pod_id: POD,
            netns: self.netns.as_fd(),
            cookie: self.cookie,
            addresses: vec![POD_V4.into(), POD_V6.into()],
            listeners: vec![
                (ListenerKind::Outbound, self.outbound.as_fd()),
                (ListenerKind::Inbound, self.inbound.as_fd()),
                (ListenerKind::Hbone, self.hbone.as_fd()),
            ],
            local_ports: (32768, 60999),
        }
    }

    pub(crate) fn enrol(&self) {
        self.capture().enrol(&self.description()).unwrap();
    }

    /// Enrols the neighbour as a second pod. Returns its outbound listener.
    pub(crate) fn enrol_neighbour(&self) -> TcpListener {
        let listeners = ListenerKind::ALL.map(|kind| (kind, listener(&self.neighbour)));
        let netns = File::open(self.neighbour.path()).unwrap();
        let pod = PodCapture {
            pod_id: OTHER_POD,
            netns: netns.as_fd(),
            cookie: sys::netns_cookie(listeners[0].1.as_fd()),
            addresses: vec![NEIGHBOUR_V4.into(), NEIGHBOUR_V6.into()],
            listeners: listeners
                .iter()
                .map(|(kind, listener)| (*kind, listener.as_fd()))
                .collect(),
            local_ports: (32768, 60999),
        };
        self.capture().enrol(&pod).unwrap();
        let [(_, outbound), ..] = listeners;
        outbound
    }

    /// Accepts a captured connection, as the proxy does.
    pub(crate) fn accept_outbound(&self) -> (TcpStream, Option<OrigDst>) {
        self.accept_captured(&self.outbound)
    }

    /// The same on the listener of another pod.
    pub(crate) fn accept_captured(&self, listener: &TcpListener) -> (TcpStream, Option<OrigDst>) {
        let stream = accept(listener);
        let original = self.storage.original_destination(stream.as_fd()).unwrap();
        (stream, original)
    }

    /// Accepts the capture of `want`, if its handshake has come through meanwhile.
    pub(crate) fn accept_if_captured(&self, want: SocketAddr) -> Option<TcpStream> {
        if is_idle(&self.outbound) {
            return None;
        }
        let (stream, original) = self.accept_outbound();
        assert_eq!(original, Some(OrigDst(want)));
        Some(stream)
    }

    /// Lets go of the pod's namespace.
    pub(crate) fn forget_netns(&mut self) {
        self.netns = File::open("/proc/self/ns/net").unwrap();
    }

    /// Connects to an application of the pod in a client's name, as the proxy does.
    pub(crate) fn deliver(&self, client: SocketAddr, to: SocketAddr) -> io::Result<Socket> {
        let socket = self.flagged(to);
        self.storage
            .set_client(socket.as_fd(), ClientAddr(client))
            .unwrap();
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket)
    }

    /// A socket inside the pod that the hooks leave alone.
    pub(crate) fn flagged(&self, to: SocketAddr) -> Socket {
        let socket = tcp(&self.pod, to);
        self.storage.flag(socket.as_fd()).unwrap();
        socket
    }

    /// A pinned map, for tests that look into it or fill it.
    pub(crate) fn map<K: Plain, V: Plain>(&self, name: &str) -> Map<K, V> {
        let generation = self.settings.generation.to_string();
        let pin = self
            .capture()
            .pins()
            .join(generation)
            .join("maps")
            .join(name);
        Map::from_fd(object_get(&pin).unwrap()).unwrap()
    }

    /// Makes the outbound listener drop the next handshake: one connection fills its queue.
    /// Returns that connection, which nobody may accept meanwhile.
    pub(crate) fn jam_outbound(&self) -> TcpStream {
        rustix::net::listen(&self.outbound, 0).unwrap();
        connect(&self.pod, v4(NEIGHBOUR_V4, 1)).unwrap()
    }

    /// Entries of a map.
    pub(crate) fn entries(&self, map: &str) -> usize {
        let usage = self.capture().map_usage().unwrap();
        usage
            .into_iter()
            .find(|usage| usage.map == map)
            .unwrap()
            .entries
    }

    /// Waits until a map is empty; connections end a moment after their sockets.
    pub(crate) fn wait_empty(&self, map: &str) {
        wait(|| self.entries(map) == 0, &format!("{map} is not empty"));
    }

    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        let counters = self.capture().counters().unwrap();
        counters
            .into_iter()
            .find(|(name, _)| *name == counter)
            .unwrap()
            .1
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A test that has failed may have left its pins without an agent.
        let capture = self
            .capture
            .take()
            .map_or_else(|| Capture::open(self.settings.clone()), Ok);
        let removed = capture.and_then(Capture::remove);
        if !std::thread::panicking() {
            removed.unwrap();
        }
        let _ = self.pod.delete();
        let _ = self.neighbour.delete();
    }
}

/// A listener that no port number leads to, able to accept both families: a v4-mapped loopback address keeps it dual-stack.
fn listener(netns: &Netns) -> TcpListener {
    netns
        .enter(|| {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_only_v6(false)?;
            let loopback = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
            socket.bind(&SocketAddr::new(loopback, 0).into())?;
            socket.listen(1024)?;
            Ok(socket.into())
        })
        .unwrap()
}

/// A listener of an application.
pub(crate) fn listen(netns: &Netns, at: impl Into<IpAddr>, port: u16) -> TcpListener {
    let at = SocketAddr::new(at.into(), port);
    netns.enter(|| Ok(TcpListener::bind(at)?)).unwrap()
}

/// Ends a listener for good. Closing it is not enough: a program that another test is starting may hold a copy until its exec.
pub(crate) fn end(listener: &TcpListener) {
    rustix::net::shutdown(listener, rustix::net::Shutdown::Both).unwrap();
}

/// An unconnected socket of an application.
pub(crate) fn tcp(netns: &Netns, to: SocketAddr) -> Socket {
    netns
        .enter(|| {
            Ok(Socket::new(
                Domain::for_address(to),
                Type::STREAM,
                Some(Protocol::TCP),
            )?)
        })
        .unwrap()
}

/// Connects as an application does.
pub(crate) fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    netns
        .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)))
        .unwrap()
}

/// Accepts within [`PATIENCE`].
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    assert!(sys::readable(listener.as_fd(), PATIENCE), "nobody connects");
    listener.accept().unwrap().0
}

/// Whether nobody is in the accept queue now.
pub(crate) fn is_idle(listener: &TcpListener) -> bool {
    !sys::readable(listener.as_fd(), Duration::ZERO)
}

/// Sends a line each way.
pub(crate) fn converse(one: &mut TcpStream, other: &mut TcpStream) {
    for stream in [&*one, &*other] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = [0; 8];
    one.write_all(b"question").unwrap();
    other.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"question");
    other.write_all(b"response").unwrap();
    one.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"response");
}

/// Waits for a condition that no event announces.
pub(crate) fn wait(condition: impl Fn() -> bool, otherwise: &str) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "{otherwise}");
        std::thread::yield_now();
    }
}

pub(crate) fn v4(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

pub(crate) fn v6(ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

pub(crate) fn mapped(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_ipv6_mapped().into(), port)
}
