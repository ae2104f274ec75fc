//! The wires of a lab.
//!
//! In: the plan. Out: namespaces and links. A bridge in the fabric namespace joins the nodes, a
//! bridge in every node's namespace joins its pods, all of it one segment:
//!
//! ```text
//! controller --+
//!              |            +-- pod a
//!          [ fabric ]-- [ node n1 ]
//!              |            +-- pod b
//!              +------- [ node n2 ]-- pod c
//! ```
//!
//! Every address is on the link for every pod, so adopted address plans work too. Not here: which
//! address belongs to whom (`plan`), and adopted namespaces, which are left as they are.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result};

use crate::lab::plan::{PlannedNode, PlannedPod, controller_address, netns_prefix, prefix_length};
use crate::netns::{Netns, has_ipv6, with_prefix};

/// Bridge name inside the fabric and inside every node.
const BRIDGE: &str = "br0";

/// The namespaces of one lab.
#[derive(Clone, Debug)]
pub struct Topology {
    prefix: String,
}

// === impl Topology ===

impl Topology {
    /// The namespaces of the lab of that name.
    pub fn of(lab: &str) -> Self {
        Self {
            prefix: netns_prefix(lab),
        }
    }

    /// The namespace in which all nodes meet.
    pub fn fabric(&self) -> Netns {
        Netns::named(format!("{}fabric", self.prefix))
    }

    /// The controller's namespace.
    pub fn controller(&self) -> Netns {
        Netns::named(format!("{}controller", self.prefix))
    }

    /// A node's namespace: its programs run here, and its pods' links end here.
    pub fn node(&self, name: &str) -> Netns {
        Netns::named(format!("{}node.{name}", self.prefix))
    }

    /// Makes the fabric and the controller's namespace.
    pub fn make_fabric(&self) -> Result<()> {
        make_bridge(&self.fabric())?;
        let address = IpAddr::V4(controller_address());
        self.make_leaf(&self.fabric(), &self.controller(), "controller", &[address])
            .context("cannot wire the controller")
    }

    /// Makes a node's namespace and joins it to the fabric.
    pub fn make_node(&self, node: &PlannedNode) -> Result<()> {
        let netns = self.node(&node.name);
        make_bridge(&netns)?;
        let mut lines = String::new();
        let port = port_name('n', &node.name);
        let _ = writeln!(
            lines,
            "link add uplink type veth peer name {port} netns {}",
            self.fabric().name()
        );
        let _ = writeln!(lines, "link set uplink master {BRIDGE} up");
        for address in &node.addresses {
            let _ = writeln!(lines, "{}", add_address(*address, BRIDGE));
        }
        netns.ip_batch(&lines)?;
        self.fabric()
            .ip_batch(&format!("link set {port} master {BRIDGE} up\n"))
    }

    /// Makes a pod's namespace and joins it to its node. Adopted namespaces are left alone.
    pub fn make_pod(&self, pod: &PlannedPod) -> Result<()> {
        if pod.adopted {
            return Ok(());
        }
        let node = self.node(&pod.entry.node);
        let netns = Netns::named(pod.netns.clone());
        self.make_leaf(&node, &netns, &pod.entry.key(), &pod.addresses)
            .with_context(|| format!("cannot wire pod {}", pod.entry.key()))
    }

    /// Removes a pod's namespace and link; an adopted namespace stays as it is.
    pub fn remove_pod(&self, pod: &PlannedPod) -> Result<()> {
        if pod.adopted {
            return Ok(());
        }
        // The link goes first and at once; with the namespace it would go some time later, and the
        // name would still be taken when a pod of this name returns.
        let port = port_name('p', &pod.entry.key());
        let _ = self
            .node(&pod.entry.node)
            .ip_batch(&format!("link del {port}\n"));
        Netns::named(pod.netns.clone()).delete()
    }

    /// Removes a node's namespace and its link to the fabric.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let _ = self
            .fabric()
            .ip_batch(&format!("link del {}\n", port_name('n', name)));
        self.node(name).delete()
    }

    /// Removes every namespace that the lab made, also those of a lab whose records are lost.
    pub fn remove_all(&self) -> Result<()> {
        for netns in with_prefix(&self.prefix) {
            netns.delete()?;
        }
        Ok(())
    }

    fn make_leaf(&self, hub: &Netns, leaf: &Netns, key: &str, addresses: &[IpAddr]) -> Result<()> {
        debug_assert!(leaf.name().starts_with(&self.prefix));
        Netns::create(leaf.name())?;
        let port = port_name('p', key);
        // A pod that takes over an IP address takes over the link address with it, as bridge plugins arrange: neighbours that
        // still know the old one would write to nobody for up to a minute.
        let station = match addresses.first() {
            Some(first) => format!("address {}", link_address(&first.to_string())),
            None => String::new(),
        };
        hub.ip_batch(&format!(
            "link add {port} type veth peer name eth0 {station} netns {}\nlink set {port} master {BRIDGE} up\n",
            leaf.name()
        ))?;
        let mut lines = "link set eth0 up\n".to_owned();
        for address in addresses {
            let _ = writeln!(lines, "{}", add_address(*address, "eth0"));
        }
        lines.push_str("route add default dev eth0\n");
        if has_ipv6() {
            lines.push_str("route add ::/0 dev eth0\n");
        }
        leaf.ip_batch(&lines)
    }
}

fn make_bridge(netns: &Netns) -> Result<()> {
    Netns::create(netns.name())?;
    // Without snooping, neighbour discovery works from the first packet. With an address of its own, the bridge does not take
    // that of a port, which changes when pods come and go: others would write to the old one for many seconds.
    let address = link_address(netns.name());
    netns.ip_batch(&format!(
        "link add {BRIDGE} address {address} type bridge forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
    ))
}

fn add_address(address: IpAddr, device: &str) -> String {
    let length = prefix_length(address);
    match address {
        IpAddr::V4(_) => format!("address add {address}/{length} dev {device}"),
        IpAddr::V6(_) => format!("address add {address}/{length} dev {device} nodad"),
    }
}

/// A link name made from any text: at most 15 bytes, the same for the same text.
fn port_name(kind: char, text: &str) -> String {
    format!("{kind}{:012x}", hash48(text))
}

/// A link address made from any text: a locally administered one of a single station (IEEE 802, first octet).
fn link_address(text: &str) -> String {
    let [_, _, mut bytes @ ..] = hash48(text).to_be_bytes();
    bytes[0] = bytes[0] & !0b1 | 0b10;
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// FNV-1a, 48 bits.
fn hash48(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash & 0xffff_ffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_fit_and_differ() {
        let one = port_name('p', "default/a");
        assert!(one.len() <= 15);
        assert_ne!(one, port_name('p', "default/b"));
    }

    #[test]
    fn link_addresses_are_those_of_single_stations() {
        let one = link_address("weft.x.node.n1");
        assert_eq!(one.len(), 17);
        let first = u8::from_str_radix(&one[..2], 16).unwrap();
        assert_eq!(first & 0b11, 0b10);
        assert_ne!(one, link_address("weft.x.node.n2"));
    }
}
