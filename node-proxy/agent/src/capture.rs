//! The eBPF of one node: loaded, pinned, attached, and told about pods.
//!
//! In: settings, then pods as the node describes them (namespace, listeners, addresses). Out: pinned maps and links that work on
//! when this process is gone, counters, and the descriptor of the socket storage for the proxy.
//! Deliberately not here: making sockets (the node), deciding which pods are enrolled (the rest of the agent).
//!
//! Pins of one node, all below `<bpffs>/weft/<node>` (0700, locked while an agent runs):
//!
//! ```text
//! <abi>/maps/<NAME>          shared maps
//! <abi>/links/<program>      connect4, connect6, getpeername4, getpeername6, sock_ops
//! <abi>/pods/<id>/lookup     the sk_lookup instance of one pod; the folder is there while anything of the pod is
//! ```
//!
//! Every method is a handful of short system calls, but for [`Capture::loosen`], [`Capture::unenrol`] and [`Capture::sync`], which
//! may wait up to [`DRAIN_MAX`] for connections in handshake: call those where blocking is allowed.

mod attach;
mod cgroup;
mod error;
mod generation;
mod maps;
mod object;
mod pins;
mod pod;
mod probe;
mod sweep;

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_bpf::UpdateMode;
use weft_ebpf_abi::{ABI_VERSION, CAPTURES_MAX, CLIENTS_MAX, Counter, ListenerKind, RefusalKey};

pub use error::CaptureError;
pub use maps::MapUsage;
pub use sweep::Swept;

use maps::Maps;
use pins::Pins;

/// How long an un-enrolment waits for connections of the pod that are between connect and ESTABLISHED.
/// A handshake over loopback takes microseconds; only a full backlog takes longer, and its connections end with the pod's listeners.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);

/// What [`Capture::open`] needs to know.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    /// Node name: a folder below `<bpffs>/weft`.
    pub node: String,
    /// A bpf file system; mounted there if it is none yet and we may.
    pub bpffs: PathBuf,
    /// The cgroup whose sockets are looked at; found if not given (`kubepods` above ourselves, else the root of cgroup2).
    pub cgroup: Option<PathBuf>,
    /// Sizes of maps, used when they are made.
    pub sizes: MapSizes,
    /// Generation of the pins. Anything but [`ABI_VERSION`] is for tests of upgrades.
    pub generation: u32,
}

/// Entries at most; see `ebpf/src/maps.rs` for what they mean and the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Connections between connect and accept queue.
    pub captures: u32,
    /// Deliveries in handshake.
    pub clients: u32,
    /// Enrolled pods.
    pub pods: u32,
    /// Destinations that are refused at once.
    pub refusals: u32,
}

/// One pod, as the node describes it.
#[derive(Clone, Debug)]
pub struct PodCapture<'a> {
    /// The same number in the node's protocol; unique on this node while the pod is enrolled, never 0.
    pub pod_id: u32,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// Cookie of that namespace (`SO_NETNS_COOKIE` of a socket inside).
    pub cookie: u64,
    /// All addresses that are local in it; the first global one of each family stands for the pod in captured connections.
    pub addresses: Vec<IpAddr>,
    /// The three listeners inside, each able to accept both families where the pod has both.
    pub listeners: Vec<(ListenerKind, BorrowedFd<'a>)>,
    /// Its `ip_local_port_range`, first and last.
    pub local_ports: (u16, u16),
}

/// The eBPF of one node. Dropping it leaves everything attached; [`Capture::remove`] takes it down.
#[derive(Debug)]
pub struct Capture {
    settings: CaptureSettings,
    pins: Pins,
    maps: Maps,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            captures: CAPTURES_MAX,
            clients: CLIENTS_MAX,
            pods: 1_024,
            refusals: 16_384,
        }
    }
}

impl CaptureSettings {
    /// Default sizes, cgroup and bpffs for a node.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            bpffs: PathBuf::from("/sys/fs/bpf"),
            cgroup: None,
            sizes: MapSizes::default(),
            generation: ABI_VERSION,
        }
    }
}

impl Capture {
    /// Loads the programs, or takes over what an earlier agent pinned, replacing its programs in place:
    /// every pod's lookup first, then sockops and getpeername, then connect, so that no event meets a reader that is older than its writer.
    pub fn open(settings: CaptureSettings) -> Result<Self, CaptureError> {
        probe::check_kernel()?;
        probe::check_capabilities()?;
        let cgroup = cgroup::find(settings.cgroup.as_deref())?;
        probe::ensure_bpffs(&settings.bpffs)?;
        let pins = Pins::lock(&settings.bpffs, &settings.node, settings.generation)?;
        generation::adopt_sockets(&pins)?;
        let mut programs = object::load(&pins, &settings.sizes)?;
        let maps = Maps::open(&pins)?;
        let capture = Self {
            settings,
            pins,
            maps,
        };
        capture.finish_removals()?;
        for pod_id in capture.pins.pods()? {
            capture.renew_lookup(pod_id)?;
        }
        attach::attach(&mut programs, &capture.pins, &cgroup)?;
        Ok(capture)
    }

