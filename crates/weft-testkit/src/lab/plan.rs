//! From the lab file to a plan in which every name and address is settled. Pure.
//!
//! In: the file, the addresses of the namespaces that it adopts, the plan before. Out: [`Plan`],
//! or one error that says which entry is wrong and why. Not here: making any of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::file::{LabFile, PodEntry};

/// IPv4 network of a lab, a /16. Labs do not see each other, so all use the same one.
const SUBNET4: [u8; 2] = [10, 77];
/// IPv6 network of a lab, a /64.
const SUBNET6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0);
/// Addresses of other plans that are named one by one: as many blocks as the mesh settings take, less the lab's own.
const OTHER_RANGES_MAX: usize = 1000;
/// Longest name of a lab or node: paths of Unix sockets must stay below 108 bytes.
const NAME_MAX: usize = 24;
/// Longest name of a pod or namespace, as in Kubernetes labels.
const LABEL_MAX: usize = 63;

/// Everything that a lab consists of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Nodes in the order of the file.
    pub nodes: Vec<PlannedNode>,
    /// Pods in the order of the file.
    pub pods: Vec<PlannedPod>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedNode {
    /// Its name.
    pub name: String,
    /// No program of the mesh runs there.
    pub external: bool,
    /// Its own addresses, on which the controller sees it.
    pub addresses: Vec<IpAddr>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedPod {
    /// The entry of the file.
    pub entry: PodEntry,
    /// Name of its network namespace.
    pub netns: String,
    /// The namespace is someone else's: nothing is added to it, and it is never deleted.
    pub adopted: bool,
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
}

/// What the plan must know of the machine.
pub struct Surroundings<'a> {
    /// The lab's name.
    pub lab: &'a str,
    /// Global addresses of each namespace that the file adopts; none for one that is not there.
    pub adopted: &'a BTreeMap<String, Option<Vec<IpAddr>>>,
    /// The kernel speaks IPv6.
    pub ipv6: bool,
    /// The plan that is running, whose pods keep their addresses.
    pub before: Option<&'a Plan>,
}

/// Prefix of the names of every namespace that a lab makes.
pub fn netns_prefix(lab: &str) -> String {
    format!("weft.{lab}.")
}

/// Checks the name of a lab.
pub fn check_lab_name(name: &str) -> Result<()> {
    check_name("lab", name, NAME_MAX)
}

/// Address of the controller, IPv4.
pub fn controller_address() -> Ipv4Addr {
    Ipv4Addr::new(SUBNET4[0], SUBNET4[1], 255, 1)
}

/// The prefix length with which an address goes onto an interface: the lab's own networks are on
/// the link; any other address stands alone.
pub fn prefix_length(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) if v4.octets()[..2] == SUBNET4 => 16,
        IpAddr::V4(_) => 32,
        IpAddr::V6(v6) if v6.segments()[..4] == SUBNET6.segments()[..4] => 64,
        IpAddr::V6(_) => 128,
    }
}

/// The blocks that the addresses of these pods come from: the lab's own networks, and single addresses of other plans.
pub fn pod_ranges(pods: &[PlannedPod]) -> Vec<String> {
    let [a, b] = SUBNET4;
    let own = [format!("{a}.{b}.0.0/16"), format!("{SUBNET6}/64")];
    let others = pods.iter().flat_map(|pod| &pod.addresses);
    let others: BTreeSet<String> = others
        .map(|address| (address, prefix_length(*address)))
        .filter(|(_, length)| matches!(length, 32 | 128))
        .map(|(address, length)| format!("{address}/{length}"))
        .take(OTHER_RANGES_MAX)
        .collect();
    own.into_iter().chain(others).collect()
}

