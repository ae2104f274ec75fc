//! The ADS server over a real gRPC connection, with tokens and translations of the test's own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Code, Request, Status, Streaming};
use weft_proto::convert::MeshAddress;
use weft_proto::resource::{ADDRESS, AUTHORIZATION, ENROLLMENT, SETTINGS, unpack};
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status as WireStatus,
};
use weft_runtime::{Shutdown, spawn};
use weft_types::NodeName;

use super::{Ads, CallerCheck, PublishEvents, Snapshot, Subscribers};
use crate::index::Index;
use crate::source::Change;
use crate::translate::Translator;

/// Ten times what the slowest answer takes on a loaded machine.
const LONG: Duration = Duration::from_secs(20);

struct Callers {
    tokens: Mutex<HashMap<String, NodeName>>,
    changed: watch::Sender<()>,
}

impl CallerCheck for Callers {
    fn bearer(&self, metadata: &MetadataMap) -> Result<String, &'static str> {
        crate::issue::bearer(metadata).map(str::to_owned)
    }

    fn node_of(&self, token: &str) -> Option<NodeName> {
        self.tokens.lock().unwrap().get(token).cloned()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

#[derive(Default)]
struct Events;

impl PublishEvents for Events {
    fn pushed(&self, _type_url: &str) {}
    fn rejected(&self, _type_url: &str) {}
}

struct Controller {
    address: SocketAddr,
    snapshots: watch::Sender<Arc<Snapshot>>,
    callers: Arc<Callers>,
    subscribers: Subscribers,
}

impl Controller {
    /// Nodes n1 and n2 with tokens t1 and t2, and the objects of a text.
    async fn start(text: &str) -> Self {
        let shutdown = Shutdown::new();
        let tokens = [("t1", "n1"), ("t2", "n2")];
        let tokens = tokens.map(|(token, node)| (token.to_owned(), NodeName::from(node)));
        let callers = Arc::new(Callers {
            tokens: Mutex::new(tokens.into()),
            changed: watch::Sender::new(()),
        });
        let (snapshots, newest) = watch::channel(Arc::default());
        let subscribers = Subscribers::default();
        let ads = Ads {
            snapshots: newest,
            callers: callers.clone(),
            events: Arc::new(Events),
            subscribers: subscribers.clone(),
            shutdown: shutdown.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(ads.service())
            .serve_with_incoming(TcpListenerStream::new(listener));
        spawn(&shutdown, "server", server);
        let controller = Self {
            address,
            snapshots,
            callers,
            subscribers,
        };
        controller.publish(text);
        controller
    }

    fn publish(&self, text: &str) {
        let mut index = Index::default();
        for document in weft_k8s_api::parse(text).unwrap().documents {
            index.apply(Change::Put(document.object));
        }
        let mut translator = Translator::default();
        let translation = translator.translate(&index, &index.all());
        let next = self.snapshots.borrow().next(translation);
        self.snapshots.send_replace(Arc::new(next));
    }

    async fn connect(&self, token: Option<&str>) -> Result<Client, Status> {
        let url = format!("http://{}", self.address);
        let grpc = AggregatedDiscoveryServiceClient::connect(url)
            .await
            .unwrap();
        let mut grpc = grpc.max_decoding_message_size(weft_proto::resource::MESSAGE_MAX);
        let (requests, outgoing) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Some(token) = token {
            let header = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        let responses = grpc.delta_aggregated_resources(request).await?.into_inner();
        Ok(Client {
            requests,
            responses,
        })
    }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    async fn ask(&self, type_url: &str, change: impl FnOnce(&mut DeltaDiscoveryRequest)) {
        let mut request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        change(&mut request);
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = timeout(LONG, self.responses.message()).await;
        next.expect("an answer in time")
            .expect("no error")
            .expect("an open stream")
    }

    async fn error(&mut self) -> Status {
        loop {
            let next = timeout(LONG, self.responses.message()).await;
            match next.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    }
}

/// `+name` for each resource and `-name` for each removal, sorted.
fn told(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let changed = response.resources.iter().map(|r| format!("+{}", r.name));
    let removed = response
        .removed_resources
        .iter()
        .map(|name| format!("-{name}"));
    let mut told: Vec<String> = changed.chain(removed).collect();
    told.sort();
    told
}

fn pod(name: &str, node: &str, ip: &str, label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: uid-{name}, labels: {{app: web, v: {label}}}}}\nspec: {{nodeName: {node}, serviceAccountName: sa-{label}}}\nstatus: {{podIP: {ip}}}\n---\n"
    )
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.5, selector: {app: web}, ports: [{port: 80}]}\n---\n";
const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {rules: [{}]}\n---\n";
const A: &str = "Kubernetes//Pod/default/a";
const B: &str = "Kubernetes//Pod/default/b";
const WEB: &str = "default/web.default.svc.cluster.local";

#[tokio::test]
async fn a_wildcard_gets_everything_and_then_only_what_changes() {
    let a = pod("a", "n1", "10.0.0.1", "one");
    let b = pod("b", "n2", "10.0.0.2", "one");
    let controller = Controller::start(&format!("{a}{SERVICE}")).await;
    let mut client = controller.connect(Some("t1")).await.unwrap();
    client.ask(ADDRESS, |_| {}).await;
    let first = client.next().await;
    assert_eq!(told(&first), [format!("+{A}"), format!("+{WEB}")]);
    let resource = first.resources.iter().find(|r| r.name == A).unwrap();
    assert_eq!(resource.aliases, ["/10.0.0.1"]);
    let message = unpack(ADDRESS, A, resource.resource.as_ref().unwrap()).unwrap();
    assert!(matches!(
        MeshAddress::from_wire(A, &message),
        Ok(MeshAddress::Workload(_))
    ));
    controller.publish(&format!("{a}{b}{SERVICE}"));
    assert_eq!(told(&client.next().await), [format!("+{B}")]);
    controller.publish(&format!("{b}{SERVICE}"));
    assert_eq!(told(&client.next().await), [format!("-{A}")]);
    // Nothing changed: nothing is told, the next answer is about the next change.
    controller.publish(&format!("{b}{SERVICE}"));
    controller.publish(&b);
    let told_last = told(&client.next().await);
    assert_eq!(
        told_last,
        [format!("+{B}"), format!("-{WEB}")],
        "b no longer backs it"
    );
}

#[tokio::test]
async fn an_empty_type_and_an_unknown_one_are_answered_at_once() {
    let controller = Controller::start("").await;
    let mut client = controller.connect(Some("t1")).await.unwrap();
    for type_url in [
        ADDRESS,
        AUTHORIZATION,
        ENROLLMENT,
        "type.googleapis.com/of.tomorrow",
    ] {
        client.ask(type_url, |_| {}).await;
        let response = client.next().await;
        assert_eq!(response.type_url, type_url);
        assert!(told(&response).is_empty() && !response.nonce.is_empty());
    }
    client.ask(SETTINGS, |_| {}).await;
    assert_eq!(told(&client.next().await), ["+mesh"]);
}

#[tokio::test]
async fn after_a_reconnect_only_the_difference_is_sent() {
    let a = pod("a", "n1", "10.0.0.1", "one");
    let b = pod("b", "n2", "10.0.0.2", "one");
    let controller = Controller::start(&format!("{a}{b}{SERVICE}")).await;
    let mut client = controller.connect(Some("t1")).await.unwrap();
    client.ask(ADDRESS, |_| {}).await;
    let first = client.next().await;
    let versions = first.resources.into_iter().map(|r| (r.name, r.version));
    let versions: std::collections::BTreeMap<_, _> = versions.collect();
    let reconnect = async |names: &[&str]| {
        let mut client = controller.connect(Some("t1")).await.unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let versions = versions.clone();
        client
            .ask(ADDRESS, |request| {
                request.initial_resource_versions = versions;
                request.resource_names_subscribe = names;
            })
            .await;
        told(&client.next().await)
    };
    assert!(reconnect(&[]).await.is_empty());
    assert!(reconnect(&[A, B, WEB]).await.is_empty());
    let moved = pod("b", "n2", "10.0.0.9", "one");
    controller.publish(&format!("{moved}{SERVICE}"));
    assert_eq!(reconnect(&["*"]).await, [format!("+{B}"), format!("-{A}")]);
    assert_eq!(
        reconnect(&[A, B, WEB]).await,
        [format!("+{B}"), format!("-{A}")]
    );
}

#[tokio::test]
async fn on_demand_gives_what_is_asked_for_and_what_belongs_to_it() {
    let a = pod("a", "n1", "10.0.0.1", "one");
    let alone = pod("alone", "n1", "10.0.0.7", "one").replace("app: web", "app: other");
    let controller = Controller::start(&format!("{a}{alone}{SERVICE}")).await;
    let mut client = controller.connect(Some("t2")).await.unwrap();
    let subscribe = |name: &'static str| {
        move |request: &mut DeltaDiscoveryRequest| {
            request.resource_names_subscribe = vec![name.to_owned()];
        }
    };
    client
        .ask(ADDRESS, |request| {
            request.resource_names_subscribe = vec!["*".to_owned()];
            request.resource_names_unsubscribe = vec!["*".to_owned()];
        })
        .await;
    assert!(told(&client.next().await).is_empty());
    // Under the name that was asked for, which is what some clients wait for, and under its own.
    client.ask(ADDRESS, subscribe("/10.0.0.7")).await;
    assert_eq!(
        told(&client.next().await),
        ["+/10.0.0.7", "+Kubernetes//Pod/default/alone"]
    );
    client.ask(ADDRESS, subscribe("/10.96.0.5")).await;
    assert_eq!(
        told(&client.next().await),
        ["+/10.96.0.5".to_owned(), format!("+{A}"), format!("+{WEB}")]
    );
    // Unknown: told so, and told again when it comes to be.
    client.ask(ADDRESS, subscribe("/10.0.0.2")).await;
    assert_eq!(told(&client.next().await), ["-/10.0.0.2"]);
    let b = pod("b", "n1", "10.0.0.2", "one");
    controller.publish(&format!("{a}{alone}{b}{SERVICE}"));
    assert_eq!(told(&client.next().await), [format!("+{B}")]);
    // Asked for again, it is told again, although nothing changed.
    client.ask(ADDRESS, subscribe(A)).await;
    assert_eq!(told(&client.next().await), [format!("+{A}")]);
    // No longer of interest: the client may forget it, and hears of it no more.
    client
        .ask(ADDRESS, |request| {
            request.resource_names_unsubscribe = vec!["/10.0.0.7".to_owned()];
        })
        .await;
    assert_eq!(
        told(&client.next().await),
        ["-Kubernetes//Pod/default/alone"]
    );
    controller.publish(&format!("{a}{b}{SERVICE}"));
    controller.publish(&format!("{a}{SERVICE}"));
    assert_eq!(told(&client.next().await), [format!("-{B}")]);
}

