//! One record for each connection, whatever becomes of it.

use std::io::Write;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use weft_telemetry::{AccessFormat, AccessLog, Direction};
use weft_types::PolicyName;

use super::{Connections, FirstEnd, Judgement, Telemetry};
use crate::failure::{Denial, Failure};

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn set_up() -> (Rc<Connections<u32>>, AccessLog, Out) {
    let out = Out::default();
    let access = AccessLog::to(out.clone(), AccessFormat::Text);
    let telemetry = Telemetry {
        metrics: Arc::default(),
        access: access.clone(),
    };
    (Connections::new(telemetry), access, out)
}

fn lines(access: &AccessLog, out: &Out) -> Vec<String> {
    access.flush(Duration::from_secs(30));
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn every_connection_is_recorded_once_also_when_its_task_is_dropped() {
    let (connections, access, out) = set_up();
    let begin = || {
        connections.begin(
            &"pod".into(),
            Direction::Outbound,
            FirstEnd::Client,
            Rc::default(),
        )
    };
    begin().end(Ok(()));
    begin().end(Err(Failure::NotCaptured));
    let third = begin();
    third.opened();
    drop(third);
    assert_eq!(connections.len(), 0);
    let lines = lines(&access, &out);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains(" info ") && !lines[0].contains("error="));
    assert!(lines[1].contains("response_flags=\"CONNECT\""));
    assert!(lines[2].contains("the proxy stopped"));
}

#[tokio::test]
async fn a_later_refusal_reaches_exactly_the_connection_that_it_judges() {
    let (connections, _, _) = set_up();
    let one = connections.begin(
        &"pod".into(),
        Direction::Inbound,
        FirstEnd::Server,
        Rc::default(),
    );
    let two = connections.begin(
        &"pod".into(),
        Direction::Inbound,
        FirstEnd::Server,
        Rc::default(),
    );
    one.granted(1);
    two.granted(2);
    let denial = Denial::ByPolicy(PolicyName::new("default", "no"));
    let judge = |grant: &u32| match grant {
        1 => Judgement::Cut(denial.clone()),
        _ => Judgement::Keep,
    };
    assert_eq!(connections.judge(Instant::now(), judge), None);
    let failure = tokio::time::timeout(Duration::from_secs(30), one.cut())
        .await
        .unwrap();
    assert!(matches!(failure, Failure::Cut(reason) if *reason == denial));
    let untouched = tokio::time::timeout(Duration::ZERO, two.cut()).await;
    assert!(untouched.is_err());
}

#[test]
fn bytes_are_named_by_role_not_by_end() {
    let (connections, _, _) = set_up();
    let server_first = connections.begin(
        &"pod".into(),
        Direction::Inbound,
        FirstEnd::Server,
        Rc::default(),
    );
    server_first.learn(|facts| facts.hbone_target = Some("10.0.0.1:80".to_owned()));
    let list = connections.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].direction, "inbound");
    assert_eq!(list[0].target.as_deref(), Some("10.0.0.1:80"));
    assert!(!list[0].open);
    server_first.opened();
    assert!(connections.list()[0].open);
}

#[tokio::test]
async fn a_connection_that_cannot_be_judged_is_kept_for_a_bounded_time() {
    let (connections, _, _) = set_up();
    let one = connections.begin(
        &"pod".into(),
        Direction::Inbound,
        FirstEnd::Server,
        Rc::default(),
    );
    one.granted(1);
    let missing = Denial::MissingPolicy(PolicyName::new("default", "late"));
    let hold = |_: &u32| Judgement::Hold(missing.clone());
    let start = Instant::now();
    let until = connections.judge(start, hold).unwrap();
    assert!(until > start);
    // What arrives in time is as if nothing had happened.
    assert_eq!(connections.judge(until, |_| Judgement::Keep), None);
    let later = connections.judge(until, hold).unwrap();
    assert!(later > until);
    let untouched = tokio::time::timeout(Duration::ZERO, one.cut()).await;
    assert!(untouched.is_err());
    assert_eq!(connections.judge(later, hold), None);
    assert!(matches!(one.cut().await, Failure::Cut(reason) if *reason == missing));
}

#[tokio::test]
async fn a_pod_that_is_gone_takes_its_own_connections_with_it() {
    let (connections, _, _) = set_up();
    let gone = connections.begin(
        &"gone".into(),
        Direction::Outbound,
        FirstEnd::Client,
        Rc::default(),
    );
    let other = connections.begin(
        &"other".into(),
        Direction::Outbound,
        FirstEnd::Client,
        Rc::default(),
    );
    connections.cut_pod(&"gone".into());
    assert!(matches!(gone.cut().await, Failure::PodGone));
    assert!(
        tokio::time::timeout(Duration::ZERO, other.cut())
            .await
            .is_err()
    );
}