/// Settles every name and address of a lab file.
pub fn plan(file: &LabFile, around: &Surroundings<'_>) -> Result<Plan> {
    let nodes = plan_nodes(file, around)?;
    let names: BTreeSet<&str> = file.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut keys = BTreeSet::new();
    let mut namespaces = BTreeMap::new();
    for entry in &file.pods {
        check_pod(entry, &names)?;
        ensure!(
            keys.insert(entry.key()),
            "pod {} stands in the file twice",
            entry.key()
        );
        if let Some(netns) = &entry.netns
            && let Some(other) = namespaces.insert(netns.clone(), entry.key())
        {
            bail!(
                "pods {other} and {} both adopt network namespace {netns}",
                entry.key()
            );
        }
    }
    let mut taken = Taken::default();
    for entry in &file.pods {
        for address in fixed_addresses(entry, around)? {
            taken.claim(address, &entry.key())?;
        }
    }
    let mut pods = Vec::new();
    for entry in &file.pods {
        let mut addresses = fixed_addresses(entry, around)?;
        if addresses.is_empty() {
            addresses = taken.assign(entry, around);
        }
        pods.push(PlannedPod {
            netns: entry.netns.clone().unwrap_or_else(|| {
                format!(
                    "{}pod.{}.{}",
                    netns_prefix(around.lab),
                    entry.namespace,
                    entry.name
                )
            }),
            adopted: entry.netns.is_some(),
            addresses,
            entry: entry.clone(),
        });
    }
    Ok(Plan { nodes, pods })
}

fn plan_nodes(file: &LabFile, around: &Surroundings<'_>) -> Result<Vec<PlannedNode>> {
    let mut nodes: Vec<PlannedNode> = Vec::new();
    let mut taken: BTreeSet<u8> = around
        .before
        .iter()
        .flat_map(|plan| &plan.nodes)
        .filter_map(|node| node_index(&node.addresses))
        .collect();
    for entry in &file.nodes {
        check_name("node", &entry.name, NAME_MAX)?;
        ensure!(
            !nodes.iter().any(|node| node.name == entry.name),
            "node {} stands in the file twice",
            entry.name
        );
        let known = around
            .before
            .and_then(|plan| plan.nodes.iter().find(|node| node.name == entry.name));
        let addresses = if let Some(known) = known {
            known.addresses.clone()
        } else {
            let Some(index) = (1..=250).find(|index| taken.insert(*index)) else {
                bail!("a lab holds at most 250 nodes");
            };
            let mut addresses = vec![Ipv4Addr::new(SUBNET4[0], SUBNET4[1], 254, index).into()];
            if around.ipv6 {
                addresses.push(within6(0xfe00 + u16::from(index)).into());
            }
            addresses
        };
        nodes.push(PlannedNode {
            name: entry.name.clone(),
            external: entry.external,
            addresses,
        });
    }
    Ok(nodes)
}

fn node_index(addresses: &[IpAddr]) -> Option<u8> {
    addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) => Some(v4.octets()[3]),
        IpAddr::V6(_) => None,
    })
}

fn check_pod(entry: &PodEntry, nodes: &BTreeSet<&str>) -> Result<()> {
    check_name("pod", &entry.name, LABEL_MAX)?;
    check_name("Kubernetes namespace", &entry.namespace, LABEL_MAX)?;
    check_name("service account", &entry.service_account, LABEL_MAX)?;
    ensure!(
        nodes.contains(entry.node.as_str()),
        "pod {}: node {:?} is not among the nodes of the file ({})",
        entry.key(),
        entry.node,
        nodes.iter().copied().collect::<Vec<_>>().join(", ")
    );
    ensure!(
        entry.ip.is_none() || entry.ips.is_empty(),
        "pod {}: give ip or ips, not both",
        entry.key()
    );
    Ok(())
}

/// What a name in Kubernetes looks like: lower-case letters, digits and hyphens.
fn check_name(what: &str, name: &str, length_max: usize) -> Result<()> {
    let legal = !name.is_empty()
        && name.len() <= length_max
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    ensure!(
        legal,
        "{what} name {name:?} must be 1 to {length_max} lower-case letters, digits or hyphens, with no hyphen at its ends"
    );
    Ok(())
}