#[tokio::test]
async fn on_demand_the_workloads_of_the_own_node_come_unasked() {
    let a = pod("a", "n1", "10.0.0.1", "one");
    let b = pod("b", "n2", "10.0.0.2", "one");
    let controller = Controller::start(&format!("{a}{b}{SERVICE}")).await;
    let mut client = controller.connect(Some("t1")).await.unwrap();
    client
        .ask(ADDRESS, |request| {
            request.resource_names_subscribe = vec!["*".to_owned()];
            request.resource_names_unsubscribe = vec!["*".to_owned()];
        })
        .await;
    assert_eq!(told(&client.next().await), [format!("+{A}")]);
    let here = b.replace("n2", "n1");
    controller.publish(&format!("{a}{here}{SERVICE}"));
    assert_eq!(told(&client.next().await), [format!("+{B}")]);
    controller.publish(&format!("{b}{SERVICE}"));
    assert_eq!(
        told(&client.next().await),
        [format!("-{A}"), format!("-{B}")]
    );
}

#[tokio::test]
async fn on_demand_what_was_kept_stays_wanted_after_a_reconnect() {
    let a = pod("a", "n1", "10.0.0.1", "one");
    let b = pod("b", "n1", "10.0.0.2", "one").replace("app: web", "app: other");
    let controller = Controller::start(&format!("{a}{b}{SERVICE}")).await;
    let mut client = controller.connect(Some("t2")).await.unwrap();
    client
        .ask(ADDRESS, |request| {
            request.resource_names_subscribe = vec!["/10.0.0.2".to_owned()];
        })
        .await;
    let first = client.next().await;
    assert_eq!(told(&first), ["+/10.0.0.2".to_owned(), format!("+{B}")]);
    let mut kept: std::collections::BTreeMap<_, _> = first
        .resources
        .into_iter()
        .map(|r| (r.name, r.version))
        .collect();
    // Asked for on the old stream, not answered there: kept without a version.
    kept.insert("/10.96.0.5".to_owned(), String::new());
    kept.insert("/10.0.0.8".to_owned(), String::new());
    kept.insert("/10.0.0.9".to_owned(), "of what has gone".to_owned());
    let back = async |kept: &std::collections::BTreeMap<String, String>| {
        let client = controller.connect(Some("t2")).await.unwrap();
        let kept = kept.clone();
        client
            .ask(ADDRESS, |request| {
                request.resource_names_subscribe = vec!["*".to_owned()];
                request.resource_names_unsubscribe = vec!["*".to_owned()];
                request.initial_resource_versions = kept;
            })
            .await;
        client
    };
    let mut client = back(&kept).await;
    assert_eq!(
        told(&client.next().await),
        [
            "+/10.96.0.5".to_owned(),
            format!("+{A}"),
            format!("+{WEB}"),
            "-/10.0.0.8".to_owned(),
            "-/10.0.0.9".to_owned(),
        ]
    );
    // What it kept goes on being followed.
    let moved = b.replace("10.0.0.2", "10.0.0.3");
    controller.publish(&format!("{a}{moved}{SERVICE}"));
    let changed = client.next().await;
    assert_eq!(told(&changed), [format!("+{B}")]);
    // And what is no longer known by that name is said to be gone.
    kept.retain(|name, _| name == "/10.0.0.2");
    let mut client = back(&kept).await;
    assert_eq!(told(&client.next().await), ["-/10.0.0.2"]);
}

