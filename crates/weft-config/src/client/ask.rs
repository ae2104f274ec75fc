//! Addresses that readers ask the controller about, beside everything that it sends by itself.
//!
//! ```text
//! reader --ask()--> queue --> open --subscribe NAME--> controller
//!    ^                          |
//!    '-------- answered --------'  a resource of that name or alias, "there is none", or a new complete state
//! ```
//!
//! A stream is ordered: with the answer, everything that the controller knew when it was asked has arrived. So an answered
//! reader looks at the snapshot once more, and what is still unknown there does not exist.
//! In: names. Out: names to subscribe to and to leave, and a wake-up for everybody who asked.
//! Not here: how long a reader waits (`ProxyConfig::wait_for_address`).

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};
use weft_proto::wire::discovery::DeltaDiscoveryResponse;

/// Questions that wait to be read by the client's task. One that finds no place is not asked: its reader waits all the same,
/// for the push that the controller sends by itself.
const QUEUE_MAX: usize = 1024;
/// Names that may wait for an answer: what somebody who scans the pods' addresses may cost the controller in one round trip.
const OPEN_MAX: usize = 256;

/// Handle of the readers.
#[derive(Clone, Debug)]
pub(crate) struct Asker(mpsc::Sender<Question>);

#[derive(Debug)]
pub(crate) struct Question {
    name: String,
    answered: oneshot::Sender<()>,
}

/// The client's side.
#[derive(Debug)]
pub(crate) struct Questions {
    queue: mpsc::Receiver<Question>,
    open: HashMap<String, Vec<oneshot::Sender<()>>>,
    /// Answered, or given up by everybody: to be left with the next request.
    over: Vec<String>,
    /// Named by a response of which more parts follow.
    named: Vec<String>,
}

/// What to tell the controller.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

/// Both ends.
pub(crate) fn questions() -> (Asker, Questions) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let questions = Questions {
        queue,
        open: HashMap::new(),
        over: Vec::new(),
        named: Vec::new(),
    };
    (Asker(sender), questions)
}

