//! Conversions between wire messages and domain words, one module for each resource type.
//!
//! In: a message. Out: the domain word, or a [`ConvertError`] with the resource, the field and the problem.
//! What a message says but our words cannot express is an error where ignoring it could widen access,
//! and dropped where it only describes (telemetry, extensions of workloads and services).

pub mod address;
pub mod enrollment;
pub mod policy;
pub mod service;
pub mod settings;
pub mod workload;

mod extension;
mod field;

pub use crate::error::ConvertError;
pub use address::MeshAddress;
