//! What processes cost: processor time and memory, from `/proc`.
//!
//! In: processes. Out: sums over them. Not here: which processes count.

use weft_testkit::lab::program::Running;

/// Kernel clock ticks in a second as `/proc` shows them (USER_HZ, the same on every architecture
/// that Linux supports today).
const TICKS: f64 = 100.0;

/// Processor seconds used so far, user and system, all threads.
pub(crate) fn seconds(processes: &[Running]) -> f64 {
    let ticks = |running: &Running| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid)).ok()?;
        // Fields 14 and 15; the name in brackets may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let user: f64 = fields.next()?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        Some(user + system)
    };
    processes.iter().filter_map(ticks).sum::<f64>() / TICKS
}

/// Resident memory, in MiB.
pub(crate) struct Memory {
    pub(crate) all: f64,
    /// Without pages of files: what the processes themselves wrote, which no other process shares.
    pub(crate) anonymous: f64,
}

/// The sum over all processes; `None` without any.
pub(crate) fn memory(processes: &[Running]) -> Option<Memory> {
    if processes.is_empty() {
        return None;
    }
    let mut sum = Memory {
        all: 0.0,
        anonymous: 0.0,
    };
    for running in processes {
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid)).ok()?;
        let mib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
            Some(kib / 1024.0)
        };
        sum.all += mib("VmRSS:")?;
        sum.anonymous += mib("RssAnon:")?;
    }
    Some(sum)
}
