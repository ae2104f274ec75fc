//! Privileged: loads and pins eBPF, enrols pods.
//!
//! A library as well as a program, so that system tests can drive [`capture`] without the rest of the agent.

pub mod capture;
