//! The client against a controller whose every word the test chooses, over real TLS.

mod ask;
mod disk;
mod scale;
mod server;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tonic::Status;
use weft_proto::Any;
use weft_proto::convert::{enrollment, policy, settings};
use weft_proto::resource::{ADDRESS, AUTHORIZATION, ENROLLMENT, SETTINGS, SETTINGS_NAME, pack};
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, Resource};
use weft_proto::wire::workload::{Address, Workload, address::Type};
use weft_runtime::Shutdown;
use weft_types::{
    Action, AuthorizationPolicy, DataplaneMode, Enrollment, MeshSettings, OutboundMode, PolicyName,
    Scope, WorkloadUid,
};

use crate::{
    ConfigSettings, Connection, EnrollmentChange, EnrollmentSet, Enrollments, Origin, PolicyEntry,
    ProxyConfig, Snapshot,
};

use server::{Authority, FakeController, Stream, resource};

/// Ten times what a loaded machine needs.
const LIMIT: Duration = Duration::from_secs(30);

/// A client's files, and who signs the controller's certificate.
struct Fixture {
    dir: TempDir,
    authority: Authority,
    shutdown: Shutdown,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            dir: TempDir::new().unwrap(),
            authority: Authority::new(),
            shutdown: Shutdown::new(),
        };
        fixture.authority.write(&fixture.path("root.pem"));
        std::fs::write(fixture.path("token"), "secret-1\n").unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self, controller: &FakeController) -> ConfigSettings {
        let mut settings = ConfigSettings::new(
            format!("https://{}", controller.address),
            self.path("root.pem"),
            self.path("token"),
            "n1".into(),
        );
        settings.state_dir = Some(self.dir.path().to_owned());
        settings
    }

    fn start(&self, controller: &FakeController) -> ProxyConfig {
        ProxyConfig::start(self.settings(controller), &self.shutdown).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.stop();
        // The copy on disk may be written at this moment, on a thread of its own: into a folder that is being emptied.
        let end = Instant::now() + LIMIT;
        while std::fs::remove_dir_all(self.dir.path()).is_err()
            && self.dir.path().exists()
            && Instant::now() < end
        {
            std::thread::yield_now();
        }
    }
}

fn workload(name: &str, version: &str) -> Resource {
    let uid = format!("Kubernetes//Pod/default/{name}");
    let message = Workload {
        uid: uid.clone(),
        name: name.to_owned(),
        namespace: "default".to_owned(),
        canonical_revision: version.to_owned(),
        ..Workload::default()
    };
    let address = Address {
        r#type: Some(Type::Workload(message)),
    };
    resource(&uid, version, pack(ADDRESS, &address))
}

fn allow_all(name: &str, feature_level: u32) -> Resource {
    let named = PolicyName::new("default", name);
    let policy = AuthorizationPolicy {
        name: named.clone(),
        scope: Scope::Namespace,
        action: Action::Allow,
        rules: vec![weft_types::Rule::default()],
        dry_run: false,
    };
    let message = policy::to_wire(&policy, feature_level);
    resource(&named.to_string(), "p1", pack(AUTHORIZATION, &message))
}

fn registry_only() -> Resource {
    let message = settings::to_wire(&MeshSettings {
        outbound: OutboundMode::RegistryOnly,
        ..MeshSettings::default()
    });
    resource(SETTINGS_NAME, "s1", pack(SETTINGS, &message))
}

fn garbage(url: &str, name: &str) -> Resource {
    let any = Any {
        type_url: url.to_owned(),
        value: vec![0xff; 7],
    };
    resource(name, "g1", any)
}

async fn until<T>(config: &ProxyConfig, look: impl FnMut(&Snapshot) -> Option<T>) -> T {
    config
        .wait_for(LIMIT, look)
        .await
        .expect("the state arrives")
}

fn revision_of(snapshot: &Snapshot, name: &str) -> Option<String> {
    let workload = snapshot.workload_by_pod("default", name)?;
    Some(workload.canonical_revision.to_string())
}

/// Serves a first complete state: workloads `a` and `b`, no policies, settings.
async fn serve_first(stream: &mut Stream) -> Vec<DeltaDiscoveryRequest> {
    let subscriptions = stream.subscriptions(3).await;
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    stream.push(SETTINGS, vec![registry_only()], &[]).await;
    stream
        .push(ADDRESS, vec![workload("a", "1"), workload("b", "1")], &[])
        .await;
    subscriptions
}

