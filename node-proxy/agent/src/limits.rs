//! Limits at which the eBPF programs refuse something, as the agent's metrics and its log name them.
//!
//! In: the programs' counters. Out: the same as limits that were reached. The programs themselves cannot write a log line.
//! The numbers stand in `weft-ebpf-abi`; `docs/limits.md` lists them with their reasons.

use weft_ebpf_abi::Counter;
use weft_runtime::Limit;

static POD_CAPTURES: Limit = Limit::new(
    "pod_captures",
    "connects of a pod were refused because too many of its own were not answered yet; check that weft-proxy runs and accepts, and what the pod floods",
);

static CAPTURES: Limit = Limit::new(
    "captures",
    "connects were refused because too many of all pods were not answered yet; check that weft-proxy runs and accepts",
);

static CLIENTS: Limit = Limit::new(
    "clients",
    "connections to applications were reset because too many of all pods wait to be accepted; check which applications do not accept",
);

static SOCKET_STORAGE: Limit = Limit::new(
    "socket_storage",
    "connects were refused because their sockets have no memory for options left; raise net.core.optmem_max",
);

/// All that are counted in this process.
pub(crate) static ALL: [&Limit; 4] = [&POD_CAPTURES, &CAPTURES, &CLIENTS, &SOCKET_STORAGE];

/// Looks for what has been added to the counters, which outlive the agent.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: Option<[u64; 4]>,
}

impl Watch {
    /// Compares with the last look; the first one only remembers.
    pub(crate) fn look(&mut self, counters: &[(Counter, u64)]) {
        let value = |wanted: Counter| {
            let found = counters.iter().find(|(counter, _)| *counter == wanted);
            found.map_or(0, |(_, value)| *value)
        };
        let now = [
            Counter::RefusedPod,
            Counter::RefusedFull,
            Counter::ClientFull,
            Counter::RefusedStorage,
        ]
        .map(value);
        let before = self.seen.replace(now).unwrap_or(now);
        for (limit, (now, before)) in ALL.iter().zip(now.into_iter().zip(before)) {
            limit.reached_times(now.saturating_sub(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_ebpf_abi::Counter;

    use super::{CLIENTS, Watch};

    #[test]
    fn what_the_programs_add_is_counted_and_what_was_there_before_is_not() {
        let mut watch = Watch::default();
        for total in [7, 7, 10] {
            watch.look(&[
                (Counter::Captured, 100 * total),
                (Counter::ClientFull, total),
            ]);
        }
        assert_eq!(CLIENTS.count(), 3);
    }
}
