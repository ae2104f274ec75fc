//! What is known about a connection when it is judged.

use std::net::IpAddr;

use weft_types::SpiffeId;

/// A connection to a workload.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The identity of the peer's certificate, verified; None for plaintext.
    pub source_identity: Option<&'a SpiffeId>,
    /// Address of the TCP peer (of a tunnel: the one that opened it, never a forwarded header).
    pub source_ip: IpAddr,
    /// Address that was asked for.
    pub destination_ip: IpAddr,
    /// Port that was asked for.
    pub destination_port: u16,
}

impl Connection<'_> {
    /// Addresses in the one form that blocks are compared in.
    pub(crate) fn canonical(self) -> Self {
        Self {
            source_ip: self.source_ip.to_canonical(),
            destination_ip: self.destination_ip.to_canonical(),
            ..self
        }
    }
}
