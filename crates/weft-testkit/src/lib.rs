//! Lab of network namespaces, peers, the leak oracle and fakes for tests and xtask.

pub mod interrupt;

pub mod netns;
pub mod wait;

pub mod admin;
pub mod lab;

pub mod forge;
pub mod leak;
pub mod load;
pub mod peer;

#[cfg(feature = "fakes")]
pub mod ads;
pub mod envoy;

pub mod repo;
pub mod secrets;
