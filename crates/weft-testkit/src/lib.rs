//! Lab of network namespaces, peers, the leak oracle and fakes for tests and xtask.

pub mod netns;

pub mod lab;
