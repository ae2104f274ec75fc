//! Every map: who writes it, who reads it, how large it is, how long an entry lives, and what happens when it is full.
//!
//! All maps are shared by the pods of one agent and pinned in its folder; sizes are defaults, the agent may set others.
//! Full never means passed, and never means another destination.
//! Hashes are preallocated: an insert never allocates, so it can only fail for want of room. Together they take about 24 MB.
//! One pod cannot fill a map for the others: its captures are bounded by the ports that may stand for them (`ports.rs`), its
//! deliveries by the proxy.
//!
//! | map | written by | read by | entries | lifetime of an entry | when full |
//! |---|---|---|---|---|---|
//! | `CAPTURES` | `connect4,6` insert; `sock_ops` fills in the source at `TCP_CONNECT_CB` | `lookup` at the SYN; `sock_ops` at `PASSIVE_ESTABLISHED` | 131 072, connections between connect and accept queue: 1 024 for each of 128 pods | until `PASSIVE_ESTABLISHED`, or the client's `TCP_CLOSE`; one that never saw its SYN: until the agent's sweep after 10 s, or the socket's next connect | connect fails with ECONNREFUSED: the pod's share (`refused_pod`) or the map (`refused_full`) |
//! | `CLIENTS` | `sock_ops` at `TCP_CONNECT_CB` of the proxy's socket | `sock_ops` at `PASSIVE_ESTABLISHED` of the application's | 32 768, deliveries in handshake: 256 for each of 128 pods | until `PASSIVE_ESTABLISHED`, or the proxy socket's `TCP_CLOSE` | storage state `Failed` (`client_full`), the proxy resets before the first byte |
//! | `SOCKETS` | node (flag), proxy (client address), `connect4,6`, `sock_ops` | all hooks but `lookup`; the proxy | socket storage: bounded by the sockets, charged to their option memory | the socket's | connect fails with ECONNREFUSED (`refused_storage`); an accepted socket without original destination is closed by the proxy |
//! | `PODS` | agent | `connect4,6`, `sock_ops` | 1 024, pods of a node (the kubelet's limit is 110 by default) | enrolment | enrolment fails with an error, the pod is not half enrolled |
//! | `POD_ADDRESSES` | agent | `connect4,6`, `lookup` | 4 096, four addresses a pod | enrolment | as `PODS` |
//! | `LISTENERS` | agent | `lookup` | 4 096, three listeners a pod | enrolment, or until the listener closes | as `PODS`; a missing listener drops the SYN (`dropped_no_listener`) |
//! | `REFUSALS` | agent, on the proxy's word | `connect4,6` | 16 384 destinations | until the agent takes it back | not refused early: the connection is captured, and the proxy refuses it |
//! | `GRANTS` | nobody yet: probes and kernel-direct flows | `lookup` | 4 096 flows | - | no grant: the flow goes to the inbound listener |
//! | `COUNTERS` | all hooks | agent | one slot a counter and CPU | for ever | - |
//!
//! **Who deletes.** Whoever wants to remove an entry of `CAPTURES` or `CLIENTS` first exchanges its cookie for 0, and deletes by key
//! only if it was the one who did. An entry with cookie 0 still occupies its key, so the winner can never delete a successor's entry.
//! The agent cannot exchange: its sweep only takes entries that never saw a SYN, and puts back one that did after all.
//!
//! Minimum kernels: hash, array 3.19; sockhash 4.18; socket storage 5.2 (in sockops and sock_addr 5.8); all below the floor of 6.1.

use aya_ebpf::btf_maps::{HashMap, PerCpuArray, SkStorage, SockHash};
use aya_ebpf::macros::btf_map;
use weft_ebpf_abi::{
    CAPTURES_MAX, CLIENTS_MAX, Capture, CaptureKey, ClientKey, ClientValue, Counter, FlowKey,
    ListenerKey, PodAddressKey, PodValue, RefusalKey, SocketValue,
};

#[btf_map]
pub(crate) static CAPTURES: HashMap<CaptureKey, Capture, { CAPTURES_MAX as usize }> =
    HashMap::new();

#[btf_map]
pub(crate) static CLIENTS: HashMap<ClientKey, ClientValue, { CLIENTS_MAX as usize }> =
    HashMap::new();

#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketValue> = SkStorage::new();

#[btf_map]
pub(crate) static PODS: HashMap<u64, PodValue, 1_024> = HashMap::new();

#[btf_map]
pub(crate) static POD_ADDRESSES: HashMap<PodAddressKey, u32, 4_096> = HashMap::new();

#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, 4_096> = SockHash::new();

#[btf_map]
pub(crate) static REFUSALS: HashMap<RefusalKey, u32, 16_384> = HashMap::new();

#[btf_map]
pub(crate) static GRANTS: HashMap<FlowKey, u32, 4_096> = HashMap::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { Counter::SLOTS as usize }> = PerCpuArray::new();
