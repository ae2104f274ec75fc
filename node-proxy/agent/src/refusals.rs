//! Early refusals: the proxy's set, brought into the kernel's map as far as it has room.
//!
//! In: whole sets. Out: single writes through [`RefusalMap`]. What does not fit is captured as before, and the proxy refuses it
//! after the connect: later, and never anything else than refused.
//! Not here: which destinations these are (`weft-proxy`), how the set arrives (`weft-node-api`).

use std::sync::Arc;

use tracing::{debug, warn};
use weft_agent::capture::{Capture, CaptureError};
use weft_node_api::{Refused, RefusedSet};

/// The map that is written.
pub(crate) trait RefusalMap {
    /// Adds or removes one; false when there is no room for it.
    fn set(&self, one: Refused, refused: bool) -> Result<bool, CaptureError>;
}

/// What the map holds, and what it should.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    wanted: RefusedSet,
    in_force: RefusedSet,
}

impl RefusalMap for Capture {
    fn set(&self, one: Refused, refused: bool) -> Result<bool, CaptureError> {
        match self.refuse(one.address, one.port, refused) {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Refusals {
    /// Starts with what an earlier agent left in the map; the holder's first word replaces it.
    pub(crate) fn left_by(capture: &Capture) -> Self {
        let left = capture.refused().unwrap_or_else(|error| {
            warn!(%error, "the refusals of an earlier agent cannot be read");
            Vec::new()
        });
        Self {
            wanted: RefusedSet::default(),
            in_force: Arc::new(left.into_iter().map(Refused::from).collect()),
        }
    }

    /// Lets exactly these be refused.
    pub(crate) fn want(&mut self, set: RefusedSet, map: &impl RefusalMap) {
        self.wanted = set;
        let before = self.omitted();
        self.bring_into_force(map);
        let omitted = self.omitted();
        debug!(in_force = self.in_force.len(), omitted, "refusals changed");
        if omitted > 0 && before == 0 {
            warn!(
                omitted,
                "not every destination without endpoint fits into the map: connects to the others succeed and are reset"
            );
        }
    }

    /// What is refused at once.
    pub(crate) fn in_force(&self) -> &RefusedSet {
        &self.in_force
    }

    /// How many should be and are not.
    pub(crate) fn omitted(&self) -> usize {
        self.wanted.difference(&self.in_force).count()
    }

    fn bring_into_force(&mut self, map: &impl RefusalMap) {
        let gone: Vec<Refused> = self.in_force.difference(&self.wanted).copied().collect();
        let new: Vec<Refused> = self.wanted.difference(&self.in_force).copied().collect();
        let in_force = Arc::make_mut(&mut self.in_force);
        // Removed first: they are the room for the new ones.
        for one in gone {
            match map.set(one, false) {
                Ok(_) => {
                    in_force.remove(&one);
                }
                // It stays noted, so that the next set tries again.
                Err(error) => {
                    warn!(%error, address = %one.address, port = one.port, "a refusal cannot be lifted");
                }
            }
        }
        for one in new {
            match map.set(one, true) {
                Ok(true) => {
                    in_force.insert(one);
                }
                Ok(false) => return,
                Err(error) => {
                    warn!(%error, "refusals cannot be written; connects succeed and are reset instead");
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use weft_agent::capture::CaptureError;
    use weft_node_api::{Refused, RefusedSet};

    use super::{RefusalMap, Refusals};

    struct Room(usize, RefCell<BTreeSet<Refused>>);

    impl RefusalMap for Room {
        fn set(&self, one: Refused, refused: bool) -> Result<bool, CaptureError> {
            let mut held = self.1.borrow_mut();
            if refused && held.len() == self.0 {
                return Ok(false);
            }
            if refused {
                held.insert(one);
            } else {
                held.remove(&one);
            }
            Ok(true)
        }
    }

    fn set(numbers: std::ops::Range<u8>) -> RefusedSet {
        let one = |number| Refused::from(([10, 96, 0, number].into(), 0));
        Arc::new(numbers.map(one).collect())
    }

    #[test]
    fn what_fits_is_in_force_and_the_rest_follows_when_there_is_room() {
        let map = Room(4, RefCell::default());
        let mut refusals = Refusals::default();
        refusals.want(set(0..6), &map);
        assert_eq!((refusals.in_force().len(), refusals.omitted()), (4, 2));
        refusals.want(set(2..6), &map);
        assert_eq!((refusals.in_force(), refusals.omitted()), (&set(2..6), 0));
        assert_eq!(*map.1.borrow(), *set(2..6));
    }

    #[test]
    fn what_an_earlier_agent_left_is_replaced_by_the_first_set() {
        let map = Room(4, RefCell::new((*set(0..2)).clone()));
        let mut refusals = Refusals {
            wanted: RefusedSet::default(),
            in_force: set(0..2),
        };
        refusals.want(set(1..3), &map);
        assert_eq!(*map.1.borrow(), *set(1..3));
        refusals.want(set(0..0), &map);
        assert!(map.1.borrow().is_empty());
    }
}
