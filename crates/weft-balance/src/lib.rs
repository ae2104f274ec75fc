//! Which endpoint of a service takes a connection: a pure choice.
//!
//! ```text
//! endpoints of a port --compile--> Candidates (tiers by locality, weights) --pick--> Endpoint | AsDialled | why none
//!                                       kept until the service, its endpoints or the client's place change
//! ```
//!
//! In: a service, its endpoints, the client's place; for a pick the load, the time and randomness.
//! Out: one endpoint. Not here: connecting, counting what is in flight, retrying; the caller does these and tells.
//!
//! The order of considerations: port and readiness, locality tier, session affinity, not set aside and not tried before,
//! then the less loaded of two drawn by weight. A pick costs two draws, and walks a tier only when most of it is set aside.

#![forbid(unsafe_code)]

mod candidates;
mod pick;

mod affinity;
mod hash;
mod set_aside;

#[cfg(test)]
mod tests;

pub use affinity::Affinity;
pub use candidates::{Candidates, Endpoint, EndpointId, NoEndpoint};
pub use pick::{Ask, Choice};
pub use set_aside::SetAside;
