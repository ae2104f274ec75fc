//! Kubernetes and Istio resources, strictly parsed.
//!
//! In: YAML text of one file. Out: typed objects with the line they start on, or errors with line, object and field.
//! Unlike an API server's client, nothing is dropped in silence: an unknown field or word is an error that names its nearest known one.
//! Not here: files, watching (the controller's source), what the objects mean together (its index and translation).

#![forbid(unsafe_code)]

pub mod document;
pub mod error;
pub mod labels;
pub mod mesh;
pub mod networking;
pub mod object;
pub mod pod;
pub mod security;
pub mod value;

mod decode;
mod names;
mod node;
mod validate;
mod yaml;

pub use document::{Broken, Document, Parsed, parse, parse_all};
pub use error::ParseError;
pub use mesh::{MeshConfig, parse_mesh_config};
pub use object::{Kind, Object, ObjectKey};

pub use k8s_openapi;
