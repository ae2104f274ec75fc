//! The simulated proxy's wishes for early refusals, the map in the kernel, and peers of an older version.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rand::Rng;

use super::{Process, World};
use crate::message::Message;
use crate::refusals::{Refused, RefusedSet};

/// Destinations to choose from: enough that a set takes several parts.
const DESTINATIONS: u8 = 12;

/// What is known of refusals outside the state machines.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The word of the proxy that lives; nothing before it has configuration.
    wanted: Option<RefusedSet>,
    /// Every set that any proxy ever wanted: nothing else may be in force, and no half of one.
    ever_wanted: BTreeSet<BTreeSet<Refused>>,
    /// The map in the kernel. It survives processes.
    in_force: RefusedSet,
    /// This program does not know the message.
    old: Option<Process>,
}

impl World {
    /// Which program of this run is of a version before refusals, if any.
    pub(in crate::simulation) fn choose_versions(&mut self) {
        self.refusals.old = match self.rng.random_range(0..8) {
            0 => Some(Process::Agent),
            1 => Some(Process::Node),
            2 => Some(Process::Proxy),
            _ => None,
        };
    }

    pub(in crate::simulation) fn change_refusals(&mut self) {
        if self.refusals.old == Some(Process::Proxy) {
            return;
        }
        let set: BTreeSet<Refused> = (0..DESTINATIONS)
            .filter(|_| self.rng.random())
            .map(|number| Refused::from((Ipv4Addr::new(10, 96, 0, number).into(), 80)))
            .collect();
        self.refusals.ever_wanted.insert(set.clone());
        let set = Arc::new(set);
        self.refusals.wanted = Some(set.clone());
        self.proxy.refuse(set);
    }

    /// The next proxy knows nothing yet.
    pub(super) fn forget_refusals(&mut self) {
        self.refusals.wanted = None;
    }

    pub(super) fn refuse_in_kernel(&mut self, set: RefusedSet) {
        assert_ne!(self.refusals.old, Some(Process::Agent));
        self.refusals.in_force = set;
    }

    /// What a program of an older version makes of a message.
    pub(super) fn as_read_by(&self, reader: Process, message: Message) -> Message {
        match message {
            Message::Refusals(_) if self.refusals.old == Some(reader) => Message::Unknown,
            message => message,
        }
    }

    pub(super) fn check_refusals_always(&self) {
        let in_force = self.refusals.in_force.as_ref();
        assert!(
            in_force.is_empty() || self.refusals.ever_wanted.contains(in_force),
            "nobody wanted this set"
        );
    }

    pub(super) fn check_refusals_settled(&self) {
        let wanted = self.refusals.wanted.clone().unwrap_or_default();
        match self.refusals.old {
            None => {
                assert_eq!(*self.holder.refusals(), wanted, "the holder disagrees");
                assert_eq!(self.refusals.in_force, wanted, "the kernel disagrees");
            }
            Some(Process::Agent) => assert_eq!(*self.holder.refusals(), wanted),
            Some(Process::Node | Process::Proxy) => {
                assert!(self.refusals.in_force.is_empty(), "nobody can have said so");
            }
        }
    }
}
