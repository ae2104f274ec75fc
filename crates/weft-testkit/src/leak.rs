//! The leak oracle: records what pods put on the wire and finds what should have been inside TLS.
//!
//! In: the namespaces through which all packets of a lab pass (its nodes and its fabric), the
//! addresses that are enrolled. Out: a [`Report`] with every violation, what was seen of each
//! flow, and how many packets the kernel dropped, which must be none for a verdict to count; and
//! with [`Truth`] every access record that names another identity than the sender has. Not here:
//! traffic. Payloads that carry a [`canary`](canary_text) are found wherever they appear.

mod recorder;

mod tap;

mod judge;
mod segment;
mod stream;

mod canary;
mod identity;
mod report;

pub use canary::{canary_payload, canary_text};
pub use identity::Truth;
pub use judge::{Flow, Violation, Why};
pub use recorder::Recorder;
pub use report::{Report, Seen};
pub use segment::FlowKey;
