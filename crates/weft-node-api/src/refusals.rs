//! Destinations whose connects fail at once: the set that goes from the proxy to the holder to the agent. Pure.
//!
//! ```text
//! Teller (one connection)                                    Hearer (one connection)
//!   want(set) --> change {base: none, generation 1, more} -->  begun, staged
//!                 change {base: none, generation 1}       -->  the set is replaced as a whole
//!             <-- Ack of the last part
//!   want(set) --> change {base: 1, generation 2}          -->  the set is changed as a whole
//! ```
//!
//! A connection starts with the whole set, later changes name what differs. One change is under way at a time: what is
//! wanted meanwhile goes into the next one. A peer that refuses a part (an older version does not know the message, a
//! newer one may allow less) hears no more until it connects again; it then refuses later what would be refused early.
//! Deliberately not here: which destinations these are (proxy), the map in the kernel (agent).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Destinations at most: what the eBPF map holds (`ebpf/src/maps.rs`). Whoever compiles the set leaves out the rest.
pub const REFUSALS_MAX: usize = 16_384;

/// Destinations in one message: 60 bytes of JSON each at most, so half of [`crate::PACKET_MAX`].
/// Three in tests, so that small sets are cut into parts too.
const PART_MAX: usize = if cfg!(test) { 3 } else { 512 };

/// A destination to which no connect can succeed: an address (IPv4 never in its mapped form), and a port or 0 for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(IpAddr, u16)", into = "(IpAddr, u16)")]
pub struct Refused {
    /// Which address.
    pub address: IpAddr,
    /// Which port; 0 for all.
    pub port: u16,
}

/// A whole set. Shared: holder, proxy and agent each keep one.
pub type RefusedSet = Arc<BTreeSet<Refused>>;

/// One part of a change, as one message carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalChange {
    /// What the set is called after the change; counted by the sender.
    pub generation: u64,
    /// What it must be called before; none for a set that is told from its beginning.
    pub base: Option<u64>,
    /// More parts of this change follow.
    pub more: bool,
    /// Not refused any more.
    pub remove: Vec<Refused>,
    /// Refused from now on.
    pub add: Vec<Refused>,
}

/// The telling side.
#[derive(Debug, Default)]
pub(crate) struct Teller {
    wanted: Option<RefusedSet>,
    /// What the peer has, once the change under way is acknowledged; nothing on a new connection.
    told: Option<RefusedSet>,
    generation: u64,
    under_way: bool,
    deaf: bool,
}

/// The hearing side.
#[derive(Debug, Default)]
pub(crate) struct Hearer {
    set: RefusedSet,
    /// The generation of this connection; nothing before its first whole set.
    generation: Option<u64>,
    staged: Option<(u64, BTreeSet<Refused>)>,
    /// The change of which a part was refused: the rest of it is, too.
    broken: Option<u64>,
}

/// A part that was not taken; the set stays as it was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotTaken(pub(crate) &'static str);

// === impl Refused ===

impl From<(IpAddr, u16)> for Refused {
    fn from((address, port): (IpAddr, u16)) -> Self {
        Self {
            address: address.to_canonical(),
            port,
        }
    }
}

impl From<Refused> for (IpAddr, u16) {
    fn from(refusal: Refused) -> Self {
        (refusal.address, refusal.port)
    }
}

// === impl Teller ===

impl Teller {
    /// Wants the peer to have this set.
    pub(crate) fn want(&mut self, set: RefusedSet) {
        self.wanted = Some(set);
    }

    /// A new connection: the peer has nothing.
    pub(crate) fn restart(&mut self) {
        self.told = None;
        self.under_way = false;
        self.deaf = false;
    }

    /// The parts to send now, in order; none while a change is under way or when the peer has what is wanted.
    pub(crate) fn parts(&mut self) -> Vec<RefusalChange> {
        let Some(wanted) = self
            .wanted
            .clone()
            .filter(|_| !self.under_way && !self.deaf)
        else {
            return Vec::new();
        };
        if self.told.as_ref().is_some_and(|told| *told == wanted) {
            return Vec::new();
        }
        let base = self.told.as_ref().map(|_| self.generation);
        let before = self.told.take().unwrap_or_default();
        self.generation += 1;
        let changes = before.difference(&wanted).map(|gone| (*gone, false));
        let changes: Vec<(Refused, bool)> = changes
            .chain(wanted.difference(&before).map(|new| (*new, true)))
            .collect();
        // Nothing to name is still a part: an empty set replaces another one.
        let count = changes.len().div_ceil(PART_MAX).max(1);
        let part = |index: usize| {
            let named = changes.iter().skip(index * PART_MAX).take(PART_MAX);
            let of = |wanted: bool| {
                move |(refusal, add): &(Refused, bool)| (*add == wanted).then_some(*refusal)
            };
            RefusalChange {
                generation: self.generation,
                base,
                more: index + 1 < count,
                remove: named.clone().filter_map(of(false)).collect(),
                add: named.filter_map(of(true)).collect(),
            }
        };
        let parts = (0..count).map(part).collect();
        self.told = Some(wanted);
        self.under_way = true;
        parts
    }

    /// The last part of a change was acknowledged.
    pub(crate) fn acknowledged(&mut self) {
        self.under_way = false;
    }

    /// A part was refused: the peer hears no more on this connection.
    pub(crate) fn refused(&mut self) {
        self.deaf = true;
    }
}

// === impl Hearer ===

impl Hearer {
    /// The set as it stands.
    pub(crate) fn set(&self) -> &RefusedSet {
        &self.set
    }

    /// Whether a set was told on this connection.
    pub(crate) fn has_begun(&self) -> bool {
        self.generation.is_some()
    }

    /// A new connection, perhaps of another teller: the set stands until it has told its own.
    pub(crate) fn restart(&mut self) {
        self.generation = None;
        self.staged = None;
        self.broken = None;
    }

    /// Forgets every refusal. False: there was none.
    pub(crate) fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.set).is_empty()
    }

    /// Takes one part in. True: the change is complete, and the set is another one.
    pub(crate) fn take(&mut self, part: &RefusalChange) -> Result<bool, NotTaken> {
        if self.broken == Some(part.generation) {
            return Err(NotTaken("a part of a change that was refused"));
        }
        let staged = match self.staged.take() {
            Some((generation, staged)) if generation == part.generation => staged,
            // A part of another change: the one before broke off.
            Some(_) | None => match part.base {
                None => BTreeSet::new(),
                Some(base) if Some(base) == self.generation => self.set.as_ref().clone(),
                Some(_) => {
                    self.broken = Some(part.generation);
                    return Err(NotTaken("a change of a set that was not told before"));
                }
            },
        };
        let staged = changed(staged, part);
        if staged.len() > REFUSALS_MAX {
            self.broken = Some(part.generation);
            return Err(NotTaken("more refusals than the map holds"));
        }
        if part.more {
            self.staged = Some((part.generation, staged));
            return Ok(false);
        }
        self.generation = Some(part.generation);
        let is_other = *self.set != staged;
        if is_other {
            self.set = Arc::new(staged);
        }
        Ok(is_other)
    }
}

fn changed(mut set: BTreeSet<Refused>, part: &RefusalChange) -> BTreeSet<Refused> {
    for gone in &part.remove {
        set.remove(gone);
    }
    // Bounded by what one packet can carry beyond the limit.
    set.extend(&part.add);
    set
}

#[cfg(test)]
mod tests;