fn versions(requests: &[DeltaDiscoveryRequest], url: &str) -> Vec<(String, String)> {
    let request = requests.iter().find(|request| request.type_url == url);
    let versions = &request
        .expect("the type is subscribed to")
        .initial_resource_versions;
    versions.clone().into_iter().collect()
}

#[tokio::test]
async fn a_state_is_shown_once_every_required_type_has_been_answered() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    assert_eq!(stream.token, "Bearer secret-1");
    for request in stream.subscriptions(3).await {
        assert!(request.resource_names_subscribe.is_empty(), "wildcard");
        let node = request.node.expect("the first request says who asks");
        assert!(node.id.starts_with("ztunnel~"), "{}", node.id);
    }
    stream.push(ADDRESS, vec![workload("a", "1")], &[]).await;
    assert_eq!(config.snapshot().origin(), Origin::Empty);
    assert!(config.snapshot().workload_by_pod("default", "a").is_none());
    stream.push(SETTINGS, vec![registry_only()], &[]).await;
    let ack = stream
        .push(AUTHORIZATION, vec![allow_all("p", 1)], &[])
        .await;
    assert!(ack.error_detail.is_none());

    tokio::time::timeout(LIMIT, config.synced()).await.unwrap();
    let snapshot = config.snapshot();
    assert_eq!(snapshot.settings().outbound, OutboundMode::RegistryOnly);
    let a = snapshot.workload_by_pod("default", "a").unwrap();
    assert_eq!(snapshot.policies_for(a).policies.len(), 1);
    let status = config.status();
    assert_eq!(status.connection, Connection::Synced);
    assert_eq!(status.types.len(), 3);
    let addresses = status.types[ADDRESS];
    assert!(addresses.responses == 1 && addresses.bytes > 10);

    stream
        .push(ADDRESS, Vec::new(), &["Kubernetes//Pod/default/a"])
        .await;
    until(&config, |snapshot| {
        revision_of(snapshot, "a").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_state_in_parts_is_shown_after_the_last_part() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    stream.subscriptions(3).await;
    stream.push(SETTINGS, vec![registry_only()], &[]).await;
    stream.push(ADDRESS, vec![workload("a", "1")], &[]).await;
    stream
        .push_part(AUTHORIZATION, vec![allow_all("p", 1)])
        .await;
    assert_eq!(config.snapshot().origin(), Origin::Empty);
    stream
        .push(AUTHORIZATION, vec![allow_all("q", 1)], &[])
        .await;
    until(&config, |snapshot| {
        (snapshot.policies().len() == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_nack_names_the_resource_and_costs_only_that() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;

    let name = "Kubernetes//Pod/default/a";
    let response = vec![
        garbage(ADDRESS, name),
        workload("b", "2"),
        workload("c", "1"),
    ];
    let nack = stream.push(ADDRESS, response, &[]).await;
    let detail = nack.error_detail.expect("the response was refused in part");
    assert!(detail.message.contains(name), "{}", detail.message);
    until(&config, |snapshot| revision_of(snapshot, "c")).await;
    let snapshot = config.snapshot();
    assert_eq!(
        revision_of(&snapshot, "a").unwrap(),
        "1",
        "the previous good one stays"
    );
    assert_eq!(revision_of(&snapshot, "b").unwrap(), "2");
    assert!(config.status().rejected.contains_key(name));
    assert_eq!(config.status().nacks, 1);

    // A new stream asks for it again, and names it so that its removal can be told.
    drop(stream);
    let mut stream = controller.stream().await;
    let ends: u64 = config.status().terminations.values().sum();
    assert_eq!(ends, 1, "the end of a stream is counted");
    let requests = stream.subscriptions(3).await;
    let held = versions(&requests, ADDRESS);
    assert!(held.contains(&(name.to_owned(), String::new())));
    assert!(held.contains(&("Kubernetes//Pod/default/b".to_owned(), "2".to_owned())));
    stream.push(ADDRESS, vec![workload("a", "3")], &[]).await;
    until(&config, |snapshot| {
        (revision_of(snapshot, "a")? == "3").then_some(())
    })
    .await;
    assert!(config.status().rejected.is_empty());
}

#[tokio::test]
async fn a_policy_that_is_not_understood_refuses_until_it_is() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    let broken = |snapshot: &Snapshot| {
        let a = snapshot.workload_by_pod("default", "a")?;
        Some(snapshot.policies_for(a).broken.len())
    };

    // Of a newer feature level, good before; then such that not even its scope can be read.
    stream
        .push(AUTHORIZATION, vec![allow_all("p", 1)], &[])
        .await;
    for bad in [allow_all("p", 99), garbage(AUTHORIZATION, "default/p")] {
        let nack = stream.push(AUTHORIZATION, vec![bad], &[]).await;
        assert!(nack.error_detail.unwrap().message.contains("default/p"));
        until(&config, |snapshot| (broken(snapshot)? == 1).then_some(())).await;
    }
    let name = PolicyName::new("default", "p");
    let scope = config.snapshot().policy(&name).map(PolicyEntry::scope);
    assert_eq!(
        scope,
        Some(Scope::Namespace),
        "what it applied to, it still applies to"
    );

    let ack = stream
        .push(AUTHORIZATION, vec![allow_all("p", 1)], &[])
        .await;
    assert!(ack.error_detail.is_none());
    until(&config, |snapshot| (broken(snapshot)? == 0).then_some(())).await;

    // Never seen before, and not even its scope can be read: it might be about everyone.
    stream
        .push(AUTHORIZATION, vec![garbage(AUTHORIZATION, "other/q")], &[])
        .await;
    until(&config, |snapshot| (broken(snapshot)? == 1).then_some(())).await;
    stream.push(AUTHORIZATION, Vec::new(), &["other/q"]).await;
    until(&config, |snapshot| (broken(snapshot)? == 0).then_some(())).await;
}

#[tokio::test]
async fn a_reconnect_names_what_is_held_and_carries_the_new_token() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    std::fs::write(fixture.path("token"), "secret-2").unwrap();
    stream.fail(Status::unavailable("moving on")).await;

    let mut stream = controller.stream().await;
    assert_eq!(stream.token, "Bearer secret-2");
    let requests = stream.subscriptions(3).await;
    let held = |name: &str| (format!("Kubernetes//Pod/default/{name}"), "1".to_owned());
    assert_eq!(versions(&requests, ADDRESS), [held("a"), held("b")]);
    assert_eq!(
        versions(&requests, SETTINGS),
        [("mesh".to_owned(), "s1".to_owned())]
    );
    // Served all along.
    assert_eq!(config.snapshot().workloads().len(), 2);
    assert!(config.status().last_error.unwrap().contains("moving on"));
    stream.push(ADDRESS, Vec::new(), &[&held("b").0]).await;
    until(&config, |snapshot| {
        (snapshot.workloads().len() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_knows_only_istios_types_is_enough() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    stream.subscriptions(3).await;
    stream.fail(Status::invalid_argument("unknown type")).await;
    let mut stream = controller.stream().await;
    let requests = stream.subscriptions(2).await;
    assert!(requests.iter().all(|request| request.type_url != SETTINGS));
    stream.push(ADDRESS, vec![workload("a", "1")], &[]).await;
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    tokio::time::timeout(LIMIT, config.synced()).await.unwrap();
    assert!(!config.snapshot().settings_known());
}

#[tokio::test]
async fn a_server_that_never_answers_an_unknown_type_is_enough() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    stream.subscriptions(3).await;
    stream.push(ADDRESS, vec![workload("a", "1")], &[]).await;
    stream.push(AUTHORIZATION, Vec::new(), &[]).await;
    tokio::time::timeout(LIMIT, config.synced()).await.unwrap();
    assert_eq!(
        config.snapshot().settings().outbound,
        OutboundMode::AllowAny
    );
}

#[tokio::test]
async fn new_roots_take_effect_on_a_running_client() {
    let mut fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    let address = controller.address;
    drop(stream);
    controller.stop().await;

    fixture.authority = Authority::new();
    let mut controller = FakeController::start_at(&fixture.authority, address).await;
    // Signed by nobody whom the file names: no stream.
    let mut changes = config.clone().changed();
    wait_for_error(&config, "certificate").await;
    assert!(!changes.has_changed().unwrap() || config.snapshot().origin() == Origin::Live);
    changes.mark_unchanged();
    fixture.authority.write(&fixture.path("root.pem"));
    controller.stream().await;
}

#[tokio::test]
async fn an_open_stream_is_opened_again_when_the_roots_change() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let _config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    let both = format!("{}{}", fixture.authority.pem, Authority::new().pem);
    std::fs::write(fixture.path("root.pem"), both).unwrap();
    let mut again = controller.stream().await;
    assert_eq!(again.subscriptions(3).await.len(), 3);
}

#[tokio::test]
async fn unusable_files_are_named_and_waited_for() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    std::fs::remove_file(fixture.path("token")).unwrap();
    std::fs::write(fixture.path("root.pem"), "no certificate").unwrap();
    let config = fixture.start(&controller);
    wait_for_error(&config, "root.pem").await;
    fixture.authority.write(&fixture.path("root.pem"));
    wait_for_error(&config, "token").await;
    std::fs::write(fixture.path("token"), "late").unwrap();
    assert_eq!(controller.stream().await.token, "Bearer late");
}

#[tokio::test]
async fn a_controller_that_is_away_from_the_start_is_tried_with_growing_pauses() {
    let fixture = Fixture::new();
    // Nobody listens any more when the listener is gone.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let settings = ConfigSettings::new(
        format!("https://{address}"),
        fixture.path("root.pem"),
        fixture.path("token"),
        "n1".into(),
    );
    let started = Instant::now();
    let config = ProxyConfig::start(settings, &fixture.shutdown).unwrap();
    let tries = 7;
    tokio::time::timeout(LIMIT, async {
        while config.status().terminations.values().sum::<u64>() < tries {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    // Every pause is at least half of a step that doubles.
    let least: Duration = (1..tries)
        .map(|number| super::BACKOFF_MIN * (1 << (number - 1)) / 2)
        .sum();
    assert!(started.elapsed() >= least, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_type_that_was_not_asked_for_is_refused() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let _config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    let nack = stream.push(ENROLLMENT, Vec::new(), &[]).await;
    assert!(nack.error_detail.unwrap().message.contains(ENROLLMENT));
}

#[tokio::test]
async fn a_resource_under_another_name_is_refused() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let config = fixture.start(&controller);
    let mut stream = controller.stream().await;
    serve_first(&mut stream).await;
    let mut other = workload("c", "1");
    other.name = "Kubernetes//Pod/default/d".to_owned();
    let nack = stream.push(ADDRESS, vec![other], &[]).await;
    assert!(nack.error_detail.unwrap().message.contains("default/d"));
    let uid = WorkloadUid::of_pod("Kubernetes", "default", "c");
    assert!(config.snapshot().workload(&uid).is_none());
}

#[tokio::test]
async fn an_agent_sees_which_pods_came_and_went() {
    let fixture = Fixture::new();
    let mut controller = FakeController::start(&fixture.authority).await;
    let settings = fixture.settings(&controller);
    let enrollments = Enrollments::start(settings, &fixture.shutdown).unwrap();
    let mut changes = enrollments.changed();
    let mut stream = controller.stream().await;
    assert_eq!(stream.subscriptions(1).await[0].type_url, ENROLLMENT);
    let pod = |uid: &str, terminating| Enrollment {
        uid: uid.into(),
        name: "a".into(),
        namespace: "default".into(),
        service_account: "sa".into(),
        mode: DataplaneMode::Ambient,
        terminating,
        addresses: Vec::new(),
        netns: None,
    };
    let sent = |pod: &Enrollment| {
        let message = pack(ENROLLMENT, &enrollment::to_wire(pod));
        resource(pod.uid.as_str(), "1", message)
    };
    let (one, two) = (pod("one", false), pod("two", false));
    stream
        .push(ENROLLMENT, vec![sent(&one), sent(&two)], &[])
        .await;
    tokio::time::timeout(
        LIMIT,
        changes.wait_for(|_| enrollments.current().len() == 2),
    )
    .await
    .unwrap()
    .unwrap();
    let first = enrollments.current();
    assert_eq!(first.origin(), Origin::Live);
    assert_eq!(first.changes_since(&EnrollmentSet::default()).len(), 2);

    let leaving = pod("two", true);
    stream
        .push(ENROLLMENT, vec![sent(&leaving)], &["one"])
        .await;
    tokio::time::timeout(
        LIMIT,
        changes.wait_for(|_| enrollments.current().len() == 1),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(
        enrollments.current().changes_since(&first),
        [
            EnrollmentChange::Removed(one.into()),
            EnrollmentChange::Put(leaving.into())
        ]
    );
}

/// There is no event for a failure, so this looks until the limit.
async fn wait_for_error(config: &ProxyConfig, text: &str) {
    let look = async {
        loop {
            let error = config.status().last_error.unwrap_or_default();
            if error.contains(text) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(LIMIT, look).await;
    assert!(
        found.is_ok(),
        "no error with {text:?}: {:?}",
        config.status()
    );
}