#[tokio::test]
async fn a_call_without_a_known_token_is_refused() {
    let controller = Controller::start("").await;
    for token in [None, Some("t3"), Some("")] {
        let refused = controller
            .connect(token)
            .await
            .err()
            .map(|status| status.code());
        assert_eq!(refused, Some(Code::Unauthenticated), "{token:?}");
    }
}

#[tokio::test]
async fn a_withdrawn_token_ends_its_streams_and_no_others() {
    let controller = Controller::start("").await;
    let mut one = controller.connect(Some("t1")).await.unwrap();
    let mut two = controller.connect(Some("t2")).await.unwrap();
    for client in [&mut one, &mut two] {
        client.ask(ADDRESS, |_| {}).await;
        client.next().await;
    }
    controller.callers.tokens.lock().unwrap().remove("t1");
    controller.callers.changed.send_replace(());
    assert_eq!(one.error().await.code(), Code::Unauthenticated);
    controller.publish(SERVICE);
    assert_eq!(told(&two.next().await), [format!("+{WEB}")]);
}

#[tokio::test]
async fn a_node_sees_the_enrolment_of_its_own_pods_only() {
    let text = pod("a", "n1", "10.0.0.1", "one") + &pod("b", "n2", "10.0.0.2", "one");
    let controller = Controller::start(&text).await;
    let mut client = controller.connect(Some("t1")).await.unwrap();
    client.ask(ENROLLMENT, |_| {}).await;
    assert_eq!(told(&client.next().await), ["+uid-a"]);
    client
        .ask(ENROLLMENT, |request| {
            request.resource_names_subscribe = vec!["uid-b".to_owned()];
        })
        .await;
    assert_eq!(client.error().await.code(), Code::PermissionDenied);
    // The node of the request counts for nothing, only the token does.
    let mut client = controller.connect(Some("t1")).await.unwrap();
    client
        .ask(ENROLLMENT, |request| {
            request.node = Some(weft_proto::wire::discovery::Node {
                id: "n2".to_owned(),
                ..Default::default()
            });
        })
        .await;
    assert_eq!(told(&client.next().await), ["+uid-a"]);
}

