//! Supervisor and holder: keeps every listener, makes sockets inside pods, outlives agent and proxy.

fn main() {}
