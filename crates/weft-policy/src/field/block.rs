//! Comparison of an address with a list of blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Blocks, any of which is enough: as ranges without overlap, sorted, for one binary search.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    v4: Box<[(Ipv4Addr, Ipv4Addr)]>,
    v6: Box<[(Ipv6Addr, Ipv6Addr)]>,
}

impl Blocks {
    pub(super) fn new(blocks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in blocks {
            match canonical(*block) {
                IpNet::V4(block) => v4.push((block.network(), block.broadcast())),
                IpNet::V6(block) => v6.push((block.network(), block.broadcast())),
            }
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }

    /// Whether a block holds an address in canonical form.
    pub(super) fn any(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => any(&self.v4, address),
            IpAddr::V6(address) => any(&self.v6, address),
        }
    }
}

/// A block of v4-mapped addresses is the IPv4 block within: connections only ever show the latter.
fn canonical(block: IpNet) -> IpNet {
    let IpNet::V6(v6) = block else {
        return block;
    };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(address), Some(length)) => IpNet::new(address.into(), length)
            .expect("128 - 96 is the longest prefix of an IPv4 block"),
        _ => block,
    }
}

/// Blocks nest or are apart, so dropping what lies within another leaves no overlap.
fn merged<A: Ord + Copy>(mut ranges: Vec<(A, A)>) -> Box<[(A, A)]> {
    // The widest of those that begin together comes first.
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let mut kept: Vec<(A, A)> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if kept.last().is_none_or(|last| last.1 < range.0) {
            kept.push(range);
        }
    }
    kept.into_boxed_slice()
}

fn any<A: Ord + Copy>(ranges: &[(A, A)], address: A) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after
        .checked_sub(1)
        .is_some_and(|index| address <= ranges[index].1)
}

#[cfg(test)]
mod tests {
    use super::Blocks;

    fn blocks(texts: &[&str]) -> Blocks {
        let parsed: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Blocks::new(&parsed)
    }

    #[test]
    fn the_edges_of_a_block_belong_to_it_and_their_neighbours_do_not() {
        let nested = blocks(&[
            "10.1.2.0/24",
            "10.1.0.0/16",
            "10.1.2.3/32",
            "192.168.0.5/31",
        ]);
        let holds = |text: &str| nested.any(text.parse().unwrap());
        assert!(holds("10.1.0.0") && holds("10.1.255.255") && holds("10.1.2.4"));
        assert!(!holds("10.0.255.255") && !holds("10.2.0.0"));
        assert!(holds("192.168.0.4") && holds("192.168.0.5") && !holds("192.168.0.6"));
    }

    #[test]
    fn families_are_separate_and_mapped_blocks_are_v4() {
        let v6_only = blocks(&["::/0"]);
        assert!(v6_only.any("fd00::1".parse().unwrap()));
        assert!(!v6_only.any("10.0.0.1".parse().unwrap()));
        let mapped = blocks(&["::ffff:10.0.0.0/104"]);
        assert!(mapped.any("10.9.9.9".parse().unwrap()));
        assert!(!mapped.any("11.0.0.1".parse().unwrap()));
    }
}