#[tokio::test]
async fn acks_and_nacks_are_kept_for_each_subscriber() {
    let controller = Controller::start(POLICY).await;
    let mut client = controller.connect(Some("t1")).await.unwrap();
    client.ask(AUTHORIZATION, |_| {}).await;
    let response = client.next().await;
    let answer = |error: Option<&'static str>| {
        let nonce = response.nonce.clone();
        move |request: &mut DeltaDiscoveryRequest| {
            request.response_nonce = nonce;
            request.error_detail = error.map(|message| WireStatus {
                code: 3,
                message: message.to_owned(),
                details: Vec::new(),
            });
        }
    };
    client
        .ask(AUTHORIZATION, answer(Some("default/p is too new")))
        .await;
    client.ask(SETTINGS, |_| {}).await;
    client.next().await;
    let shown = |field: &str| {
        let json = controller.subscribers.to_json();
        json["subscribers"][0]["types"][AUTHORIZATION][field].clone()
    };
    assert_eq!(shown("rejected"), 1);
    assert_eq!(shown("lastRejection"), "default/p is too new");
    client.ask(AUTHORIZATION, answer(None)).await;
    client.ask(ADDRESS, |_| {}).await;
    client.next().await;
    assert_eq!(
        (shown("accepted"), shown("lastRejection")),
        (1.into(), serde_json::Value::Null)
    );
    // A rejected resource is not sent again until it changes: the next word is about something else.
    controller.publish(&format!("{POLICY}{SERVICE}"));
    assert_eq!(told(&client.next().await), [format!("+{WEB}")]);
}

