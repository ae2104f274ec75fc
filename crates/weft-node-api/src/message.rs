//! Every message, with who sends it, what descriptors come with it, and what answers it.
//!
//! ```text
//! agent                       node                        proxy
//!   Hello ------------------->  | <---------------------- Hello
//!   <--------------- Welcome    |   Welcome ------------->
//!   Maps [sockets] ---------->  | <-- Offer [3 listeners] ...   (what it still has, after a node restart)
//!   PutPod [netns(, 3 l.)] -->  | <-- SnapshotSent              (end of offers)
//!   <--- PodReady [3 listeners] |   Maps, Keys, Pod [3 l.] ..., SnapshotSent -->
//!   SnapshotSent ------------>  | <-- StoreKeys [memfd], Ready
//!   RemovePod --------------->  |   RemovePod ------------>
//!   <---------------- PodGone   | <-- WantSockets ;  Sockets [1..64] -->
//!   <--------------- Refusals   | <-- Refusals                  (the whole set first, then what differs)
//!
//! new node                    old node
//!   Hello(node) ------------->
//!   <--------------- Welcome
//!   Takeover ---------------->     (the old node stops supervising and accepting)
//!   <-- Lock [flock], Maps, Keys, HeldPod [netns, 3 l.] ..., SnapshotSent
//!   <--------------- AgentGone     (the new agent may start)
//!   ProxyReady -------------->     (the old proxy drains, the old node ends with it)
//! ```
//!
//! Every message but `Hello`, `Welcome` and the answers is a request: it is answered by `Ack`, `Nack`,
//! or by the one message that carries its result (`PodReady`, `Sockets`) with `of` = its id.
//! Unknown fields and messages are tolerated, so that one version may talk to its neighbours.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_types::PodUid;

use crate::refusals::RefusalChange;

/// Version of this protocol.
pub const VERSION: u32 = 1;

/// Descriptors in one packet. The kernel's own limit is 253 (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 64;

/// Bytes of one packet. The largest is a full part of refusals, below 32 KiB; a pod with all its names and addresses takes about 2 KiB.
pub const PACKET_MAX: usize = 64 * 1024;

/// Whether two versions can talk: the same, or neighbours.
pub fn compatible(ours: u32, theirs: u32) -> bool {
    ours.abs_diff(theirs) <= 1
}

/// What a pod is to holder, agent and proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// `metadata.uid`.
    #[serde(with = "pod_uid")]
    pub uid: PodUid,
    /// Number of the pod in eBPF keys.
    pub id: u32,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Service account.
    pub service_account: Arc<str>,
    /// Addresses that the configuration gives the pod; its network namespace must hold one of them.
    pub addresses: Vec<IpAddr>,
    /// Path of its network namespace, watched for deletion.
    pub netns: PathBuf,
}

/// What the holder read inside the pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    /// `SO_NETNS_COOKIE` (kernel 5.14) of its sockets.
    pub netns_cookie: u64,
    /// `ip_local_port_range`, both ends included.
    pub local_ports: (u16, u16),
    /// All of its addresses but the loopback ones.
    pub addresses: Vec<IpAddr>,
    /// Whether its sockets can be IPv6.
    pub ipv6: bool,
    /// Inode of the outbound listener: other listeners, another number.
    pub listener_inode: u64,
}

/// The three listeners of a pod; nothing reaches them but what `sk_lookup` sends there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listeners<F> {
    /// For the connections that the pod opens.
    pub outbound: F,
    /// For plaintext connections from outside.
    pub inbound: F,
    /// For tunnels, port 15008.
    pub hbone: F,
}

/// Address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `weft-agent`.
    Agent,
    /// `weft-proxy`.
    Proxy,
    /// The next `weft-node`, which takes over.
    Node,
}

/// First message on a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the sender.
    pub version: u32,
    /// Who it is.
    pub role: Role,
}

/// Why a pod leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// It left the mesh: accepted connections go on until they end.
    Unenrolled,
    /// Its network namespace is gone: everything of it must be closed now, or the namespace stays alive.
    Gone,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum NackReason {
    /// The peer's version is not a neighbour.
    Version {
        /// The refusing side's version.
        ours: u32,
    },
    /// Wrong number of descriptors, a message in the wrong direction, or one this version does not know.
    Malformed,
    /// A newer generation of the pod is known.
    Stale {
        /// Which.
        generation: u64,
    },
    /// Another pod has this eBPF number.
    IdTaken,
    /// The namespace belongs to another pod, or is the node's own.
    WrongNetns,
    /// The namespace holds none of the pod's addresses (yet).
    AddressMissing,
    /// The holder could not make or set up sockets.
    Failed,
    /// No such pod is held.
    NoSuchPod,
    /// A reason of a later version.
    #[serde(other)]
    Unknown,
}

