//! What can go wrong, by who has to do something about it.

use std::io;
use std::path::PathBuf;

use weft_bpf::BpfError;

/// Why capture does not work.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The machine: its kernel is too old.
    #[error("kernel {release} is too old: capture needs 6.1 or newer")]
    KernelTooOld {
        /// `uname -r`.
        release: String,
    },
    /// The machine: the kernel lacks what a program needs, although it is new enough.
    #[error(
        "the kernel refuses program {program}: check that it is built with CONFIG_CGROUP_BPF, CONFIG_BPF_JIT and CONFIG_NET: {reason}"
    )]
    ProgramRefused {
        /// Which program.
        program: &'static str,
        /// What the verifier said.
        reason: String,
    },
    /// The operator: a capability is missing.
    #[error("missing {}: run the agent with these capabilities", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// The operator: no unified cgroup hierarchy.
    #[error(
        "no cgroup2 file system in /proc/mounts: mount one, for example `mount -t cgroup2 none /sys/fs/cgroup`"
    )]
    NoCgroup2,
    /// The operator: the cgroup cannot be opened, or is none.
    #[error("cannot use {} as cgroup: check --cgroup, it must be a folder of a cgroup2 mount: {source}", path.display())]
    Cgroup {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The operator: the hooks would not see the sockets that the node makes.
    #[error("this process is not below cgroup {}: run node and agent inside it, or give --cgroup one that holds them and the pods", path.display())]
    OutsideCgroup {
        /// Where the hooks were to be attached.
        path: PathBuf,
    },
    /// The operator: no bpf file system.
    #[error("{} is no bpf file system, and mounting one failed: run `mount -t bpf bpf {}`: {source}", path.display(), path.display())]
    NoBpffs {
        /// Where one was expected.
        path: PathBuf,
        /// Why mounting failed.
        source: io::Error,
    },
    /// The operator: the node name cannot be a folder name.
    #[error("{0:?} is no node name: use letters, digits, '-' and '.'")]
    NodeName(String),
    /// Another agent of this node runs.
    #[error("another agent holds {}: stop it first, two agents must not share a node", path.display())]
    Locked {
        /// The folder that is locked.
        path: PathBuf,
    },
    /// Pins cannot be read, written or removed.
    #[error("{}: {source}", path.display())]
    Pins {
        /// The pin or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The object does not load: it and the kernel do not fit, or it is broken.
    #[error("cannot load the eBPF object: {0}")]
    Object(Box<aya::EbpfError>),
    /// The object lacks a program, or has it with another type: it was not built from these sources.
    #[error("the eBPF object has no usable program {0}: run `cargo xtask ebpf`")]
    NoProgram(&'static str),
    /// A map operation failed. When the map is full, nothing was enrolled.
    #[error("map {map}: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// Why not.
        source: BpfError,
    },
    /// A program cannot be attached.
    #[error("cannot attach {program}: {source}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Why not.
        source: BpfError,
    },
    /// The caller: a pod that makes no sense.
    #[error("pod {pod_id} cannot be captured: {reason}")]
    Pod {
        /// The pod.
        pod_id: u32,
        /// What is wrong.
        reason: &'static str,
    },
}

impl CaptureError {
    /// Whether a map had no room.
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Map {
                source: BpfError::Full { .. },
                ..
            }
        )
    }
}