    /// Captures a pod, or brings what is there to what is said. Connections from before go on untouched.
    pub fn enrol(&self, pod: &PodCapture<'_>) -> Result<(), CaptureError> {
        self.put_pod(pod)
    }

    /// Gives a pod its plain networking back, but for tunnels: peers that have not heard of it still find the proxy at its port
    /// 15008. [`Self::unenrol`] takes that away as well, [`Self::enrol`] captures the pod again. One that is not enrolled is no
    /// error.
    ///
    /// Blocks for at most [`DRAIN_MAX`].
    pub fn loosen(&self, pod_id: u32) -> Result<(), CaptureError> {
        self.loosen_pod(pod_id)
    }

    /// Gives a pod its plain networking back. Nothing of it stays; a pod that is not enrolled is no error.
    ///
    /// Blocks for at most [`DRAIN_MAX`].
    pub fn unenrol(&self, pod_id: u32) -> Result<(), CaptureError> {
        self.remove_pod(pod_id)
    }

    /// Makes the enrolled pods exactly these: enrols them, un-enrols others, then [`Self::finish_upgrade`].
    ///
    /// A pod that fails is named in the result and leaves the others alone; the older generation stays while one fails,
    /// because that pod may still be served by it.
    pub fn sync(&self, pods: &[PodCapture<'_>]) -> Vec<(u32, CaptureError)> {
        let mut failed = Vec::new();
        for pod in pods {
            if let Err(error) = self.enrol(pod) {
                failed.push((pod.pod_id, error));
            }
        }
        match self.pins.pods() {
            Ok(pinned) => {
                for pod_id in pinned {
                    if !pods.iter().any(|pod| pod.pod_id == pod_id)
                        && let Err(error) = self.unenrol(pod_id)
                    {
                        failed.push((pod_id, error));
                    }
                }
            }
            Err(error) => failed.push((0, error)),
        }
        if failed.is_empty()
            && let Err(error) = self.finish_upgrade()
        {
            failed.push((0, error));
        }
        failed
    }

    /// Removes what another ABI generation left, once its connections in handshake are through. To be called when every pod
    /// is enrolled in this generation: the older one serves those that are not. Nothing to do is no error.
    ///
    /// Blocks for at most [`DRAIN_MAX`].
    pub fn finish_upgrade(&self) -> Result<(), CaptureError> {
        generation::remove_others(&self.pins)
    }

    /// Ids of the pods that are enrolled.
    pub fn pods(&self) -> Result<Vec<u32>, CaptureError> {
        self.pins.pods()
    }

    /// Removes captures whose SYN never came and pods whose namespace is gone. To be called every few seconds.
    pub fn sweep(&self) -> Result<Swept, CaptureError> {
        sweep::run(self)
    }

    /// The socket storage, for node and proxy.
    pub fn sockets_map_fd(&self) -> BorrowedFd<'_> {
        self.maps.sockets.as_fd()
    }

    /// Lets connects to a destination fail with ECONNREFUSED at once, or no more. Port 0 means all ports.
    /// [`CaptureError::is_full`]: it is captured as before, and the proxy refuses it later.
    pub fn refuse(&self, ip: IpAddr, port: u16, refused: bool) -> Result<(), CaptureError> {
        let key = RefusalKey::new(ip.into(), port);
        if refused {
            self.maps
                .refusals
                .update(&key, &1, UpdateMode::Any)
                .map_err(maps::named("REFUSALS"))
        } else {
            self.maps
                .refusals
                .delete(&key)
                .map(drop)
                .map_err(maps::named("REFUSALS"))
        }
    }

    /// The destinations whose connects fail at once, as they stand in the map.
    pub fn refused(&self) -> Result<Vec<(IpAddr, u16)>, CaptureError> {
        let keys = self.maps.refusals.keys();
        let keys = keys.map_err(maps::named("REFUSALS"))?.into_iter();
        Ok(keys.map(|key| (key.ip.into(), key.port)).collect())
    }

    /// All counters, summed over CPUs.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, CaptureError> {
        Counter::ALL
            .into_iter()
            .map(|counter| {
                let sum = self
                    .maps
                    .counters
                    .sum(counter as u32)
                    .map_err(maps::named("COUNTERS"))?;
                Ok((counter, sum))
            })
            .collect()
    }

    /// Entries and capacity of each map. Walks the maps: for a scrape, not for a loop.
    pub fn map_usage(&self) -> Result<Vec<MapUsage>, CaptureError> {
        self.maps.usage()
    }

    /// Takes everything of this node down: nothing stays attached or pinned.
    pub fn remove(self) -> Result<(), CaptureError> {
        generation::remove_all(self.pins)
    }

    /// Where the pins of this node are.
    pub fn pins(&self) -> &Path {
        self.pins.node_folder()
    }

    /// The settings that it was opened with.
    pub fn settings(&self) -> &CaptureSettings {
        &self.settings
    }

    /// A copy of the descriptor of the socket storage, to pass on.
    pub fn sockets_map(&self) -> Result<OwnedFd, CaptureError> {
        self.sockets_map_fd()
            .try_clone_to_owned()
            .map_err(|source| CaptureError::Pins {
                path: self.pins.map("SOCKETS"),
                source,
            })
    }
}
