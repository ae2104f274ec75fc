//! Automation: setup, check, ebpf, lab, demo, test, bench.

fn main() {}
