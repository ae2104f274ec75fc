//! What passes from a holder to its successor.

use super::{Held, Holder, HolderAction, Keys, Pod};
use crate::message::Message;

impl<F: Clone> Holder<F> {
    /// Everything that a successor needs, as the packets of the hand-over, `SnapshotSent` last.
    ///
    /// This holder goes on: it still serves the old proxy until that has drained.
    pub fn hand_over(&self) -> Vec<(Message, Vec<F>)> {
        let mut packets = Vec::new();
        if let Some(sockets) = &self.maps {
            packets.push((Message::Maps, vec![sockets.clone()]));
        }
        if let Some(keys) = &self.keys {
            packets.push((Message::Keys, vec![keys.memfd.clone()]));
        }
        for held in self.held() {
            let message = Message::HeldPod {
                generation: held.generation,
                spec: held.spec.clone(),
                facts: held.facts.clone(),
            };
            let mut descriptors = vec![held.netns.clone()];
            descriptors.extend(held.listeners.clone().into_vec());
            packets.push((message, descriptors));
        }
        packets.push((Message::SnapshotSent, Vec::new()));
        packets
    }

    /// Takes in a pod of the holder before.
    pub fn take_over_pod(&mut self, held: Held<F>) {
        self.actions.push_back(HolderAction::Hold {
            spec: held.spec.clone(),
            facts: held.facts.clone(),
            netns: held.netns.clone(),
        });
        let uid = held.spec.uid.clone();
        let pod = Pod::Ready {
            held,
            pending: None,
        };
        self.pods.insert(uid, pod);
    }

    /// Takes in the map of the holder before.
    pub fn take_over_maps(&mut self, sockets: F) {
        self.maps = Some(sockets.clone());
        self.actions.push_back(HolderAction::Maps { sockets });
    }

    /// Takes in the keys of the holder before, for the next proxy.
    pub fn take_over_keys(&mut self, memfd: F) {
        self.keys = Some(Keys { memfd, of: 0 });
    }
}
