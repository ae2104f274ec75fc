//! Delta ADS: gives every subscriber what it asked for, and then only what changed.
//!
//! In: translations. Out: responses on gRPC streams. A [`Snapshot`] is immutable; each stream compares the one it told last with the newest,
//! so a slow reader skips what came between and holds up nobody.
//! Not here: how translations come about (`translate`), what tokens are (`tokens`).

mod pace;
mod registry;
mod server;
mod snapshot;
mod stream;
mod subscription;

pub(crate) use registry::Subscribers;
pub(crate) use server::{Ads, CallerCheck, PublishEvents};
pub(crate) use snapshot::Snapshot;

#[cfg(test)]
mod tests;
