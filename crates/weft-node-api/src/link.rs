//! One connection's bookkeeping: ids out, answers in, and the queue of packets to send.
//!
//! In: requests with a note of what they were for. Out: packets in order, and the note when the answer comes.
//! Pure; lost with the connection, because every reconnect starts with a full snapshot.

use std::collections::{BTreeMap, VecDeque};

use crate::message::{Message, NackReason};

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing<F> {
    /// Our id of it.
    pub id: u64,
    /// The message.
    pub message: Message,
    /// Descriptors that go with it; ours stay open.
    pub descriptors: Vec<F>,
}

/// `N` is what the owner wants to remember of a request until it is answered.
#[derive(Debug)]
pub(crate) struct Link<F, N> {
    last_id: u64,
    unanswered: BTreeMap<u64, N>,
    queue: VecDeque<Outgoing<F>>,
}

impl<F, N> Link<F, N> {
    pub(crate) fn new() -> Self {
        Self {
            last_id: 0,
            unanswered: BTreeMap::new(),
            queue: VecDeque::new(),
        }
    }

    /// Queues a message that will be answered.
    pub(crate) fn request(&mut self, note: N, message: Message, descriptors: Vec<F>) -> u64 {
        let id = self.tell(message, descriptors);
        self.unanswered.insert(id, note);
        id
    }

    /// Queues a message that nobody answers.
    pub(crate) fn tell(&mut self, message: Message, descriptors: Vec<F>) -> u64 {
        self.last_id += 1;
        self.queue.push_back(Outgoing {
            id: self.last_id,
            message,
            descriptors,
        });
        self.last_id
    }

    pub(crate) fn ack(&mut self, of: u64) {
        self.tell(Message::Ack { of }, Vec::new());
    }

    pub(crate) fn nack(&mut self, of: u64, reason: NackReason, detail: impl Into<String>) {
        let detail = detail.into();
        self.tell(Message::Nack { of, reason, detail }, Vec::new());
    }

    /// What an answered request was for; nothing for an answer to nothing, which is ignored.
    pub(crate) fn answered(&mut self, of: u64) -> Option<N> {
        self.unanswered.remove(&of)
    }

    pub(crate) fn oldest_unanswered(&self) -> Option<u64> {
        self.unanswered.keys().next().copied()
    }

    pub(crate) fn pop(&mut self) -> Option<Outgoing<F>> {
        self.queue.pop_front()
    }
}
