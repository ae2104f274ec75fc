//! The protocol between `weft-node` (the holder), `weft-agent` and `weft-proxy`.
//!
//! One Unix SOCK_SEQPACKET socket, `<run-dir>/node.sock`; JSON messages, descriptors by SCM_RIGHTS.
//! In: the wishes of a program and the packets of its peer. Out: packets and events.
//! The three state machines (`holder`, `agent`, `proxy`) are pure and generic over the descriptor,
//! so that a simulation can drive them with counted tokens; `client` and [`Channel`] give them sockets.
//! Deliberately not here: making sockets in a pod, eBPF, starting processes.

#![forbid(unsafe_code)]

mod agent;
mod channel;
mod client;
mod holder;
mod link;
mod message;
mod proxy;
mod refusals;

pub use agent::{AgentEvent, AgentSide};
pub use channel::{Acceptor, Channel, ChannelError, Peer, bind, connect};
pub use client::{AgentClient, Busy, ProxyClient};
pub use holder::{Held, Holder, HolderAction, Refusal};
pub use link::Outgoing;
pub use message::{
    DESCRIPTORS_MAX, Family, Hello, Incoming, Listeners, Message, NackReason, PACKET_MAX, PodFacts,
    PodSpec, Removal, Role, VERSION, compatible,
};
pub use proxy::{ProxyEvent, ProxySide};
pub use refusals::{REFUSALS_MAX, RefusalChange, Refused, RefusedSet};

#[cfg(test)]
mod simulation;
