//! The one error of the border: which resource, which field, what about it.

use thiserror::Error;
use weft_types::SpiffeIdError;

/// A resource that our words cannot express. The peer is to blame, and should be told by a NACK.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("resource {resource:?}: field {field}: {problem}")]
pub struct ConvertError {
    /// Name of the resource.
    pub resource: String,
    /// Path of the field within it.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The bytes are not such a message.
    #[error("does not decode: {0}")]
    Decode(String),
    /// The resource is of another type than asked for.
    #[error("unexpected type {0:?}")]
    WrongType(String),
    /// A value outside the enumeration.
    #[error("unknown value {0}")]
    UnknownValue(i32),
    /// Something that must be there is not.
    #[error("missing")]
    Missing,
    /// Neither 4 nor 16 bytes.
    #[error("an address has 4 or 16 bytes, not {0}")]
    AddressLength(usize),
    /// A prefix longer than its address.
    #[error("prefix length {0} is too long for the address")]
    PrefixLength(u32),
    /// Not an address block.
    #[error("{0:?} is not an address block such as 10.0.0.0/8")]
    Block(String),
    /// Not a port number.
    #[error("{0} is not a port number")]
    Port(u32),
    /// A name that is not of its form.
    #[error("{0:?} is not of the form namespace/name")]
    Name(String),
    /// Not an identity.
    #[error(transparent)]
    Identity(#[from] SpiffeIdError),
    /// Not a duration that is zero or positive.
    #[error("not a duration of zero or more")]
    Duration,
    /// Something that this version cannot honour, and that must not be ignored.
    #[error("{0:?} is not supported")]
    Unsupported(String),
    /// The policy needs a newer proxy.
    #[error("needs feature level {needed}, this program has {supported}")]
    FeatureLevel {
        /// Level that the resource asks for.
        needed: u32,
        /// Level of this program.
        supported: u32,
    },
}

impl ConvertError {
    /// Builds an error.
    pub fn new(resource: impl Into<String>, field: impl Into<String>, problem: Problem) -> Self {
        Self {
            resource: resource.into(),
            field: field.into(),
            problem,
        }
    }
}
