//! The allocator, and giving back what a busy time has left behind.
//!
//! In: nothing. Out: memory for the whole program. Not here: limits of connections and buffers.

#![expect(
    unsafe_code,
    reason = "asking the allocator to give memory back has no safe wrapper"
)]

/// The C library's allocator costs an eighth of the processor time of a new connection: its caches hold nothing above
/// 1 KiB, and a task is larger than that and aligned besides.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives free memory of this thread, and free regions of the program, back to the kernel. The allocator does so by
/// itself only while it is used: without this, an idle worker would keep the buffers of the last bulk transfer.
///
/// Takes well below a millisecond: meant for once in some seconds, not for every connection.
pub(crate) fn give_back() {
    // SAFETY: the call has no conditions; it works on structures of the allocator that it locks or that belong to this
    // thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::give_back;

    fn resident_kib() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    #[test]
    fn buffers_of_a_busy_time_go_back() {
        const SIZE: usize = 64 << 10;
        let buffers: Vec<Vec<u8>> = (0..1024).map(|_| vec![1; SIZE]).collect();
        let busy = resident_kib();
        drop(buffers);
        give_back();
        // Other tests of this program run meanwhile: half is far beyond what they hold.
        let idle = resident_kib();
        assert!(idle + 32 * 1024 < busy, "{busy} KiB, then {idle} KiB");
    }
}
