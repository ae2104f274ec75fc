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

/// The controller's word, at a time that plays no part.
fn word(roster: &mut Roster, set: &EnrollmentSet) -> Vec<Step> {
    roster.reconcile(set, Instant::now())
}

fn roster() -> (Roster, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Roster::new(PodIds::open(dir.path())), dir)
}

#[test]
fn a_wanted_pod_is_held_once_and_captured_when_its_sockets_are_ready() {
    let (mut roster, _dir) = roster();
    let steps = word(&mut roster, &set(&[pod("a")]));
    assert!(matches!(steps.as_slice(), [Step::Hold(spec)] if spec.uid.as_str() == "a"));
    assert_eq!(word(&mut roster, &set(&[pod("a")])), vec![]);
    roster.captured(&"a".into(), facts());
    assert_eq!(roster.pods()[&"a".into()].state, State::Enrolled(facts()));
}

#[test]
fn a_pod_that_leaves_before_it_was_captured_goes_at_once_and_joins_again_under_a_new_number() {
    let (mut roster, _dir) = roster();
    word(&mut roster, &set(&[pod("a")]));
    let id = roster.id_of(&"a".into()).unwrap();
    let mut off = pod("a");
    off.mode = DataplaneMode::None;
    let steps = word(&mut roster, &set(&[off]));
    assert_eq!(
        steps,
        vec![Step::Release {
            uid: "a".into(),
            id
        }]
    );
    word(&mut roster, &set(&[pod("a")]));
    assert_ne!(roster.id_of(&"a".into()), Some(id));
}

#[test]
fn a_captured_pod_that_leaves_is_reached_through_tunnels_for_a_while_and_then_goes() {
    let (mut roster, _dir) = roster();
    let now = Instant::now();
    word(&mut roster, &set(&[pod("a")]));
    let id = roster.id_of(&"a".into()).unwrap();
    roster.captured(&"a".into(), facts());
    let uid = || "a".into();
    let steps = roster.reconcile(&set(&[]), now);
    assert_eq!(steps, vec![Step::Loosen { uid: uid(), id }]);
    assert!(roster.pods().is_empty() && roster.knows(&uid()));
    assert_eq!(roster.known_ids(), vec![id]);
    // The same word again neither hastens nor delays it.
    assert_eq!(
        roster.reconcile(&set(&[]), now + Duration::from_secs(1)),
        vec![]
    );
    assert_eq!(roster.next_due(), Some(now + super::LINGER));
    assert_eq!(roster.due(now), vec![]);
    let steps = roster.due(now + super::LINGER);
    assert_eq!(steps, vec![Step::Release { uid: uid(), id }]);
    assert!(!roster.knows(&uid()) && roster.next_due().is_none());
    word(&mut roster, &set(&[pod("a")]));
    assert_ne!(roster.id_of(&uid()), Some(id));
}

#[test]
fn a_pod_that_joins_again_while_it_leaves_stays_as_it_was() {
    let (mut roster, _dir) = roster();
    word(&mut roster, &set(&[pod("a")]));
    let id = roster.id_of(&"a".into());
    roster.captured(&"a".into(), facts());
    word(&mut roster, &set(&[]));
    let steps = word(&mut roster, &set(&[pod("a")]));
    assert_eq!(steps, vec![Step::Stay("a".into())]);
    assert_eq!((roster.id_of(&"a".into()), roster.next_due()), (id, None));
    assert!(!roster.all_enrolled(), "not before it is captured again");
    roster.captured(&"a".into(), facts());
    // In another place it has to be held anew, and keeps its number all the same.
    word(&mut roster, &set(&[]));
    let mut moved = pod("a");
    moved.netns = Some("/run/netns/other".into());
    let steps = word(&mut roster, &set(&[moved]));
    assert!(matches!(steps.as_slice(), [Step::Hold(spec)] if Some(spec.id) == id));
}

