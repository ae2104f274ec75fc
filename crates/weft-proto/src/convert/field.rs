//! Conversions of single values that several resource types share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use weft_types::{GatewayAddress, GatewayDestination, NetworkAddress, ServiceName, TrustDomain};

use crate::error::{ConvertError, Problem};
use crate::wire::workload as wire;

/// HBONE's port, which a gateway address may leave out.
const HBONE_PORT: u16 = 15008;

/// The resource being converted: errors are made by it.
#[derive(Clone, Copy)]
pub(super) struct Resource<'a>(pub(super) &'a str);

impl Resource<'_> {
    pub(super) fn error(self, field: &str, problem: Problem) -> ConvertError {
        ConvertError::new(self.0, field, problem)
    }

    /// An enumeration's value, which prost keeps as a plain number.
    pub(super) fn enumeration<E: TryFrom<i32>>(
        self,
        field: &str,
        value: i32,
    ) -> Result<E, ConvertError> {
        E::try_from(value).map_err(|_| self.error(field, Problem::UnknownValue(value)))
    }

    pub(super) fn address(self, field: &str, bytes: &[u8]) -> Result<IpAddr, ConvertError> {
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            return Ok(Ipv4Addr::from(v4).into());
        }
        if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
            // The mapped form would never equal the address of a connection, which is canonical.
            return Ok(IpAddr::from(Ipv6Addr::from(v6)).to_canonical());
        }
        Err(self.error(field, Problem::AddressLength(bytes.len())))
    }

    /// A port; 0 is legal where the caller says so in its own words.
    pub(super) fn port(self, field: &str, value: u32) -> Result<u16, ConvertError> {
        u16::try_from(value).map_err(|_| self.error(field, Problem::Port(value)))
    }

    pub(super) fn port_not_zero(self, field: &str, value: u32) -> Result<u16, ConvertError> {
        match self.port(field, value)? {
            0 => Err(self.error(field, Problem::Port(0))),
            port => Ok(port),
        }
    }

    pub(super) fn not_empty<'t>(self, field: &str, text: &'t str) -> Result<&'t str, ConvertError> {
        if text.is_empty() {
            return Err(self.error(field, Problem::Missing));
        }
        Ok(text)
    }

    pub(super) fn trust_domain(self, field: &str, text: &str) -> Result<TrustDomain, ConvertError> {
        TrustDomain::new(text).map_err(|error| self.error(field, error.into()))
    }

    pub(super) fn duration(
        self,
        field: &str,
        value: Option<&prost_types::Duration>,
    ) -> Result<Duration, ConvertError> {
        let value = value.ok_or_else(|| self.error(field, Problem::Missing))?;
        Duration::try_from(*value).map_err(|_| self.error(field, Problem::Duration))
    }

    /// An address block. A v4-mapped one becomes IPv4, its prefix counted from the 96 leading bits.
    pub(super) fn block(
        self,
        field: &str,
        bytes: &[u8],
        length: u32,
    ) -> Result<IpNet, ConvertError> {
        let too_long = || self.error(field, Problem::PrefixLength(length));
        let prefix = u8::try_from(length).map_err(|_| too_long())?;
        let address = self.address(field, bytes)?;
        let mapped = address.is_ipv4() && bytes.len() == 16;
        let prefix = if mapped {
            prefix.checked_sub(96).ok_or_else(too_long)?
        } else {
            prefix
        };
        let block = IpNet::new(address, prefix).map_err(|_| too_long())?;
        Ok(block.trunc())
    }

    /// An address block in text.
    pub(super) fn cidr(self, field: &str, text: &str) -> Result<IpNet, ConvertError> {
        let block: IpNet = text
            .parse()
            .map_err(|_| self.error(field, Problem::Block(text.to_owned())))?;
        Ok(block.trunc())
    }

    /// A single address; the caller has sorted out ranges.
    pub(super) fn network_address(
        self,
        field: &str,
        address: &wire::NetworkAddress,
    ) -> Result<NetworkAddress, ConvertError> {
        if let Some(length) = address.length
            && !is_single(address)
        {
            return Err(self.error(field, Problem::PrefixLength(length)));
        }
        Ok(NetworkAddress {
            network: address.network.as_str().into(),
            address: self.address(field, &address.address)?,
        })
    }

    pub(super) fn gateway(
        self,
        field: &str,
        gateway: &wire::GatewayAddress,
    ) -> Result<GatewayAddress, ConvertError> {
        use wire::gateway_address::Destination;
        let destination = match &gateway.destination {
            Some(Destination::Address(address)) => {
                GatewayDestination::Address(self.network_address(field, address)?)
            }
            Some(Destination::Hostname(name)) => {
                let hostname = self.not_empty(field, &name.hostname)?;
                GatewayDestination::Hostname(ServiceName::new(name.namespace.as_str(), hostname))
            }
            None => return Err(self.error(field, Problem::Missing)),
        };
        let hbone_port = match self.port(field, gateway.hbone_mtls_port)? {
            0 => HBONE_PORT,
            port => port,
        };
        Ok(GatewayAddress {
            destination,
            hbone_port,
        })
    }
}

/// Whether the prefix length, if any, covers the whole address.
pub(super) fn is_single(address: &wire::NetworkAddress) -> bool {
    address
        .length
        .is_none_or(|length| usize::try_from(length) == Ok(address.address.len() * 8))
}

pub(super) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn network_address(address: &NetworkAddress) -> wire::NetworkAddress {
    wire::NetworkAddress {
        network: address.network.to_string(),
        address: address_bytes(address.address),
        length: None,
    }
}

pub(super) fn gateway(gateway: &GatewayAddress) -> wire::GatewayAddress {
    use wire::gateway_address::Destination;
    let destination = match &gateway.destination {
        GatewayDestination::Address(address) => Destination::Address(network_address(address)),
        GatewayDestination::Hostname(name) => Destination::Hostname(wire::NamespacedHostname {
            namespace: name.namespace.to_string(),
            hostname: name.hostname.to_string(),
        }),
    };
    wire::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: gateway.hbone_port.into(),
    }
}

/// A duration on the wire. Settings are checked at their door, and a duration that protobuf cannot carry is longer than the age of the earth.
pub(super) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(value).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}
