//! Our words that Istio's messages have no field for. Other clients skip extensions that they do not know.

use prost::Message;

use crate::convert::field::Resource;
use crate::error::{ConvertError, Problem};
use crate::wire::workload::Extension;

/// Policy: the feature level that it needs (`UInt32Value`).
pub(super) const FEATURE_LEVEL: &str = "weft.dev/feature-level";
/// Service: seconds of ClientIP affinity (`UInt32Value`).
pub(super) const CLIENT_IP_AFFINITY: &str = "weft.dev/client-ip-affinity-seconds";
/// Service: only its waypoint may deliver (`BoolValue`).
pub(super) const REQUIRES_WAYPOINT: &str = "weft.dev/requires-waypoint";

const UINT32: &str = "type.googleapis.com/google.protobuf.UInt32Value";
const BOOL: &str = "type.googleapis.com/google.protobuf.BoolValue";

pub(super) fn of_u32(name: &str, value: u32) -> Extension {
    Extension {
        name: name.to_owned(),
        config: Some(prost_types::Any {
            type_url: UINT32.to_owned(),
            value: value.encode_to_vec(),
        }),
    }
}

pub(super) fn of_bool(name: &str, value: bool) -> Extension {
    Extension {
        name: name.to_owned(),
        config: Some(prost_types::Any {
            type_url: BOOL.to_owned(),
            value: value.encode_to_vec(),
        }),
    }
}

pub(super) fn to_u32(resource: Resource<'_>, extension: &Extension) -> Result<u32, ConvertError> {
    value(resource, extension, UINT32)
}

pub(super) fn to_bool(resource: Resource<'_>, extension: &Extension) -> Result<bool, ConvertError> {
    value(resource, extension, BOOL)
}

/// prost encodes the wrapper types as the plain Rust type.
fn value<T: Message + Default>(
    resource: Resource<'_>,
    extension: &Extension,
    type_url: &str,
) -> Result<T, ConvertError> {
    let field = format!("extensions[{}]", extension.name);
    let config = extension
        .config
        .as_ref()
        .ok_or_else(|| resource.error(&field, Problem::Missing))?;
    if config.type_url != type_url {
        return Err(resource.error(&field, Problem::WrongType(config.type_url.clone())));
    }
    T::decode(config.value.as_slice())
        .map_err(|error| resource.error(&field, Problem::Decode(error.to_string())))
}