#[test]
fn a_pod_that_leaves_makes_room_for_another_in_its_namespace_at_once() {
    let successor = || {
        let mut pod = pod("b");
        pod.netns = Some("/run/netns/a".into());
        pod
    };
    let enrolled = |roster: &mut Roster| {
        word(roster, &set(&[pod("a"), pod("c")]));
        roster.captured(&"a".into(), facts());
        roster.captured(&"c".into(), facts());
        roster.id_of(&"a".into()).unwrap()
    };
    let is_replaced = |steps: &[Step], old: u32| {
        matches!(steps, [Step::Release { uid, id }, Step::Hold(spec)]
            if uid.as_str() == "a" && *id == old && spec.uid.as_str() == "b")
    };
    // In one word, and in two.
    let (mut roster, _dir) = roster();
    let id = enrolled(&mut roster);
    let steps = word(&mut roster, &set(&[successor(), pod("c")]));
    assert!(is_replaced(&steps, id), "{steps:?}");
    assert!(!roster.knows(&"a".into()) && roster.next_due().is_none());
    let (mut roster, _dir) = self::roster();
    let id = enrolled(&mut roster);
    word(&mut roster, &set(&[pod("c")]));
    let steps = word(&mut roster, &set(&[successor(), pod("c")]));
    assert!(is_replaced(&steps, id), "{steps:?}");
    // Under a path that leads to the same place, which the holder finds out.
    let (mut roster, _dir) = self::roster();
    let id = enrolled(&mut roster);
    let steps = word(&mut roster, &set(&[pod("b"), pod("c")]));
    assert!(matches!(
        steps.as_slice(),
        [Step::Loosen { .. }, Step::Hold(_)]
    ));
    let uid = "a".into();
    assert_eq!(roster.namespace_is_taken(), vec![Step::Release { uid, id }]);
    assert_eq!(roster.namespace_is_taken(), vec![]);
}

#[test]
fn a_pod_whose_namespace_goes_while_it_leaves_is_forgotten() {
    let (mut roster, _dir) = roster();
    word(&mut roster, &set(&[pod("a")]));
    let id = roster.id_of(&"a".into()).unwrap();
    roster.captured(&"a".into(), facts());
    word(&mut roster, &set(&[]));
    let step = roster.netns_gone(&"a".into(), Instant::now());
    assert_eq!(step, Some(Step::Forget { id }));
    assert!(!roster.knows(&"a".into()) && roster.next_due().is_none());
}

#[test]
fn a_refused_pod_is_tried_again_at_its_time_and_not_before() {
    let (mut roster, _dir) = roster();
    let now = Instant::now();
    word(&mut roster, &set(&[pod("a")]));
    roster.failed(&"a".into(), "address missing".into(), now);
    let at = roster.next_due().unwrap();
    assert!(at > now && at <= now + super::RETRY_MAX);
    assert_eq!(roster.due(now), vec![]);
    assert!(matches!(roster.due(at).as_slice(), [Step::Hold(_)]));
    assert_eq!(roster.next_due(), None);
}

#[test]
fn a_pod_without_a_known_namespace_waits_for_the_controller_alone() {
    let (mut roster, _dir) = roster();
    let mut early = pod("a");
    early.netns = None;
    assert_eq!(word(&mut roster, &set(&[early])), vec![]);
    assert_eq!(roster.next_due(), None);
    assert!(matches!(
        word(&mut roster, &set(&[pod("a")])).as_slice(),
        [Step::Hold(_)]
    ));
}

#[test]
fn a_deleted_namespace_is_forgotten_and_the_pod_tried_again() {
    let (mut roster, _dir) = roster();
    let now = Instant::now();
    word(&mut roster, &set(&[pod("a")]));
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
    word(&mut roster, &set(&[pod("a")]));
    roster.captured(&"a".into(), facts());
    let mut ending = pod("a");
    ending.terminating = true;
    assert_eq!(word(&mut roster, &set(&[ending])), vec![]);
    assert_eq!(roster.pods()[&"a".into()].state, State::Enrolled(facts()));
}

#[test]
fn a_copy_on_disk_that_is_older_than_a_pod_does_not_cost_it_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = Roster::new(PodIds::open(dir.path()));
    word(&mut before, &set(&[pod("a"), pod("b")]));
    let id = before.id_of(&"b".into());
    let mut after = Roster::new(PodIds::open(dir.path()));
    word(&mut after, &EnrollmentSet::of(Origin::Disk, [pod("a")]));
    word(&mut after, &set(&[pod("a"), pod("b")]));
    assert_eq!(after.id_of(&"b".into()), id);
    // The controller's word does.
    word(&mut after, &set(&[pod("a")]));
    word(&mut after, &set(&[pod("a"), pod("b")]));
    assert_ne!(after.id_of(&"b".into()), id);
}
