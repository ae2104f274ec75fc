//! The roster against hand-made words of the controller and outcomes.

use std::time::{Duration, Instant};

use weft_config::{EnrollmentSet, Origin};
use weft_node_api::PodFacts;
use weft_types::{DataplaneMode, Enrollment};

use super::{Roster, State, Step};
use crate::ids::PodIds;

fn pod(uid: &str) -> Enrollment {
    Enrollment {
        uid: uid.into(),
        name: uid.into(),
        namespace: "default".into(),
        service_account: "default".into(),
        mode: DataplaneMode::Ambient,
        terminating: false,
        addresses: vec!["10.0.0.1".parse().unwrap()],
        netns: Some(format!("/run/netns/{uid}").into()),
    }
}

fn facts() -> PodFacts {
    PodFacts {
        netns_cookie: 7,
        local_ports: (32768, 60999),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        ipv6: true,
        listener_inode: 1,
    }
}

fn set(pods: &[Enrollment]) -> EnrollmentSet {
    EnrollmentSet::of(Origin::Live, pods.iter().cloned())
}

fn roster() -> (Roster, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Roster::new(PodIds::open(dir.path())), dir)
}

#[test]
fn a_wanted_pod_is_held_once_and_captured_when_its_sockets_are_ready() {
    let (mut roster, _dir) = roster();
    let steps = roster.reconcile(&set(&[pod("a")]));
    assert!(matches!(steps.as_slice(), [Step::Hold(spec)] if spec.uid.as_str() == "a"));
    assert_eq!(roster.reconcile(&set(&[pod("a")])), vec![]);
    roster.captured(&"a".into(), facts());
    assert_eq!(roster.pods()[&"a".into()].state, State::Enrolled(facts()));
}

#[test]
fn a_pod_whose_mode_flips_is_released_and_joins_again_under_a_new_number() {
    let (mut roster, _dir) = roster();
    roster.reconcile(&set(&[pod("a")]));
    let id = roster.id_of(&"a".into()).unwrap();
    let mut off = pod("a");
    off.mode = DataplaneMode::None;
    let steps = roster.reconcile(&set(&[off]));
    assert_eq!(
        steps,
        vec![Step::Release {
            uid: "a".into(),
            id
        }]
    );
    roster.reconcile(&set(&[pod("a")]));
    assert_ne!(roster.id_of(&"a".into()), Some(id));
}

#[test]
fn a_refused_pod_is_tried_again_at_its_time_and_not_before() {
    let (mut roster, _dir) = roster();
    let now = Instant::now();
    roster.reconcile(&set(&[pod("a")]));
    roster.failed(&"a".into(), "address missing".into(), now);
    let at = roster.next_retry().unwrap();
    assert!(at > now && at <= now + super::RETRY_MAX);
    assert_eq!(roster.due(now), vec![]);
    assert!(matches!(roster.due(at).as_slice(), [Step::Hold(_)]));
    assert_eq!(roster.next_retry(), None);
}

#[test]
fn a_pod_without_a_known_namespace_waits_for_the_controller_alone() {
    let (mut roster, _dir) = roster();
    let mut early = pod("a");
    early.netns = None;
    assert_eq!(roster.reconcile(&set(&[early])), vec![]);
    assert_eq!(roster.next_retry(), None);
    assert!(matches!(
        roster.reconcile(&set(&[pod("a")])).as_slice(),
        [Step::Hold(_)]
    ));
}

#[test]
fn a_deleted_namespace_is_forgotten_and_the_pod_tried_again() {
    let (mut roster, _dir) = roster();
    let now = Instant::now();
    roster.reconcile(&set(&[pod("a")]));
    let id = roster.id_of(&"a".into()).unwrap();
    roster.captured(&"a".into(), facts());
    assert_eq!(
        roster.netns_gone(&"a".into(), now),
        Some(Step::Forget { id })
    );
    assert!(matches!(
        roster.due(now + Duration::from_mins(1)).as_slice(),
        [Step::Hold(_)]
    ));
}

#[test]
fn a_change_that_moves_nothing_keeps_the_pod_as_it_is() {
    let (mut roster, _dir) = roster();
    roster.reconcile(&set(&[pod("a")]));
    roster.captured(&"a".into(), facts());
    let mut ending = pod("a");
    ending.terminating = true;
    assert_eq!(roster.reconcile(&set(&[ending])), vec![]);
    assert_eq!(roster.pods()[&"a".into()].state, State::Enrolled(facts()));
}
