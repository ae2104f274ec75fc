//! Large responses, a few at a time: after a restart of the controller every node of a large mesh wants everything at once.
//!
//! A place is taken before a large response is built, and given back when the connection asks for the next one, that is when this one has left.
//! A reader that is stuck keeps its place, so nobody waits for one for ever.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::Stream;
use tonic::Status;
use weft_proto::wire::discovery::DeltaDiscoveryResponse;

/// Responses below this size are built at once.
const LARGE_BYTES: usize = 1024 * 1024;
/// Large responses at a time. At 100 000 workloads each takes 130 MB: as a message, and encoded into a growing buffer.
const LARGE_MAX: usize = 2;
/// Longest wait for a place: several times what two responses of a large mesh take.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Places for large responses.
#[derive(Clone, Debug)]
pub(super) struct Pace(Arc<Semaphore>);

/// A place, given back when dropped.
pub(super) type Turn = Option<OwnedSemaphorePermit>;

/// A response on its way, with its place.
pub(super) type Paced = (Result<DeltaDiscoveryResponse, Status>, Turn);

/// What the connection reads.
#[derive(Debug)]
pub(crate) struct Responses {
    receiver: mpsc::Receiver<Paced>,
    sending: Turn,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_MAX)))
    }
}

impl Pace {
    /// Waits until a response of this size may be built.
    pub(super) async fn turn(&self, bytes: usize) -> Turn {
        if bytes < LARGE_BYTES {
            return None;
        }
        let place = Arc::clone(&self.0).acquire_owned();
        tokio::time::timeout(WAIT_MAX, place).await.ok()?.ok()
    }
}

impl Responses {
    pub(super) fn new(receiver: mpsc::Receiver<Paced>) -> Self {
        Self {
            receiver,
            sending: None,
        }
    }
}

impl Stream for Responses {
    type Item = Result<DeltaDiscoveryResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.sending = None;
        self.receiver.poll_recv(context).map(|next| {
            let (response, turn) = next?;
            self.sending = turn;
            Some(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{DeltaDiscoveryResponse, LARGE_BYTES, LARGE_MAX, Pace, Responses, WAIT_MAX};
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tokio_stream::StreamExt as _;

    #[tokio::test(start_paused = true)]
    async fn large_responses_take_turns_and_a_stuck_one_is_not_waited_for_for_ever() {
        let pace = Pace::default();
        let mut sent = Vec::new();
        for _ in 0..LARGE_MAX {
            sent.push(pace.turn(LARGE_BYTES).await);
        }
        assert!(sent.iter().all(Option::is_some));
        let before = Instant::now();
        assert!(pace.turn(LARGE_BYTES - 1).await.is_none());
        assert_eq!(before.elapsed().as_secs(), 0, "a small one does not wait");
        assert!(pace.turn(LARGE_BYTES).await.is_none());
        assert_eq!(before.elapsed(), WAIT_MAX);
        sent.pop();
        assert!(pace.turn(LARGE_BYTES).await.is_some());
    }

    #[tokio::test]
    async fn a_place_is_given_back_when_the_next_response_is_asked_for() {
        let pace = Pace::default();
        let (sender, receiver) = mpsc::channel(1);
        let mut responses = Responses::new(receiver);
        let turn = pace.turn(LARGE_BYTES).await;
        let response = DeltaDiscoveryResponse::default();
        sender.send((Ok(response), turn)).await.unwrap();
        responses.next().await.unwrap().unwrap();
        assert_eq!(pace.0.available_permits(), LARGE_MAX - 1);
        drop(sender);
        assert!(responses.next().await.is_none());
        assert_eq!(pace.0.available_permits(), LARGE_MAX);
    }
}
