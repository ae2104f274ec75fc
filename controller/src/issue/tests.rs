//! Who gets which certificate: every way of asking for too much, and the good ways beside them.
//!
//! The service is called as tonic would call it; the authority behind it is real.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use weft_identity::{Authority, AuthorityOptions, Credentials, PrivateKey};
use weft_proto::wire::ca::IstioCertificateRequest;
use weft_proto::wire::ca::istio_certificate_service_server::IstioCertificateService as _;
use weft_proto::{Struct, Value, value};
use weft_runtime::ManualClock;
use weft_types::{NodeName, SpiffeId, TrustDomain};

use super::{Authorizer, Issue, IssueEvents, PodState, Rates};

const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
const TOKEN: &str = "token-of-n1";

/// Pods by (namespace, service account); tokens `token-of-NODE`.
#[derive(Default)]
struct Cluster(Mutex<HashMap<(String, String), Vec<PodState>>>);

impl Cluster {
    fn put(&self, namespace: &str, account: &str, pod: PodState) {
        let key = (namespace.to_owned(), account.to_owned());
        self.0.lock().unwrap().entry(key).or_default().push(pod);
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

#[tonic::async_trait]
impl Authorizer for Cluster {
    async fn node_of(&self, token: &str) -> Result<NodeName, String> {
        let node = token
            .strip_prefix("token-of-")
            .filter(|node| node.starts_with('n'));
        node.map(NodeName::from)
            .ok_or_else(|| "unknown token".to_owned())
    }

    fn pods(&self, namespace: &str, service_account: &str) -> Vec<PodState> {
        let key = (namespace.to_owned(), service_account.to_owned());
        self.0
            .lock()
            .unwrap()
            .get(&key)
            .cloned()
            .unwrap_or_default()
    }
}

#[derive(Default)]
struct Counts(Mutex<(usize, usize)>);

impl IssueEvents for Counts {
    fn issued(&self, _node: &NodeName, _identity: &SpiffeId) {
        self.0.lock().unwrap().0 += 1;
    }

    fn refused(&self, _node: Option<&NodeName>, _code: Code) {
        self.0.lock().unwrap().1 += 1;
    }
}

struct Bench {
    issue: Issue,
    cluster: Arc<Cluster>,
    clock: Arc<ManualClock>,
    counts: Arc<Counts>,
    _folder: TempDir,
}

fn pod(name: &str, node: Option<&str>) -> PodState {
    PodState {
        name: name.to_owned(),
        node: node.map(NodeName::from),
        ended: false,
    }
}

fn ended(name: &str, node: &str) -> PodState {
    PodState {
        ended: true,
        ..pod(name, Some(node))
    }
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let domain = TrustDomain::new("cluster.local").unwrap();
    let options = AuthorityOptions::default();
    let authority = Authority::load_or_create(folder.path(), domain, options, clock.clone());
    let cluster = Arc::new(Cluster::default());
    cluster.put("default", "web", pod("web-1", Some("n1")));
    let counts = Arc::new(Counts::default());
    Bench {
        issue: Issue {
            authority: Arc::new(authority.unwrap()),
            authorizer: cluster.clone(),
            events: counts.clone(),
            rates: Rates::new(clock.clone()),
        },
        cluster,
        clock,
        counts,
        _folder: folder,
    }
}

impl Bench {
    async fn ask(&self, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> {
        let answer = self.issue.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }

    async fn refused(&self, request: Request<IstioCertificateRequest>) -> (Code, String) {
        let status = self.ask(request).await.expect_err("must be refused");
        (status.code(), status.message().to_owned())
    }
}

fn names(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    params
}

fn csr(params: &CertificateParams) -> String {
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the field that it fills is optional"
)]
fn metadata(kind: value::Kind) -> Option<Struct> {
    let value = Value { kind: Some(kind) };
    Some(Struct {
        fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
    })
}

fn bearing(token: &str, message: IstioCertificateRequest) -> Request<IstioCertificateRequest> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    request
}

fn message(identity: &str, csr: String) -> IstioCertificateRequest {
    IstioCertificateRequest {
        csr,
        validity_duration: 3600,
        metadata: metadata(value::Kind::StringValue(identity.to_owned())),
    }
}

fn asking(token: &str, identity: &str) -> Request<IstioCertificateRequest> {
    bearing(token, message(identity, csr(&names(&[identity]))))
}

#[tokio::test]
async fn a_node_gets_the_identity_of_its_live_pod() {
    let bench = bench();
    let key = PrivateKey::generate().unwrap();
    let identity: SpiffeId = WEB.parse().unwrap();
    let request = bearing(TOKEN, message(WEB, key.request(&identity).unwrap()));
    let chain = bench.ask(request).await.unwrap();
    let now = SystemTime::now();
    let credentials = Credentials::from_response(identity, key, &chain, now).unwrap();
    let life = credentials.not_after().duration_since(now).unwrap();
    assert!(life <= Duration::from_hours(1), "what was asked for");
    assert_eq!(*bench.counts.0.lock().unwrap(), (1, 0));
}

#[tokio::test]
async fn one_live_pod_beside_ended_ones_is_enough_and_a_terminating_one_counts() {
    let bench = bench();
    bench.cluster.put("default", "web", ended("web-0", "n1"));
    bench
        .cluster
        .put("default", "web", pod("web-2", Some("n2")));
    bench.ask(asking(TOKEN, WEB)).await.unwrap();
    bench.ask(asking("token-of-n2", WEB)).await.unwrap();
}

#[tokio::test]
async fn a_node_gets_nothing_for_pods_that_are_not_its_own_or_not_alive() {
    type Case = (&'static str, Vec<PodState>, &'static str);
    let cases: Vec<Case> = vec![
        ("deleted", vec![], "no pod"),
        ("elsewhere", vec![pod("a", Some("n2"))], "other nodes"),
        ("not scheduled yet", vec![pod("a", None)], "other nodes"),
        (
            "ended",
            vec![ended("a", "n1")],
            "pod a on this node has ended",
        ),
        (
            "moved",
            vec![ended("a", "n1"), pod("b", Some("n2"))],
            "pod a on this node has ended",
        ),
        (
            "another node's name as prefix",
            vec![pod("a", Some("n10"))],
            "other nodes",
        ),
        ("another case", vec![pod("a", Some("N1"))], "other nodes"),
    ];
    let bench = bench();
    for (name, pods, reason) in cases {
        bench.cluster.clear();
        for pod in pods {
            bench.cluster.put("default", "web", pod);
        }
        let (code, message) = bench.refused(asking(TOKEN, WEB)).await;
        assert_eq!(code, Code::PermissionDenied, "{name}");
        for word in ["n1", WEB, reason] {
            assert!(message.contains(word), "{name}: {message}");
        }
    }
}

#[tokio::test]
async fn a_deletion_counts_at_once() {
    let bench = bench();
    bench.ask(asking(TOKEN, WEB)).await.unwrap();
    bench.cluster.clear();
    assert_eq!(
        bench.refused(asking(TOKEN, WEB)).await.0,
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn neighbours_of_an_identity_are_other_identities() {
    let bench = bench();
    let others = [
        "spiffe://cluster.local/ns/other/sa/web",
        "spiffe://cluster.local/ns/default/sa/web2",
        "spiffe://cluster.local/ns/default/sa/we",
        "spiffe://cluster.local/ns/default/sa/Web",
        "spiffe://cluster.local/ns/Default/sa/web",
        "spiffe://cluster.local/ns/web/sa/default",
        "spiffe://other.local/ns/default/sa/web",
        "spiffe://cluster.local.evil/ns/default/sa/web",
    ];
    for identity in others {
        let (code, message) = bench.refused(asking(TOKEN, identity)).await;
        assert_eq!(code, Code::PermissionDenied, "{identity}");
        assert!(message.contains(identity), "{message}");
    }
}

#[tokio::test]
async fn an_owned_node_gets_its_own_pods_identities_and_no_others() {
    let bench = bench();
    for node in ["n1", "n2", "n3"] {
        for number in 0..5 {
            let account = format!("{node}-{number}");
            bench
                .cluster
                .put("default", &account, pod(&account, Some(node)));
        }
    }
    for node in ["n1", "n2", "n3"] {
        for number in 0..5 {
            let identity = format!("spiffe://cluster.local/ns/default/sa/{node}-{number}");
            let answer = bench.ask(asking(TOKEN, &identity)).await;
            assert_eq!(answer.is_ok(), node == "n1", "{identity}");
        }
    }
}

#[tokio::test]
async fn without_a_valid_token_nothing_is_looked_at() {
    let bench = bench();
    let header = |value: &str| {
        let mut request = asking(TOKEN, WEB);
        request
            .metadata_mut()
            .insert("authorization", value.parse().unwrap());
        request
    };
    let mut none = asking(TOKEN, WEB);
    none.metadata_mut().remove("authorization");
    let mut two = asking(TOKEN, WEB);
    let second = "Bearer token-of-n2".parse().unwrap();
    two.metadata_mut().append("authorization", second);
    let requests = [
        none,
        two,
        header("Bearer "),
        header("Bearer"),
        header("Bearer unknown"),
        header("bearer token-of-n1"),
        header("Basic token-of-n1"),
        header("token-of-n1"),
        header("Bearer Bearer token-of-n1"),
    ];
    let count = requests.len();
    for request in requests {
        let (code, message) = bench.refused(request).await;
        assert_eq!(code, Code::Unauthenticated, "{message}");
        assert!(
            !message.contains("token-of"),
            "a token must not be repeated: {message}"
        );
    }
    assert_eq!(*bench.counts.0.lock().unwrap(), (0, count));
}

#[tokio::test]
async fn a_request_that_names_no_identity_is_invalid() {
    let bench = bench();
    let kinds = [
        None,
        Some(Struct::default()),
        metadata(value::Kind::NumberValue(1.0)),
        metadata(value::Kind::StringValue(String::new())),
        metadata(value::Kind::StringValue("web".to_owned())),
        metadata(value::Kind::StringValue(format!("{WEB}/"))),
        metadata(value::Kind::StringValue(format!("{WEB}\0"))),
        metadata(value::Kind::StringValue(format!(" {WEB}"))),
        metadata(value::Kind::StringValue(WEB.to_uppercase())),
        metadata(value::Kind::StringValue(WEB.replace("/web", "/%77eb"))),
        metadata(value::Kind::StringValue(
            WEB.replace("/default", "/../default"),
        )),
        metadata(value::Kind::StringValue("x".repeat(100_000))),
    ];
    for metadata in kinds {
        let message = IstioCertificateRequest {
            metadata,
            ..message(WEB, csr(&names(&[WEB])))
        };
        let (code, message) = bench.refused(bearing(TOKEN, message)).await;
        assert_eq!(code, Code::InvalidArgument, "{message}");
    }
}

#[tokio::test]
async fn a_foreign_character_anywhere_in_the_identity_is_invalid() {
    let bench = bench();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    for byte in (0..0x80_u8).filter(|byte| !legal(*byte)) {
        for place in ["cluster", "default", "web"] {
            let identity = WEB.replace(place, &format!("{place}{}x", char::from(byte)));
            let message = message(&identity, csr(&names(&[WEB])));
            let (code, message) = bench.refused(bearing(TOKEN, message)).await;
            assert_eq!(code, Code::InvalidArgument, "{identity:?}: {message}");
        }
    }
}

#[tokio::test]
async fn a_csr_that_asks_for_more_than_the_identity_is_invalid() {
    let bench = bench();
    let admin = "spiffe://cluster.local/ns/kube-system/sa/admin";
    let mut authority = names(&[WEB]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut host = names(&[WEB]);
    host.subject_alt_names
        .push(SanType::DnsName("kubernetes.default".try_into().unwrap()));
    let mut signed_by_another = csr(&names(&[WEB]));
    let middle = signed_by_another.len() / 2;
    let swapped = if &signed_by_another[middle..=middle] == "A" {
        "B"
    } else {
        "A"
    };
    signed_by_another.replace_range(middle..=middle, swapped);
    let requests = [
        ("forged name", csr(&names(&[admin]))),
        ("second identity", csr(&names(&[WEB, admin]))),
        ("second identity first", csr(&names(&[admin, WEB]))),
        ("host name", csr(&host)),
        ("an authority", csr(&authority)),
        ("empty", String::new()),
        (
            "garbage",
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END".to_owned(),
        ),
        (
            "a key instead",
            KeyPair::generate().unwrap().serialize_pem(),
        ),
        ("damaged", signed_by_another),
        ("huge", "A".repeat(1 << 20)),
    ];
    for (name, csr) in requests {
        let (code, message) = bench.refused(bearing(TOKEN, message(WEB, csr))).await;
        assert_eq!(code, Code::InvalidArgument, "{name}: {message}");
    }
    assert_eq!(bench.counts.0.lock().unwrap().0, 0);
}

#[tokio::test]
async fn odd_lifetimes_are_brought_into_bounds() {
    let bench = bench();
    for asked in [i64::MIN, -1, 0, 1, i64::MAX] {
        let key = PrivateKey::generate().unwrap();
        let identity: SpiffeId = WEB.parse().unwrap();
        let message = IstioCertificateRequest {
            validity_duration: asked,
            ..message(WEB, key.request(&identity).unwrap())
        };
        let chain = bench.ask(bearing(TOKEN, message)).await.unwrap();
        let now = SystemTime::now();
        let credentials = Credentials::from_response(identity, key, &chain, now).unwrap();
        let life = credentials.not_after().duration_since(now).unwrap();
        assert!(life <= Duration::from_hours(90 * 24), "{asked}: {life:?}");
    }
}

#[tokio::test]
async fn a_flood_from_one_node_stops_that_node_only() {
    let bench = bench();
    bench
        .cluster
        .put("default", "web", pod("web-2", Some("n2")));
    // Refused requests count as well: guessing is not free.
    let guess = || asking(TOKEN, "spiffe://cluster.local/ns/default/sa/none");
    let mut exhausted = 0;
    for _ in 0..1200 {
        exhausted += usize::from(bench.refused(guess()).await.0 == Code::ResourceExhausted);
    }
    assert_eq!(exhausted, 200);
    assert_eq!(
        bench.refused(asking(TOKEN, WEB)).await.0,
        Code::ResourceExhausted
    );
    bench.ask(asking("token-of-n2", WEB)).await.unwrap();
    bench.clock.advance(Duration::from_secs(1));
    bench.ask(asking(TOKEN, WEB)).await.unwrap();
}
