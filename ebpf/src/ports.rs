//! Which port of the pod's own address stands for a captured destination.

use weft_ebpf_abi::{Endpoint, POD_CAPTURES_MAX};

/// How many ports a connect tries before it is refused. Each try fails only when the same port is in flight
/// for this pod, so with 1024 ports and 500 captures in flight sixteen tries fail once in a hundred thousand.
pub const TRIES: u32 = 16;

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
///
/// One of [`POD_CAPTURES_MAX`] next to that range, from above it where there are enough: applications listen further down.
/// So few ports bound what one pod has in flight, and with 28 000 source ports each they still make 28 million 4-tuples.
#[inline(always)]
pub fn pick(seed: u64, attempt: u32, min: u16, max: u16) -> u16 {
    let below = u32::from(min).saturating_sub(1);
    let above = 65535 - u32::from(max);
    let count = below + above;
    // Odd steps from a random start: no try repeats another while the number of ports is a power of two.
    let step = (seed >> 32) as u32 | 1;
    let number = (seed as u32).wrapping_add(attempt.wrapping_mul(step));
    if count < CHOICE_MIN {
        return (1 + number % PRIVILEGED_MAX) as u16;
    }
    let choice = if count < POD_CAPTURES_MAX {
        count
    } else {
        POD_CAPTURES_MAX
    };
    let index = number % choice;
    if index < above {
        (u32::from(max) + 1 + index) as u16
    } else {
        (below - (index - above)) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::{TRIES, pick, seed};
    use core::net::SocketAddr;
    use weft_ebpf_abi::{Endpoint, POD_CAPTURES_MAX};

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
    fn a_pod_uses_all_ports_of_its_share_and_no_others() {
        let check = |min: u16, max: u16, want: u32| {
            // Sets of 64 ports: the library is without std, also in its tests.
            let mut seen = [0_u64; 1024];
            for cookie in 0..20_000 {
                let seed = seed(&endpoint("10.0.0.1:80"), cookie);
                for attempt in 0..TRIES {
                    let port = pick(seed, attempt, min, max);
                    seen[usize::from(port / 64)] |= 1 << (port % 64);
                }
            }
            let used: u32 = seen.iter().map(|set| set.count_ones()).sum();
            assert_eq!(used, want, "{min}..={max}");
        };
        check(32768, 60999, POD_CAPTURES_MAX);
        // Above the range there are 536, the others lie below it.
        check(20000, 64999, POD_CAPTURES_MAX);
        check(1024, 65535, 1023);
        check(1, 65000, 535);
        check(1, 65535, 1023);
    }

    #[test]
    fn connections_to_one_destination_spread_evenly() {
        let mut counts = [0_u32; POD_CAPTURES_MAX as usize];
        for cookie in 0..102_400 {
            let port = pick(seed(&endpoint("10.0.0.1:80"), cookie), 0, 32768, 60999);
            counts[usize::from(port - 61000)] += 1;
        }
        let most = counts.iter().max().unwrap();
        assert!(*most < 200, "{most} of 102400 at one of 1024 ports");
    }

    #[test]
    fn no_try_repeats_another() {
        for cookie in 0..1_000 {
            let seed = seed(&endpoint("[fd00::1]:443"), cookie);
            let mut seen = [0_u16; TRIES as usize];
            for attempt in 0..TRIES {
                let port = pick(seed, attempt, 32768, 60999);
                assert!(!seen.contains(&port), "{port} twice for {cookie}");
                seen[attempt as usize] = port;
            }
        }
    }
}
