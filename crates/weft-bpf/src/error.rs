//! What can go wrong at this border.

use std::io;
use std::path::PathBuf;

/// Failure of a bpf(2) operation.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The descriptor is a map of another shape, or no map: the sender mixed up its descriptors, or speaks another ABI.
    #[error(
        "expected a map with {want_key} byte keys and {want_value} byte values, got {key} and {value}: check that agent, node and proxy are of one release"
    )]
    Shape {
        /// Key size that the type needs.
        want_key: u32,
        /// Value size that the type needs.
        want_value: u32,
        /// Key size of the map.
        key: u32,
        /// Value size of the map.
        value: u32,
    },
    /// The map is full (`E2BIG`), or the socket's option memory is (`ENOMEM`, `net.core.optmem_max`).
    #[error("no room: {operation}")]
    Full {
        /// What was tried.
        operation: &'static str,
    },
    /// The path cannot name a pin, it holds a zero byte.
    #[error("{} is no valid path for a pin", .0.display())]
    Path(PathBuf),
    /// The kernel refused.
    #[error("bpf {operation}: {source}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl BpfError {
    pub(crate) fn kernel(operation: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::E2BIG | libc::ENOMEM) => Self::Full { operation },
            _ => Self::Kernel { operation, source },
        }
    }

    /// The operating system's error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