/// The addresses that the file or the adopted namespace settles; none where one is to be assigned.
fn fixed_addresses(entry: &PodEntry, around: &Surroundings<'_>) -> Result<Vec<IpAddr>> {
    let given: Vec<IpAddr> = entry.ip.into_iter().chain(entry.ips.clone()).collect();
    let Some(netns) = &entry.netns else {
        return Ok(given);
    };
    let Some(Some(present)) = around.adopted.get(netns) else {
        bail!(
            "pod {}: network namespace {netns:?} does not exist (`ip netns list` shows those that do)",
            entry.key()
        );
    };
    for address in &given {
        ensure!(
            present.contains(address),
            "pod {}: {address} is no address of network namespace {netns}, which has {present:?}",
            entry.key()
        );
    }
    ensure!(
        !present.is_empty(),
        "pod {}: network namespace {netns} has no global address yet: give it one (`ip -n {netns} address add ...`), and a link over which other pods reach it",
        entry.key()
    );
    Ok(if given.is_empty() {
        present.clone()
    } else {
        given
    })
}

fn within6(last: u16) -> Ipv6Addr {
    let mut segments = SUBNET6.segments();
    segments[7] = last;
    segments.into()
}

/// Which pod has which address.
#[derive(Default)]
struct Taken(BTreeMap<IpAddr, String>);

impl Taken {
    fn claim(&mut self, address: IpAddr, pod: &str) -> Result<()> {
        if let Some(other) = self.0.insert(address, pod.to_owned()) {
            bail!("address {address} is used twice: by pod {other} and by pod {pod}");
        }
        ensure!(
            is_for_a_pod(address),
            "pod {pod}: {address} is no address that a pod can have"
        );
        ensure!(
            !is_infrastructure(address),
            "pod {pod}: {address} is kept for the lab's own nodes and controller (10.77.254.0/23)"
        );
        Ok(())
    }

    /// The addresses that the pod had, or the first ones free.
    fn assign(&mut self, entry: &PodEntry, around: &Surroundings<'_>) -> Vec<IpAddr> {
        let before = around.before.and_then(|plan| {
            plan.pods
                .iter()
                .find(|pod| pod.entry.key() == entry.key() && !pod.adopted)
        });
        if let Some(before) = before
            && before
                .addresses
                .iter()
                .all(|address| !self.0.contains_key(address))
        {
            for address in &before.addresses {
                self.0.insert(*address, entry.key());
            }
            return before.addresses.clone();
        }
        let busy: BTreeSet<IpAddr> = around
            .before
            .iter()
            .flat_map(|plan| &plan.pods)
            .flat_map(|pod| pod.addresses.iter().copied())
            .collect();
        for number in 1..=u16::MAX {
            let [high, low] = number.to_be_bytes();
            // From .1.1 upwards: the low ones are what people write by hand.
            let high = high.saturating_add(1);
            let mut addresses: Vec<IpAddr> =
                vec![Ipv4Addr::new(SUBNET4[0], SUBNET4[1], high, low).into()];
            if around.ipv6 {
                addresses.push(within6(u16::from_be_bytes([high, low])).into());
            }
            let free = low != 0
                && low != 255
                && addresses
                    .iter()
                    .all(|address| !self.0.contains_key(address) && !busy.contains(address));
            if free {
                for address in &addresses {
                    self.0.insert(*address, entry.key());
                }
                return addresses;
            }
        }
        unreachable!("a lab has fewer pods than a /16 has addresses")
    }
}

/// Whether an interface of a pod can carry the address for others to reach.
fn is_for_a_pod(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(mapped
        || local
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast())
}

fn is_infrastructure(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..2] == SUBNET4 && v4.octets()[2] >= 254,
        IpAddr::V6(v6) => {
            v6.segments()[..7] == SUBNET6.segments()[..7] && v6.segments()[7] >= 0xfe00
        }
    }
}

#[cfg(test)]
mod tests;
