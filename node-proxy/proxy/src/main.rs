//! Unprivileged L4 proxy: keys, bytes, policy, tunnels.

fn main() {}
