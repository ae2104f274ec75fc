//! Map lookup, update, delete and link update by bpf(2), without aya.
//!
//! In: file descriptors of maps and links that the agent made (passed over a socket, or opened from a pin).
//! Out: typed access to them, above all [`SocketStorage`], with which proxy and node speak to the hooks about one socket.
//! Deliberately not here: creating maps and loading programs (the agent, with aya).
//!
//! Operations on a given map fd need no capability since kernel 5.19, so the proxy can use this crate.
//! Every call is one short system call that never waits for another process: callers on a runtime call it in place.

mod counters;
mod error;
mod link;
mod map;
mod object;
mod socket_storage;
mod syscall;

pub use counters::Counters;
pub use error::BpfError;
pub use link::{
    AttachType, link_cgroup_id, link_create, link_detach, link_netns_inode, link_update,
};
pub use map::{Map, MapShape, SocketHash, UpdateMode, count_entries};
pub use object::{object_get, object_pin};
pub use socket_storage::{ClientState, SocketStorage};
