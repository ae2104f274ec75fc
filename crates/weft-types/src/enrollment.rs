//! Which pods of a node belong to the mesh: the controller's word to the agent.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::name::PodUid;

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrollment {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// Pod name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Service account, the last part of its identity.
    pub service_account: Arc<str>,
    /// Whether its traffic goes through the mesh.
    pub mode: DataplaneMode,
    /// It has a deletion timestamp.
    pub terminating: bool,
    /// Its addresses, when known.
    pub addresses: Vec<IpAddr>,
    /// Network namespace, where the source names one (standalone: annotation `weft.dev/netns`); otherwise the CNI plugin tells.
    pub netns: Option<PathBuf>,
}

/// Whether a pod's traffic goes through the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DataplaneMode {
    /// It does not.
    #[default]
    None,
    /// It does.
    Ambient,
}
