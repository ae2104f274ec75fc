//! The control protocol: generated messages and gRPC services, and their conversion to and from `weft-types`.
//!
//! In: bytes off the wire. Out: domain words, or an error that names the resource and the field.
//! Not here: streams, retries, state (`weft-config` for the client, the controller for the server).

#![forbid(unsafe_code)]

pub mod convert;
pub mod error;
pub mod resource;

pub use error::{ConvertError, Problem};

/// The generated messages, by protobuf package.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code is not ours to style"
)]
pub mod wire {
    /// `envoy.service.discovery.v3`: delta xDS.
    pub mod discovery {
        tonic::include_proto!("envoy.service.discovery.v3");
    }
    /// `istio.workload`: addresses.
    pub mod workload {
        tonic::include_proto!("istio.workload");
    }
    /// `istio.security`: authorization.
    pub mod security {
        tonic::include_proto!("istio.security");
    }
    /// `istio.v1.auth`: certificate signing.
    pub mod ca {
        tonic::include_proto!("istio.v1.auth");
    }
    /// `weft.node.v1`: enrolment.
    pub mod node {
        tonic::include_proto!("weft.node.v1");
    }
    /// `weft.mesh.v1`: settings.
    pub mod mesh {
        tonic::include_proto!("weft.mesh.v1");
    }
}

/// Messages of the wire with their well-known types, so that users need not depend on prost's crates.
pub use prost::Message;
pub use prost_types::{Any, Struct, Value, value};
