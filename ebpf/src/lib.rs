//! Kernel side: capture hooks.
//!
//! This library holds the decisions, without maps, helpers or contexts, so that they are tested on the host:
//! which connect is captured, which port stands for it, where a SYN goes. The programs (`main.rs`, feature `kernel`)
//! are glue around it: read the context, ask here, act.
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "the programs have no calls: what they use must be inlined"
)]

pub mod ports;
pub mod verdict;
