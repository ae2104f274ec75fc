//! Capture alone, in real network namespaces on the running kernel.
//!
//! Method: a pod and a neighbour joined by a veth pair; the agent's capture module enrols the pod; the test plays the proxy, and
//! looks at what application, neighbour and proxy see. Each test has its own namespaces and its own agent, so that running
//! in parallel is the test that agents on one kernel do not disturb each other.

#![expect(
    clippy::unwrap_used,
    reason = "test helpers fail by panicking, as tests do"
)]

#[path = "capture/crash.rs"]
mod crash;
#[path = "capture/hostile.rs"]
mod hostile;
#[path = "capture/inbound.rs"]
mod inbound;
#[path = "capture/life.rs"]
mod life;
#[path = "capture/loosen.rs"]
mod loosen;
#[path = "capture/outbound.rs"]
mod outbound;
#[path = "capture/refusal.rs"]
mod refusal;
#[path = "capture/rig.rs"]
mod rig;
#[path = "capture/sys.rs"]
mod sys;
#[path = "capture/upgrade.rs"]
mod upgrade;
