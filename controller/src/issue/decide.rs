//! Whether a node may have an identity: a pure decision over the pods of a service account.
//!
//! In: the asking node, and the pods that have the identity. Out: yes, or a reason that an operator can act on.

use thiserror::Error;
use weft_types::{NodeName, TrustDomain};

/// A pod as far as this decision needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodState {
    /// Its name, for the message.
    pub(crate) name: String,
    /// Where it was scheduled, if it was.
    pub(crate) node: Option<NodeName>,
    /// Phase Succeeded or Failed: its containers will never run again. A terminating pod has not ended.
    pub(crate) ended: bool,
}

/// Why a node may not have an identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Denial {
    /// It is not of our trust domain.
    #[error("the trust domain here is {0}")]
    TrustDomain(TrustDomain),
    /// No pod anywhere has it.
    #[error("no pod with this service account exists")]
    NoPod,
    /// Pods have it, but none is on that node.
    #[error("pods with this service account run on other nodes only")]
    OtherNode,
    /// A pod on that node had it.
    #[error("pod {0} on this node has ended")]
    Ended(String),
}

/// One live pod on the node is enough.
pub(crate) fn decide(node: &NodeName, pods: &[PodState]) -> Result<(), Denial> {
    if pods.is_empty() {
        return Err(Denial::NoPod);
    }
    let mut here = pods.iter().filter(|pod| pod.node.as_ref() == Some(node));
    let Some(first) = here.clone().next() else {
        return Err(Denial::OtherNode);
    };
    if here.any(|pod| !pod.ended) {
        return Ok(());
    }
    Err(Denial::Ended(first.name.clone()))
}
