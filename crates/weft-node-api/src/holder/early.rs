//! Refusals on their way from the proxy to the agent.
//!
//! The holder keeps the last set that a proxy has told. It outlives that proxy's connection; the next proxy replaces it,
//! and one that serves without telling any (it is of an older version) takes it back. An agent hears the set as it is
//! right after its greeting, so that nothing outlives both.

use super::{AgentNote, Holder};
use crate::message::{Message, NackReason};
use crate::refusals::{NotTaken, RefusalChange};

impl<F: Clone> Holder<F> {
    /// The proxy tells a part of a change.
    pub(super) fn refuse(&mut self, id: u64, part: &RefusalChange) {
        match self.refusals.take(part) {
            Ok(is_other) => {
                self.proxy_ack(id);
                if is_other {
                    self.tell_refusals();
                }
            }
            Err(NotTaken(why)) => self.proxy_nack(id, NackReason::Malformed, why),
        }
    }

    /// The proxy serves. It has told its refusals by now, if it knows how.
    pub(super) fn proxy_serves(&mut self) {
        if !self.refusals.has_begun() && self.refusals.clear() {
            self.tell_refusals();
        }
    }

    /// The agent has another set now, or refused a part of it.
    pub(super) fn agent_answered(&mut self, note: Option<AgentNote>, taken: bool) {
        match (note, taken) {
            (Some(AgentNote::Refusals(true)), true) => {
                self.refusals_told.acknowledged();
                self.tell_refusals();
            }
            (Some(AgentNote::Refusals(_)), false) => self.refusals_told.refused(),
            (Some(AgentNote::Refusals(false)), true) | (Some(AgentNote::PodGone) | None, _) => {}
        }
    }

    /// Tells an agent that is connected what it does not know yet.
    pub(super) fn tell_refusals(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        self.refusals_told.want(self.refusals.set().clone());
        let parts = self.refusals_told.parts();
        let count = parts.len();
        for (index, part) in parts.into_iter().enumerate() {
            let note = AgentNote::Refusals(index + 1 == count);
            agent
                .link
                .request(note, Message::Refusals(part), Vec::new());
        }
    }
}
