//! Rotation against an authority that is slow, absent or unwilling, in paused time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, advance, sleep, timeout};
use weft_runtime::{Clock as _, Shutdown};
use weft_types::SpiffeId;

use super::{
    Identities, IdentitiesOptions, IdentityEvents, IdentityState, Lease, REFUSALS_PATIENT, Unready,
};
use crate::authority::{Authority, AuthorityOptions};
use crate::ca::{CaError, CertificateSource, Signed};
use crate::credentials::Credentials;
use crate::testing::{HOUR, PausedClock, WEB, id};

const DAY: Duration = Duration::from_hours(24);
const MINUTE: Duration = Duration::from_mins(1);
const DB: &str = "spiffe://cluster.local/ns/default/sa/db";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Fine,
    Away,
    Silent,
    Unwilling,
    /// Signs for somebody else.
    Confused,
}

#[derive(Debug)]
struct MockCa {
    authority: Authority,
    latency: Duration,
    mood: Mutex<Mood>,
    calls: Mutex<Vec<(SpiffeId, Instant)>>,
}

impl MockCa {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    fn order(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let account = |(identity, _): &(SpiffeId, Instant)| identity.service_account().to_owned();
        calls.iter().map(account).collect()
    }
}

impl CertificateSource for MockCa {
    fn sign<'a>(&'a self, identity: &'a SpiffeId, csr: String, ttl: Duration) -> Signed<'a> {
        Box::pin(async move {
            self.calls
                .lock()
                .unwrap()
                .push((identity.clone(), Instant::now()));
            sleep(self.latency).await;
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::Fine => Ok(self.authority.sign(&csr, identity, ttl).unwrap()),
                Mood::Away => Err(CaError::Unavailable("connection refused".to_owned())),
                Mood::Silent => std::future::pending().await,
                Mood::Unwilling => Err(CaError::Refused {
                    identity: identity.clone(),
                    reason: "no pod here".to_owned(),
                }),
                Mood::Confused => {
                    let other = id(DB);
                    let csr = crate::PrivateKey::generate().unwrap().request(&other);
                    Ok(self.authority.sign(&csr.unwrap(), &other, ttl).unwrap())
                }
            }
        })
    }
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl IdentityEvents for Recorder {
    fn issued(&self, credentials: &Credentials, _took: Duration) {
        let name = credentials.identity().service_account();
        self.0.lock().unwrap().push(format!("issued {name}"));
    }

    fn failed(&self, identity: &SpiffeId, _error: &CaError, _pause: Duration) {
        let name = identity.service_account();
        self.0.lock().unwrap().push(format!("failed {name}"));
    }

    fn expired(&self, identity: &SpiffeId) {
        let name = identity.service_account();
        self.0.lock().unwrap().push(format!("expired {name}"));
    }
}

struct Bench {
    ca: Arc<MockCa>,
    clock: Arc<PausedClock>,
    events: Arc<Recorder>,
    identities: Identities,
    driver: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Bench {
    fn new(options: IdentitiesOptions, latency: Duration) -> Self {
        let clock = PausedClock::start();
        let folder = tempfile::tempdir().unwrap();
        let domain = id(WEB).trust_domain().clone();
        let bounds = AuthorityOptions::default();
        let authority = Authority::load_or_create(folder.path(), domain, bounds, clock.clone());
        let ca = Arc::new(MockCa {
            authority: authority.unwrap(),
            latency,
            mood: Mutex::new(Mood::Fine),
            calls: Mutex::default(),
        });
        let events = Arc::new(Recorder::default());
        let (identities, driver) =
            Identities::new(options, ca.clone(), clock.clone(), events.clone());
        Self {
            ca,
            clock,
            events,
            identities,
            driver: weft_runtime::spawn(&Shutdown::new(), "identities", driver),
            _folder: folder,
        }
    }

    fn state(&self) -> IdentityState {
        self.identities.list()[0].state
    }

    async fn ready(&self) -> Lease {
        let lease = self.identities.ensure(&id(WEB));
        self.identities.credentials(&id(WEB)).await.unwrap();
        lease
    }
}

fn bench() -> Bench {
    Bench::new(IdentitiesOptions::default(), Duration::from_millis(5))
}

#[tokio::test(start_paused = true)]
async fn an_enrolled_pod_has_its_certificate_before_it_needs_it() {
    let bench = bench();
    let _lease = bench.identities.ensure(&id(WEB));
    assert!(bench.identities.current(&id(WEB)).is_none());
    sleep(Duration::from_secs(1)).await;
    let credentials = bench.identities.current(&id(WEB)).unwrap();
    assert_eq!(credentials.identity(), &id(WEB));
    assert_eq!(bench.state(), IdentityState::Available);
    assert_eq!(bench.events.take(), ["issued web"]);
}

#[tokio::test(start_paused = true)]
async fn pods_of_one_identity_share_one_key_until_the_last_leaves() {
    let bench = bench();
    let first = bench.ready().await;
    let second = bench.identities.ensure(&id(WEB));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.ca.calls(), 1);
    assert_eq!(bench.identities.list()[0].leases, 2);
    drop(first);
    assert!(bench.identities.current(&id(WEB)).is_some());
    drop(second);
    assert!(bench.identities.list().is_empty());
    let gone = bench.identities.credentials(&id(WEB)).await;
    assert_eq!(gone.unwrap_err(), Unready::NotHeld(id(WEB)));
    sleep(2 * DAY).await;
    assert_eq!(bench.ca.calls(), 1, "nobody renews what nobody holds");
}

