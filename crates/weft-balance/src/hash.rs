//! A hash that is the same in every run and release of the program, unlike the standard library's.
//!
//! Not for tables that an attacker may fill: it is not keyed. Names come from the controller, client addresses only choose.

/// FNV-1a over the text, from a seed, with the finalizer of SplitMix64 to spread close values.
pub(crate) fn of_text(text: &str, seed: u64) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325 ^ spread(seed);
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    spread(state)
}

/// Two numbers into one.
pub(crate) fn of_pair(a: u64, b: u64) -> u64 {
    spread(spread(a) ^ b)
}

fn spread(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
