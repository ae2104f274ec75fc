//! Names and types of resources on the ADS stream, and the step between a message and its `Any`.
//!
//! Not here: the conversion of messages to domain words (`convert`).

use std::net::IpAddr;

use prost::Message;
use prost_types::Any;
use weft_types::{NetworkAddress, Service, WorkloadUid};

use crate::error::{ConvertError, Problem};

/// Workloads and services (`istio.workload.Address`).
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// Policies (`istio.security.Authorization`).
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// Pods of the asking agent's node (`weft.node.v1.Enrollment`).
pub const ENROLLMENT: &str = "type.googleapis.com/weft.node.v1.Enrollment";
/// Mesh settings (`weft.mesh.v1.Settings`).
pub const SETTINGS: &str = "type.googleapis.com/weft.mesh.v1.Settings";

/// The name of the one settings resource.
pub const SETTINGS_NAME: &str = "mesh";

/// Largest message that our server sends and its clients need to accept, in bytes.
///
/// Clients apply each message at once, and those that do not know [`NONCE_MORE`] (ztunnel) take the first answer of a type for the whole of it:
/// a mesh should fit into one, or they would decide on half of its policies. 100 000 workloads are 30 MB.
pub const MESSAGE_MAX: usize = 128 * 1024 * 1024;

/// Largest request that our server needs to accept, in bytes: a client that comes back names the version
/// of everything it holds, about 100 bytes for each of 100 000 workloads.
pub const REQUEST_MAX: usize = 64 * 1024 * 1024;

/// Ends the nonce of a response that more of the same state follows, when that does not fit [`MESSAGE_MAX`].
/// A client that sees it does not yet take what it has for complete: half of the policies would allow too much.
pub const NONCE_MORE: &str = "+more";

/// The resource name of a workload: its uid.
pub fn workload_name(uid: &WorkloadUid) -> String {
    uid.as_str().to_owned()
}

/// The resource name of a service: `namespace/hostname`.
pub fn service_name(service: &Service) -> String {
    service.name.to_string()
}

/// The name by which a resource is found by address: `network/ip`, with an empty network for the local one.
pub fn address_alias(address: &NetworkAddress) -> String {
    ip_alias(&address.network, address.address)
}

/// The same as [`address_alias`] from its parts.
pub fn ip_alias(network: &str, address: IpAddr) -> String {
    format!("{network}/{address}")
}

/// Wraps a message for a resource of the given type.
pub fn pack<M: Message>(type_url: &str, message: &M) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

/// Unwraps a resource's message; `name` is the resource's, for the error.
pub fn unpack<M: Message + Default>(
    type_url: &str,
    name: &str,
    any: &Any,
) -> Result<M, ConvertError> {
    if any.type_url != type_url {
        let problem = Problem::WrongType(any.type_url.clone());
        return Err(ConvertError::new(name, "type_url", problem));
    }
    M::decode(any.value.as_slice())
        .map_err(|error| ConvertError::new(name, "value", Problem::Decode(error.to_string())))
}
