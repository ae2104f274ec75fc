//! What stands under a lab's name before a command takes that name for itself.
//!
//! In: the name. Out: nothing, what a command left that was killed, or a lab that somebody uses. Not here: taking it down.

use crate::lab::place::Place;
use crate::lab::program::Running;

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nobody,
    /// What is left of a command that was killed before it could take its lab down.
    Left,
    /// A lab in use, and how that shows.
    InUse(String),
}

/// Looks at a name. A lab of which it cannot be told is held to be in use.
pub fn occupant(name: &str) -> Occupant {
    let place = Place::of(name);
    if !place.root().exists() {
        return Occupant::Nobody;
    }
    let record = match place.record() {
        Ok(record) => record,
        Err(error) => return Occupant::InUse(format!("it cannot be told whose it is: {error:#}")),
    };
    if let Some(owner) = record.owner.filter(|owner| Running::alive(*owner)) {
        return Occupant::InUse(format!("process {} works with it", owner.pid));
    }
    // Only a command that ended well leaves its lab with a watcher, alive or not.
    if record.watcher.is_some() {
        return Occupant::InUse("`lab up` or `demo --keep` left it running".to_owned());
    }
    Occupant::Left
}