impl Asker {
    /// Asks; ready once answered, never if it cannot be asked. Cancel-safe: the answer is then nobody's.
    pub(crate) fn ask(&self, name: String) -> impl Future<Output = ()> + use<> {
        let (answered, answer) = oneshot::channel();
        // Without place in the queue, the sender is dropped here.
        let _ = self.0.try_send(Question { name, answered });
        async move {
            if answer.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Questions {
    /// Waits for a question, then takes all there are; gives what has to be told. Never ready when nobody can ask any more.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Names {
        loop {
            let Some(first) = self.queue.recv().await else {
                return std::future::pending().await;
            };
            let mut names = Names::default();
            let mut question = Some(first);
            while let Some(one) = question {
                names.subscribe.extend(self.open(one));
                question = self.queue.try_recv().ok();
            }
            if !names.subscribe.is_empty() {
                names.unsubscribe = std::mem::take(&mut self.over);
                // Asked for again: it must not be left with the same request.
                names
                    .unsubscribe
                    .retain(|name| !names.subscribe.contains(name));
                return names;
            }
        }
    }

    /// Notes what a response answers; wakes nobody yet, because its resources are not shown yet.
    pub(super) fn heard(&mut self, response: &DeltaDiscoveryResponse) {
        if self.open.is_empty() {
            return;
        }
        let own = response
            .resources
            .iter()
            .flat_map(|resource| std::iter::once(&resource.name).chain(&resource.aliases));
        let names = own.chain(&response.removed_resources);
        let asked = names.filter(|name| self.open.contains_key(*name)).cloned();
        self.named.extend(asked);
    }

    /// A response is whole, and its resources are shown.
    pub(super) fn shown(&mut self) {
        for name in std::mem::take(&mut self.named) {
            self.close(name);
        }
    }

    /// A complete state is shown: whatever was asked before has its answer.
    pub(super) fn all_shown(&mut self) {
        self.named.clear();
        let names: Vec<String> = self.open.keys().cloned().collect();
        for name in names {
            self.close(name);
        }
        // This stream has not heard of any of them.
        self.over.clear();
    }

    /// Opens a question; gives its name if nobody asked before.
    fn open(&mut self, question: Question) -> Option<String> {
        let Question { name, answered } = question;
        if let Some(waiting) = self.open.get_mut(&name) {
            waiting.retain(|one| !one.is_closed());
            // Nobody waited for the answer any more, so there may never be one.
            let again = waiting.is_empty().then_some(name);
            waiting.push(answered);
            return again;
        }
        if self.open.len() >= OPEN_MAX {
            self.drop_abandoned();
        }
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        self.open.insert(name.clone(), vec![answered]);
        Some(name)
    }

    fn drop_abandoned(&mut self) {
        let over = &mut self.over;
        self.open.retain(|name, waiting| {
            let wanted = waiting.iter().any(|one| !one.is_closed());
            if !wanted {
                over.push(name.clone());
            }
            wanted
        });
    }

    fn close(&mut self, name: String) {
        if let Some(waiting) = self.open.remove(&name) {
            for one in waiting {
                // Whoever has given up needs no answer.
                let _ = one.send(());
            }
            self.over.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_proto::wire::discovery::{DeltaDiscoveryResponse, Resource};

    use super::{Names, OPEN_MAX, QUEUE_MAX, questions};

    /// Whether it is ready now.
    async fn ready<T>(future: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::ZERO, future).await.is_ok()
    }

    fn removed(name: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            removed_resources: vec![name.to_owned()],
            ..DeltaDiscoveryResponse::default()
        }
    }

    fn known(alias: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            resources: vec![Resource {
                name: "uid".to_owned(),
                aliases: vec![alias.to_owned()],
                ..Resource::default()
            }],
            ..DeltaDiscoveryResponse::default()
        }
    }

    #[tokio::test]
    async fn those_who_ask_for_the_same_share_one_question_and_its_answer() {
        let (asker, mut questions) = questions();
        let (mut one, mut two) = (
            Box::pin(asker.ask("/a".into())),
            Box::pin(asker.ask("/a".into())),
        );
        let mut other = Box::pin(asker.ask("/b".into()));
        let names = questions.next().await;
        assert_eq!(names.subscribe, ["/a", "/b"]);
        questions.heard(&removed("/a"));
        assert!(!ready(&mut one).await, "its state is not shown yet");
        questions.shown();
        assert!(ready(&mut one).await && ready(&mut two).await);
        assert!(!ready(&mut other).await);
        questions.heard(&known("/b"));
        questions.shown();
        assert!(ready(other).await);
        // What is over is left with the next question, unless it is asked again.
        let _again = asker.ask("/a".into());
        let next = Names {
            subscribe: vec!["/a".into()],
            unsubscribe: vec!["/b".into()],
        };
        let _kept = asker.ask("/a".into());
        assert_eq!(questions.next().await, next);
    }

    #[tokio::test]
    async fn a_complete_state_answers_everything_asked_before() {
        let (asker, mut questions) = questions();
        let one = Box::pin(asker.ask("/a".into()));
        questions.next().await;
        questions.all_shown();
        assert!(ready(one).await);
    }

    #[tokio::test]
    async fn a_scan_is_asked_in_part_and_those_who_gave_up_make_room() {
        let (asker, mut questions) = questions();
        let scan: Vec<_> = (0..QUEUE_MAX + 10)
            .map(|number| Box::pin(asker.ask(format!("/{number}"))))
            .collect();
        assert_eq!(questions.next().await.subscribe.len(), OPEN_MAX);
        drop(scan);
        // One of them again: its question may have been lost.
        let _again = asker.ask("/0".into());
        assert_eq!(questions.next().await.subscribe, ["/0"]);
        let _one = asker.ask("/late".into());
        let names = questions.next().await;
        assert_eq!(names.subscribe, ["/late"]);
        assert_eq!(names.unsubscribe.len(), OPEN_MAX - 1);
        // Nobody can ask any more.
        drop(asker);
        assert!(!ready(questions.next()).await);
    }
}
