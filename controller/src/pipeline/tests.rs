//! A translation that takes as long as it likes holds up nobody who is served.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Request;
use weft_identity::{Authority, AuthorityOptions, PrivateKey};
use weft_proto::wire::ca::IstioCertificateRequest;
use weft_proto::wire::ca::istio_certificate_service_server::IstioCertificateService as _;
use weft_proto::{Struct, Value, value};
use weft_runtime::{SystemClock, spawn};
use weft_types::{SpiffeId, TrustDomain};

use super::*;
use crate::caller::Callers;
use crate::issue::Issue;
use crate::source::Change;

const IDENTITY: &str = "spiffe://cluster.local/ns/default/sa/s";
/// Only to fail instead of hanging.
const LONG: Duration = Duration::from_secs(100);

/// A clock that the translation looks at first; from the second translation on it stands at a gate.
#[derive(Debug)]
struct Gate(Mutex<GateState>);

#[derive(Debug)]
struct GateState {
    looks: usize,
    reached: Option<oneshot::Sender<()>>,
    opened: Receiver<()>,
    is_forced: bool,
}

/// Looks at the clock during one translation.
const LOOKS: usize = 3;

impl Clock for Gate {
    fn now(&self) -> Instant {
        let mut state = self.0.lock().unwrap();
        state.looks += 1;
        if state.looks == LOOKS + 1 {
            if let Some(reached) = state.reached.take() {
                let _ = reached.send(());
            }
            let waited = state.opened.recv_timeout(LONG);
            state.is_forced = waited == Err(RecvTimeoutError::Timeout);
        }
        SystemClock.now()
    }

    fn wall(&self) -> SystemTime {
        SystemClock.wall()
    }
}

fn gate() -> (Arc<Gate>, oneshot::Receiver<()>, Sender<()>) {
    let (reached, at_gate) = oneshot::channel();
    let (open, opened) = channel();
    let state = GateState {
        looks: 0,
        reached: Some(reached),
        opened,
        is_forced: false,
    };
    (Arc::new(Gate(Mutex::new(state))), at_gate, open)
}

fn update(pod: &str) -> Update {
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}}}, spec: {{nodeName: n1, serviceAccountName: s}}}}"
    );
    let documents = weft_k8s_api::parse(&text).unwrap().documents.into_iter();
    Update {
        changes: documents
            .map(|document| Change::Put(document.object))
            .collect(),
        problems: Vec::new(),
    }
}

fn request(token: &str) -> Request<IstioCertificateRequest> {
    let identity: SpiffeId = IDENTITY.parse().unwrap();
    let value = Value {
        kind: Some(value::Kind::StringValue(IDENTITY.to_owned())),
    };
    let mut request = Request::new(IstioCertificateRequest {
        csr: PrivateKey::generate().unwrap().request(&identity).unwrap(),
        validity_duration: 3600,
        metadata: Some(Struct {
            fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
        }),
    });
    let header = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    request
}

/// One thread for everything that is served: whatever waits on it, stops it.
#[tokio::test(flavor = "current_thread")]
async fn a_certificate_is_signed_while_a_change_is_translated() {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let tokens = Tokens::open(&shutdown, &folder.path().join("tokens"), &["n1".into()]).unwrap();
    let views = Views::default();
    let (kept, addresses, holders) = Kept::load(folder.path());
    let (snapshots, mut newest) = watch::channel(Arc::default());
    let (updates, receiver) = mpsc::channel(1);
    let (clock, at_gate, open) = gate();
    let pipeline = Pipeline {
        updates: receiver,
        state: State {
            index: Index::default(),
            translator: Translator::new(addresses, holders, [].into()),
            kept,
            tokens: tokens.clone(),
            views: views.clone(),
            snapshots,
            clock: clock.clone(),
            told: Translation::default(),
        },
    };
    let pipeline = spawn(&shutdown, "pipeline", pipeline.run(shutdown.clone()));
    updates.send(update("a")).await.unwrap();
    newest.changed().await.unwrap();

    let domain = TrustDomain::new("cluster.local").unwrap();
    let options = AuthorityOptions::default();
    let authority =
        Authority::load_or_create(folder.path(), domain, options, Arc::new(SystemClock));
    let issue = Issue::new(
        Arc::new(authority.unwrap()),
        Arc::new(Callers {
            tokens,
            views: views.clone(),
        }),
        Arc::new(()),
        Arc::new(SystemClock),
    );
    let token = std::fs::read_to_string(folder.path().join("tokens/n1.token")).unwrap();

    updates.send(update("b")).await.unwrap();
    at_gate.await.unwrap();
    let answer = issue.create_certificate(request(token.trim())).await;
    assert!(answer.unwrap().into_inner().cert_chain.len() > 1);
    let workloads = |views: &Views| views.newest().unwrap().translation.workloads.len();
    assert_eq!(workloads(&views), 1, "the second pod is still at the gate");

    open.send(()).unwrap();
    newest.changed().await.unwrap();
    assert_eq!(workloads(&views), 2);
    assert!(!clock.0.lock().unwrap().is_forced, "nobody opened the gate");
    drop(updates);
    pipeline.await.unwrap();
    shutdown.stop();
}