#[tokio::test]
async fn policies_come_before_the_workloads_that_name_them() {
    let controller = Controller::start("").await;
    let mut client = controller.connect(Some("t1")).await.unwrap();
    for type_url in [ADDRESS, AUTHORIZATION] {
        client.ask(type_url, |_| {}).await;
        client.next().await;
    }
    let selected = POLICY.replace("spec: {", "spec: {selector: {matchLabels: {app: web}}, ");
    controller.publish(&(selected + &pod("a", "n1", "10.0.0.1", "one")));
    assert_eq!(client.next().await.type_url, AUTHORIZATION);
    assert_eq!(client.next().await.type_url, ADDRESS);
}

#[tokio::test]
async fn a_reader_that_is_stuck_holds_up_nobody_and_catches_up_at_once() {
    const UPDATES: usize = 60;
    // Large enough that a few updates fill every buffer between the two.
    let many = |label: &str| -> String {
        let pods = (0..400).map(|i| {
            pod(
                &format!("p{i}"),
                "n1",
                &format!("10.0.{}.{}", i / 200, i % 200 + 1),
                label,
            )
        });
        pods.collect()
    };
    let controller = Controller::start(&many("zero")).await;
    let mut stuck = controller.connect(Some("t1")).await.unwrap();
    let mut quick = controller.connect(Some("t2")).await.unwrap();
    for client in [&mut stuck, &mut quick] {
        client.ask(ADDRESS, |_| {}).await;
        client.next().await;
    }
    for update in 1..=UPDATES {
        controller.publish(&many(&format!("u{update}")));
        let response = quick.next().await;
        assert_eq!(response.resources.len(), 400, "update {update}");
    }
    let last = format!("sa-u{UPDATES}");
    let mut messages = 0;
    loop {
        let response = stuck.next().await;
        messages += 1;
        let resource = &response.resources[0];
        let message = unpack(ADDRESS, &resource.name, resource.resource.as_ref().unwrap()).unwrap();
        let Ok(MeshAddress::Workload(workload)) = MeshAddress::from_wire("w", &message) else {
            panic!("not a workload")
        };
        if *workload.service_account == *last {
            break;
        }
    }
    assert!(
        messages < UPDATES,
        "{messages} messages: nothing was left out"
    );
}

#[tokio::test]
async fn a_node_has_so_many_streams_and_gets_places_back() {
    let controller = Controller::start("").await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(controller.connect(Some("t1")).await.unwrap());
    }
    let refused = controller
        .connect(Some("t1"))
        .await
        .err()
        .map(|status| status.code());
    assert_eq!(refused, Some(Code::ResourceExhausted));
    assert!(controller.connect(Some("t2")).await.is_ok());
    open.clear();
    let again = async {
        while controller.connect(Some("t1")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, again).await.expect("a place is given back");
}
