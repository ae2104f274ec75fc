//! Privileged: loads and pins eBPF, enrols pods.

fn main() {}
