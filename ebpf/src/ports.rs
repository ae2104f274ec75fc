//! Which port of the pod's own address stands for a captured destination.

use weft_ebpf_abi::Endpoint;

/// How many ports a connect tries before it is refused. Each try fails only when the same port is in flight
/// for this pod, so with 37 000 ports and 1 000 connections in flight four tries fail once in two million.
pub const TRIES: u32 = 4;

/// Fewer ports than this outside of the local range are no choice (a range of 1 to 65535 leaves none).
const CHOICE_MIN: u32 = 256;

/// Privileged ports, the choice where the local range leaves none: the kernel hands them out last.
const PRIVILEGED_MAX: u32 = 1023;

/// Mixes destination and socket into a seed. A port must not depend on the destination alone:
/// a thousand connections a second to one destination would run out of 4-tuples.
#[inline(always)]
pub fn seed(original: &Endpoint, cookie: u64) -> u64 {
    let [a, b, c, d] = original.ip.words();
    let high = u64::from(a ^ c) << 32 | u64::from(b ^ d);
    // Multiplicative mixing (the constants of splitmix64): not cryptographic, nobody gains from a collision but a refused connect of their own pod.
    let mut mixed =
        (cookie ^ high ^ u64::from(original.port) << 16).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 32
}

/// The port of one try, outside of `min..=max` (the range that the kernel takes source ports from) and never 0.
#[inline(always)]
pub fn pick(seed: u64, attempt: u32, min: u16, max: u16) -> u16 {
    let below = u32::from(min).saturating_sub(1);
    let above = 65535 - u32::from(max);
    let count = below + above;
    // Taking another part of the seed for each try is as good as another hash.
    let number = (seed >> (attempt * 8)) as u32;
    if count < CHOICE_MIN {
        return (1 + number % PRIVILEGED_MAX) as u16;
    }
    let index = number % count;
    if index < below {
        (1 + index) as u16
    } else {
        (u32::from(max) + 1 + index - below) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::{pick, seed};
    use core::net::SocketAddr;
    use weft_ebpf_abi::Endpoint;

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().unwrap().into()
    }

    #[test]
    fn ports_stay_outside_of_the_local_range_and_are_never_zero() {
        for (min, max) in [
            (32768, 60999),
            (1024, 65535),
            (1, 40000),
            (60000, 65535),
            (20000, 20000),
        ] {
            for cookie in 0..20_000 {
                let port = pick(seed(&endpoint("10.0.0.1:80"), cookie), 0, min, max);
                assert!(
                    port != 0 && !(min..=max).contains(&port),
                    "{port} in {min}..={max}"
                );
            }
        }
    }

    #[test]
    fn a_range_that_leaves_nothing_falls_back_to_privileged_ports() {
        for cookie in 0..5_000 {
            let port = pick(seed(&endpoint("10.0.0.1:80"), cookie), 0, 1, 65535);
            assert!((1..=1023).contains(&port));
        }
    }

    #[test]
    fn connections_to_one_destination_spread_over_nearly_all_ports() {
        // Sets of 64 ports: the library is without std, also in its tests.
        let mut seen = [0_u64; 1024];
        for cookie in 0..200_000 {
            let port = pick(seed(&endpoint("10.0.0.1:80"), cookie), 0, 32768, 60999);
            seen[usize::from(port / 64)] |= 1 << (port % 64);
        }
        let used: u32 = seen.iter().map(|set| set.count_ones()).sum();
        assert!(used > 36_000, "{used} of 37303 ports");
    }

    #[test]
    fn tries_differ() {
        let same = (0..10_000)
            .filter(|&cookie| {
                let seed = seed(&endpoint("[fd00::1]:443"), cookie);
                pick(seed, 0, 32768, 60999) == pick(seed, 1, 32768, 60999)
            })
            .count();
        assert!(same < 10, "{same} of 10000");
    }
}
