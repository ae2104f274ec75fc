//! `istio.workload.Address`: a workload or a service.

use weft_types::{Service, Workload};

use crate::convert::{service, workload};
use crate::error::{ConvertError, Problem};
use crate::resource;
use crate::wire::workload::{Address, address::Type};

/// What an address resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshAddress {
    /// A workload.
    Workload(Workload),
    /// A service.
    Service(Service),
}

impl MeshAddress {
    /// Reads a resource; `name` is the resource's name, for the error.
    pub fn from_wire(name: &str, address: &Address) -> Result<Self, ConvertError> {
        match &address.r#type {
            Some(Type::Workload(message)) => workload::from_wire(message).map(Self::Workload),
            Some(Type::Service(message)) => service::from_wire(message).map(Self::Service),
            None => Err(ConvertError::new(name, "type", Problem::Missing)),
        }
    }

    /// Writes the resource.
    pub fn to_wire(&self) -> Address {
        let r#type = match self {
            Self::Workload(workload) => Type::Workload(workload::to_wire(workload)),
            Self::Service(service) => Type::Service(service::to_wire(service)),
        };
        Address {
            r#type: Some(r#type),
        }
    }

    /// The resource's name.
    pub fn resource_name(&self) -> String {
        match self {
            Self::Workload(workload) => resource::workload_name(&workload.uid),
            Self::Service(service) => resource::service_name(service),
        }
    }

    /// The names by which it is found by address, `network/ip`.
    pub fn aliases(&self) -> Vec<String> {
        match self {
            Self::Workload(workload) => workload
                .addresses
                .iter()
                .map(|ip| resource::ip_alias(&workload.network, *ip))
                .collect(),
            Self::Service(service) => service
                .addresses
                .iter()
                .map(resource::address_alias)
                .collect(),
        }
    }
}