/// A message. See the head of this file for directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Message {
    /// First word of whoever connects.
    Hello(Hello),
    /// First answer.
    Welcome {
        /// The holder's [`VERSION`].
        version: u32,
    },
    /// It is done.
    Ack {
        /// The request's id.
        of: u64,
    },
    /// It is refused.
    Nack {
        /// The request's id.
        of: u64,
        /// Why, for programs.
        reason: NackReason,
        /// Why, for people.
        detail: String,
    },
    /// agent -> node: hold this pod. Descriptors: netns, then the three listeners if the agent has them.
    PutPod {
        /// The agent's revision of the pod.
        generation: u64,
        /// The pod.
        spec: PodSpec,
    },
    /// node -> agent: answer to `PutPod`. Descriptors: the three listeners.
    PodReady {
        /// The request's id.
        of: u64,
        /// What was read inside.
        facts: PodFacts,
    },
    /// agent -> node, node -> proxy: let go of this pod.
    RemovePod {
        /// Which.
        #[serde(with = "pod_uid")]
        uid: PodUid,
        /// Generation that is removed, and all before it.
        generation: u64,
        /// Why.
        reason: Removal,
    },
    /// node -> agent: its network namespace was deleted, the holder has let go.
    PodGone {
        /// Which.
        #[serde(with = "pod_uid")]
        uid: PodUid,
        /// Its generation.
        generation: u64,
    },
    /// The sender's view is complete: what was not named on this connection does not exist.
    SnapshotSent,
    /// agent -> node: what it remembers from before was put. There may be more; only the controller's word, told by
    /// `SnapshotSent`, lets go of anything.
    LastKnownSent,
    /// agent -> node -> proxy: the map of socket storage. Descriptor: the map.
    Maps,
    /// node -> proxy: serve this pod. Descriptors: the three listeners.
    Pod {
        /// Revision; a higher one replaces.
        generation: u64,
        /// The pod.
        spec: PodSpec,
        /// What was read inside; absent while only a proxy's offer vouches for the pod.
        facts: Option<PodFacts>,
    },
    /// proxy -> node: sockets are needed.
    WantSockets {
        /// In which pod.
        #[serde(with = "pod_uid")]
        uid: PodUid,
        /// Of which family.
        family: Family,
        /// How many, at most [`DESCRIPTORS_MAX`] are given at once.
        count: usize,
    },
    /// node -> proxy: answer to `WantSockets`. Descriptors: the sockets, flagged as the proxy's.
    Sockets {
        /// The request's id.
        of: u64,
    },
    /// proxy -> node: keep the keys for the next proxy. Descriptor: a sealed memfd.
    StoreKeys,
    /// node -> proxy: the keys of the proxy before. Descriptor: the memfd.
    Keys,
    /// proxy -> node: it serves.
    Ready,
    /// proxy -> node -> agent: connects to these destinations fail at once. One part of a change.
    Refusals(RefusalChange),
    /// proxy -> node, after a node restart: it still serves this pod. Descriptors: the three listeners.
    Offer {
        /// Revision.
        generation: u64,
        /// The pod.
        spec: PodSpec,
    },
    /// new node -> old node: hand everything over.
    Takeover,
    /// old node -> new node: the lock on the run directory. Descriptor: the locked file.
    Lock,
    /// old node -> new node: a held pod. Descriptors: netns, the three listeners.
    HeldPod {
        /// Revision.
        generation: u64,
        /// The pod.
        spec: PodSpec,
        /// What was read inside.
        facts: PodFacts,
    },
    /// old node -> new node: the old agent has ended.
    AgentGone,
    /// new node -> old node: the new proxy serves, the old one may drain.
    ProxyReady,
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// A message that arrived, with its descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming<F> {
    /// The sender's id of it.
    pub id: u64,
    /// The message.
    pub message: Message,
    /// What came with it.
    pub descriptors: Vec<F>,
}

impl<F> Listeners<F> {
    /// In the order of the wire: outbound, inbound, HBONE.
    pub fn into_vec(self) -> Vec<F> {
        vec![self.outbound, self.inbound, self.hbone]
    }

    /// The inverse of [`Listeners::into_vec`]; nothing unless there are exactly three.
    pub fn from_vec(descriptors: Vec<F>) -> Option<Self> {
        let [outbound, inbound, hbone] = <[F; 3]>::try_from(descriptors).ok()?;
        Some(Self {
            outbound,
            inbound,
            hbone,
        })
    }
}

pub(crate) mod pod_uid {
    //! A pod uid as a JSON string; the domain type itself knows no wire format.

    use serde::{Deserialize, Deserializer, Serializer};
    use weft_types::PodUid;

    pub(crate) fn serialize<S: Serializer>(uid: &PodUid, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(uid.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PodUid, D::Error> {
        String::deserialize(from).map(PodUid::from)
    }
}

#[cfg(test)]
mod tests {
    use super::{Message, NackReason};

    #[test]
    fn unknown_messages_fields_and_reasons_of_a_neighbour_are_tolerated() {
        let check = |json: &str, want: Message| {
            assert_eq!(serde_json::from_str::<Message>(json).unwrap(), want);
        };
        check(r#"{"type":"from_the_future","x":[1]}"#, Message::Unknown);
        check(
            r#"{"type":"ack","of":3,"extra":{}}"#,
            Message::Ack { of: 3 },
        );
        check(
            r#"{"type":"nack","of":3,"reason":{"kind":"novel","y":1},"detail":""}"#,
            Message::Nack {
                of: 3,
                reason: NackReason::Unknown,
                detail: String::new(),
            },
        );
    }
}