#[tokio::test(start_paused = true)]
async fn an_identity_left_and_claimed_again_at_once_gets_a_new_certificate() {
    let bench = bench();
    drop(bench.ready().await);
    // The driver hears of the end only after the new claim.
    let _lease = bench.identities.ensure(&id(WEB));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.state(), IdentityState::Available);
}

#[tokio::test(start_paused = true)]
async fn an_imported_identity_forgotten_before_its_pod_came_is_asked_for_again() {
    let former = bench();
    let _lease = former.ready().await;
    let bench = bench();
    assert_eq!(
        bench
            .identities
            .import(&former.identities.export())
            .unwrap(),
        1
    );
    sleep(Duration::from_secs(1)).await;
    bench.identities.forget_unclaimed();
    let _lease = bench.identities.ensure(&id(WEB));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.state(), IdentityState::Available);
}

#[tokio::test(start_paused = true)]
async fn it_renews_at_half_life_with_a_new_key_and_never_goes_without() {
    let bench = bench();
    let _lease = bench.ready().await;
    let first = bench.identities.current(&id(WEB)).unwrap();
    sleep(DAY.mul_f64(0.44)).await;
    assert_eq!(bench.ca.calls(), 1, "not before its time");
    sleep(DAY.mul_f64(0.12)).await;
    assert_eq!(bench.ca.calls(), 2);
    let second = bench.identities.current(&id(WEB)).unwrap();
    assert_ne!(first.serial(), second.serial());
    assert_ne!(first.key().public_point(), second.key().public_point());
    for _ in 0..200 {
        sleep(HOUR).await;
        assert!(bench.identities.current(&id(WEB)).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn another_lifetime_is_asked_for_from_now_on_and_a_shorter_one_soon() {
    let bench = bench();
    let _lease = bench.ready().await;
    bench.identities.set_ttl(2 * DAY);
    sleep(HOUR).await;
    assert_eq!(bench.ca.calls(), 1, "what lives shorter stays");
    bench.identities.set_ttl(HOUR);
    let replaced = async {
        while bench.ca.calls() == 1 {
            sleep(MINUTE).await;
        }
    };
    let soon = timeout(HOUR / 2 + MINUTE, replaced).await;
    soon.expect("what lives longer is replaced within half of the new lifetime");
    let current = bench.identities.current(&id(WEB)).unwrap();
    let left = current.not_after().duration_since(bench.clock.wall());
    assert!(left.clone().unwrap() <= HOUR, "{left:?}");
    // Told again, as every change of configuration does, it changes nothing: the next one comes at its own half life,
    // which is 0.45 of its lifetime at the soonest, a minute of it at most gone by.
    bench.identities.set_ttl(HOUR);
    sleep(HOUR.mul_f64(0.43)).await;
    assert_eq!(bench.ca.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn renewals_of_one_node_do_not_come_in_step() {
    let bench = bench();
    let name = |n| id(&format!("spiffe://cluster.local/ns/default/sa/web{n}"));
    let _leases: Vec<_> = (0..50).map(|n| bench.identities.ensure(&name(n))).collect();
    sleep(DAY.mul_f64(0.56)).await;
    assert_eq!(bench.ca.calls(), 100);
    let calls = bench.ca.calls.lock().unwrap();
    let renewals: Vec<_> = calls[50..].iter().map(|(_, at)| *at).collect();
    let spread = *renewals.last().unwrap() - renewals[0];
    assert!(spread > HOUR, "{spread:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_valid_serves_on_while_the_authority_is_away() {
    let bench = bench();
    let _lease = bench.ready().await;
    bench.ca.set(Mood::Away);
    sleep(DAY.mul_f64(0.9)).await;
    assert!(bench.identities.current(&id(WEB)).is_some());
    assert_eq!(bench.state(), IdentityState::Stale);
    let error = bench.identities.list()[0].last_error.clone().unwrap();
    assert!(error.contains("connection refused"), "{error}");

    let calls = bench.ca.calls();
    sleep(HOUR).await;
    let pauses = bench.ca.calls() - calls;
    assert!(
        (200..=500).contains(&pauses),
        "capped at 15 s: {pauses} in an hour"
    );

    bench.ca.set(Mood::Fine);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.state(), IdentityState::Available);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_never_used() {
    let bench = bench();
    let _lease = bench.ready().await;
    bench.ca.set(Mood::Away);
    sleep(DAY + Duration::from_secs(1)).await;
    assert!(bench.identities.current(&id(WEB)).is_none());
    assert_eq!(bench.state(), IdentityState::Pending);
    assert!(
        bench.identities.export().len() < 100,
        "nothing to hand over"
    );
    let events = bench.events.take();
    assert_eq!(
        events
            .iter()
            .filter(|event| *event == "expired web")
            .count(),
        1
    );
    let refused = bench.identities.credentials(&id(WEB)).await.unwrap_err();
    assert!(matches!(
        refused,
        Unready::Timeout {
            last: Some(CaError::Unavailable(_)),
            ..
        }
    ));

    bench.ca.set(Mood::Fine);
    bench.identities.credentials(&id(WEB)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiting_connection_is_served_before_warm_up_and_renewal() {
    let options = IdentitiesOptions {
        requests_max: 1,
        ..IdentitiesOptions::default()
    };
    let bench = Bench::new(options, Duration::from_millis(100));
    let name = |n| id(&format!("spiffe://cluster.local/ns/default/sa/warm{n}"));
    let _leases: Vec<_> = (0..20).map(|n| bench.identities.ensure(&name(n))).collect();
    let _lease = bench.identities.ensure(&id(WEB));
    sleep(Duration::from_millis(10)).await;
    bench.identities.credentials(&id(WEB)).await.unwrap();
    assert_eq!(
        bench.ca.order()[1],
        "web",
        "after the one in flight: {:?}",
        bench.ca.order()
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_bounded_and_names_what_failed_last() {
    let bench = bench();
    bench.ca.set(Mood::Away);
    let _lease = bench.identities.ensure(&id(WEB));
    let started = Instant::now();
    let error = bench.identities.credentials(&id(WEB)).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    let text = error.to_string();
    assert!(
        text.contains("sa/web") && text.contains("connection refused"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_identity_and_reason_and_later_consent_counts() {
    let bench = bench();
    bench.ca.set(Mood::Unwilling);
    let _lease = bench.identities.ensure(&id(WEB));
    let started = Instant::now();
    let error = bench.identities.credentials(&id(WEB)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Unready::Refused(_)), "{text}");
    assert!(
        text.contains("sa/web") && text.contains("no pod here"),
        "{text}"
    );
    assert!(started.elapsed() < Duration::from_secs(2), "told at once");
    assert!(bench.ca.calls() >= REFUSALS_PATIENT as usize);

    bench.ca.set(Mood::Fine);
    sleep(Duration::from_secs(16)).await;
    bench.identities.credentials(&id(WEB)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiting_connection_shortens_a_long_pause_but_does_not_hammer() {
    let bench = bench();
    bench.ca.set(Mood::Away);
    let _lease = bench.identities.ensure(&id(WEB));
    sleep(HOUR).await;
    let before = bench.ca.calls();
    for _ in 0..1000 {
        let web = id(WEB);
        let wait = bench.identities.credentials(&web);
        drop(timeout(Duration::from_millis(10), wait).await);
    }
    let asked = bench.ca.calls() - before;
    assert!(
        (5..=12).contains(&asked),
        "{asked} requests in 10 s of a thousand waits"
    );
    bench.ca.set(Mood::Fine);
    let started = Instant::now();
    bench.identities.credentials(&id(WEB)).await.unwrap();
    assert!(started.elapsed() <= Duration::from_millis(1100));
}

#[tokio::test(start_paused = true)]
async fn a_silent_authority_does_not_hold_a_request_for_ever() {
    let bench = bench();
    bench.ca.set(Mood::Silent);
    let _lease = bench.identities.ensure(&id(WEB));
    sleep(Duration::from_secs(9)).await;
    bench.ca.set(Mood::Fine);
    bench.identities.credentials(&id(WEB)).await.unwrap();
    assert_eq!(bench.events.take(), ["failed web", "issued web"]);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_not_used() {
    let bench = bench();
    bench.ca.set(Mood::Confused);
    let _lease = bench.identities.ensure(&id(WEB));
    let error = bench.identities.credentials(&id(WEB)).await.unwrap_err();
    assert!(matches!(
        error,
        Unready::Timeout {
            last: Some(CaError::Answer { .. }),
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn the_next_proxy_serves_with_the_keys_of_the_last_one() {
    let old = bench();
    let _lease = old.ready().await;
    let _other = old.identities.ensure(&id(DB));
    sleep(HOUR).await;
    let bytes = old.identities.export();

    let new = Bench::new(IdentitiesOptions::default(), Duration::from_millis(5));
    new.ca.set(Mood::Away);
    assert_eq!(new.identities.import(&bytes).unwrap(), 2);
    let lease = new.identities.ensure(&id(WEB));
    let (before, after) = (
        old.identities.current(&id(WEB)),
        new.identities.current(&id(WEB)),
    );
    assert_eq!(before.unwrap().serial(), after.unwrap().serial());
    assert_eq!(new.ca.calls(), 0, "nothing to ask for yet");

    new.identities.forget_unclaimed();
    assert_eq!(
        new.identities.list().len(),
        1,
        "no pod claimed the other one"
    );
    drop(lease);
    assert!(new.identities.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_over_is_renewed_at_half_of_its_own_life() {
    let old = bench();
    let lease = old.ready().await;
    sleep(DAY.mul_f64(0.3)).await;
    let bytes = old.identities.export();
    drop(lease);
    let ca = old.ca.clone();
    let (new, driver) = Identities::new(
        IdentitiesOptions::default(),
        ca.clone(),
        old.clock.clone(),
        Arc::new(()),
    );
    let _driver = weft_runtime::spawn(&Shutdown::new(), "identities", driver);
    new.import(&bytes).unwrap();
    let _lease = new.ensure(&id(WEB));
    sleep(DAY.mul_f64(0.1)).await;
    assert_eq!(ca.calls(), 1);
    sleep(DAY.mul_f64(0.2)).await;
    assert_eq!(ca.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_key_set_are_announced() {
    let bench = bench();
    let mut changes = bench.identities.changes();
    let lease = bench.ready().await;
    changes.changed().await.unwrap();
    drop(lease);
    changes.changed().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_driver_ends_with_the_last_handle() {
    let bench = bench();
    let lease = bench.ready().await;
    drop(bench.identities);
    drop(lease);
    timeout(Duration::from_mins(2), bench.driver)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_leaves_during_its_request_leaves_nothing_behind() {
    let bench = Bench::new(IdentitiesOptions::default(), Duration::from_secs(1));
    let lease = bench.identities.ensure(&id(WEB));
    sleep(Duration::from_millis(500)).await;
    drop(lease);
    sleep(DAY).await;
    assert!(bench.identities.list().is_empty());
    assert_eq!(bench.ca.calls(), 1);
    let _lease = bench.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_is_noticed() {
    // A suspended machine: hours pass at once.
    let bench = bench();
    let _lease = bench.ready().await;
    let before = bench.clock.wall();
    advance(DAY.mul_f64(0.8)).await;
    sleep(Duration::from_secs(1)).await;
    assert!(bench.clock.wall() > before + DAY.mul_f64(0.8));
    assert_eq!(bench.ca.calls(), 2);
}
