//! What the programs count.

/// Index into the per-CPU array `COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Counter {
    /// A connect was captured.
    Captured = 0,
    /// A connect failed with ECONNREFUSED: its destination is on the refusal list.
    RefusedKnown = 1,
    /// A connect failed with ECONNREFUSED: `CAPTURES` is full.
    RefusedFull = 2,
    /// A connect failed with ENETUNREACH: the pod has no address of that family.
    RefusedFamily = 3,
    /// A connection went to the outbound listener.
    SteeredOutbound = 4,
    /// A connection from elsewhere went to the inbound listener.
    SteeredInbound = 5,
    /// A connection from elsewhere went to the HBONE listener.
    SteeredHbone = 6,
    /// A connection from elsewhere passed to the application by grant.
    Granted = 7,
    /// A connection was dropped because its listener is missing.
    DroppedNoListener = 8,
    /// An accepted socket got its original destination.
    DestinationMoved = 9,
    /// An accepted socket could not be given its original destination; the proxy closes it.
    DestinationLost = 10,
    /// A client address was put on its way.
    ClientStored = 11,
    /// A client address was not stored because `CLIENTS` is full; the proxy resets the connection.
    ClientFull = 12,
    /// An application's socket got its client's address.
    ClientMoved = 13,
    /// A captured connection found its entry gone at its SYN.
    CaptureLost = 14,
    /// A connect failed with ECONNREFUSED: its pod has as many captures in flight as it may.
    RefusedPod = 15,
    /// A connect failed with ECONNREFUSED: its socket has no memory left for storage (`net.core.optmem_max`).
    RefusedStorage = 16,
}

impl Counter {
    /// All counters, by index.
    pub const ALL: [Self; 17] = [
        Self::Captured,
        Self::RefusedKnown,
        Self::RefusedFull,
        Self::RefusedFamily,
        Self::SteeredOutbound,
        Self::SteeredInbound,
        Self::SteeredHbone,
        Self::Granted,
        Self::DroppedNoListener,
        Self::DestinationMoved,
        Self::DestinationLost,
        Self::ClientStored,
        Self::ClientFull,
        Self::ClientMoved,
        Self::CaptureLost,
        Self::RefusedPod,
        Self::RefusedStorage,
    ];

    /// Slots of the array: some more than are used, so that a new counter is no new ABI.
    pub const SLOTS: u32 = 32;

    /// Name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::RefusedKnown => "refused_known",
            Self::RefusedFull => "refused_full",
            Self::RefusedFamily => "refused_family",
            Self::SteeredOutbound => "steered_outbound",
            Self::SteeredInbound => "steered_inbound",
            Self::SteeredHbone => "steered_hbone",
            Self::Granted => "granted",
            Self::DroppedNoListener => "dropped_no_listener",
            Self::DestinationMoved => "destination_moved",
            Self::DestinationLost => "destination_lost",
            Self::ClientStored => "client_stored",
            Self::ClientFull => "client_full",
            Self::ClientMoved => "client_moved",
            Self::CaptureLost => "capture_lost",
            Self::RefusedPod => "refused_pod",
            Self::RefusedStorage => "refused_storage",
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < Counter::ALL.len() {
        assert!(Counter::ALL[index] as usize == index);
        index += 1;
    }
    assert!(Counter::ALL.len() <= Counter::SLOTS as usize);
};
