//! What tests of several modules stand on: workloads, a pod with sockets of this machine, a real certificate authority.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tempfile::TempDir;
use tokio::sync::mpsc;
use weft_config::{ProxyConfig, Snapshot};
use weft_identity::ca::Signed;
use weft_identity::{
    Authority, AuthorityOptions, CertificateSource, Credentials, Identities, IdentitiesOptions,
    PrivateKey,
};
use weft_node_api::{Family, Listeners, PodSpec};
use weft_runtime::{Shutdown, SystemClock, spawn};
use weft_telemetry::{AccessFormat, AccessLog};
use weft_types::{
    AuthorizationPolicy, Health, LoadBalancing, Locality, NetworkAddress, NetworkMode, NodeName,
    PolicyName, PortMapping, Rule, Scope, Service, ServiceName, ServicePort, SpiffeId, TrustDomain,
    TunnelProtocol, Workload, WorkloadKind, WorkloadUid,
};

use crate::connections::Telemetry;
use crate::pods::{NewPod, Pod, Pods};
use crate::shared::Shared;
use crate::worker::Worker;

/// Ten times what anything here takes on a loaded machine.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

/// An enrolled pod of namespace `default` whose service account has its name.
pub(crate) fn workload(name: &str, address: &str) -> Workload {
    Workload {
        uid: WorkloadUid::of_pod("Kubernetes", "default", name),
        name: name.into(),
        namespace: "default".into(),
        addresses: vec![ip(address)],
        hostname: "".into(),
        network: "".into(),
        tunnel: TunnelProtocol::Hbone,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        service_account: name.into(),
        waypoint: None,
        node: NodeName::new("n1"),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        native_tunnel: false,
        application_tunnel: None,
        authorization_policies: Vec::new(),
        health: Health::Healthy,
        cluster: "Kubernetes".into(),
        network_gateway: None,
        services: Arc::default(),
        locality: Locality::default(),
        network_mode: NetworkMode::Standard,
        capacity: 1,
    }
}

pub(crate) fn service_name(name: &str) -> ServiceName {
    ServiceName::new("default", format!("{name}.default.svc.cluster.local"))
}

/// A service with port 80, which its workloads serve on 8080.
pub(crate) fn service(name: &str, address: &str) -> Service {
    Service {
        name: service_name(name),
        short_name: name.into(),
        addresses: vec![at(address)],
        address_ranges: Vec::new(),
        ports: vec![ServicePort {
            service_port: 80,
            target_port: 8080,
        }],
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        requires_waypoint: false,
    }
}

pub(crate) fn at(address: &str) -> NetworkAddress {
    NetworkAddress {
        network: "".into(),
        address: ip(address),
    }
}

/// Puts a workload behind a service, from this port of it to that port of its own.
pub(crate) fn behind(mut workload: Workload, service: &str, from: u16, to: u16) -> Workload {
    let mut services = BTreeMap::clone(&workload.services);
    let mapping = PortMapping {
        service_port: from,
        target_port: to,
    };
    services.insert(service_name(service), vec![mapping]);
    workload.services = Arc::new(services);
    workload
}

/// A policy of namespace `default` for all of its workloads.
pub(crate) fn policy(
    name: &str,
    action: weft_types::Action,
    rules: Vec<Rule>,
) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: PolicyName::new("default", name),
        scope: Scope::Namespace,
        action,
        rules,
        dry_run: false,
    }
}

/// An authority that signs whatever it is asked for.
#[derive(Debug)]
pub(crate) struct Ca {
    authority: Authority,
    _folder: TempDir,
}

impl Ca {
    pub(crate) fn new() -> Arc<Self> {
        let folder = TempDir::new().unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let clock = Arc::new(SystemClock);
        let options = AuthorityOptions::default();
        let authority = Authority::load_or_create(folder.path(), domain, options, clock).unwrap();
        Arc::new(Self {
            authority,
            _folder: folder,
        })
    }

    /// Credentials of somebody else's node.
    pub(crate) fn credentials(&self, identity: &SpiffeId) -> Credentials {
        let key = PrivateKey::generate().unwrap();
        let csr = key.request(identity).unwrap();
        let hour = Duration::from_hours(1);
        let signed = self.authority.sign(&csr, identity, hour).unwrap();
        let now = std::time::SystemTime::now();
        Credentials::from_response(identity.clone(), key, &signed, now).unwrap()
    }
}

impl CertificateSource for Ca {
    fn sign<'a>(&'a self, identity: &'a SpiffeId, csr: String, ttl: Duration) -> Signed<'a> {
        Box::pin(async move { Ok(self.authority.sign(&csr, identity, ttl).unwrap()) })
    }
}

/// Collects what is written.
#[derive(Clone, Default)]
pub(crate) struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One proxy without holder, agent and controller: what it would know is given.
pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ca: Arc<Ca>,
    out: Out,
    _orders: mpsc::UnboundedReceiver<crate::pods::Order>,
}

impl Node {
    /// Must be called inside a runtime.
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let ca = Ca::new();
        let background = Shutdown::new();
        let source: Arc<dyn CertificateSource> = Arc::clone(&ca) as _;
        let options = IdentitiesOptions::default();
        let clock = Arc::new(SystemClock);
        let (identities, driver) = Identities::new(options, source, clock, Arc::new(()));
        spawn(&background, "identities", driver);
        let (sender, orders) = mpsc::unbounded_channel();
        let out = Out::default();
        let shared = Arc::new(Shared {
            node: NodeName::new("n1"),
            config: ProxyConfig::fixed(snapshot),
            identities,
            pods: Pods::new(sender),
            storage: ArcSwapOption::empty(),
            affinity: Arc::default(),
            telemetry: Telemetry {
                metrics: Arc::default(),
                access: AccessLog::to(out.clone(), AccessFormat::Text),
            },
            refusals_omitted: prometheus_client::metrics::gauge::Gauge::default(),
            dry_runs: prometheus_client::metrics::family::Family::default(),
            flows: Shutdown::new(),
            background,
        });
        Self {
            shared,
            ca,
            out,
            _orders: orders,
        }
    }

    pub(crate) fn worker(&self) -> Rc<Worker> {
        Worker::new(Arc::clone(&self.shared))
    }

    /// A pod of this node, with sockets in stock and listeners that nobody reaches.
    pub(crate) fn pod(&self, name: &str, addresses: &[&str]) -> Arc<Pod> {
        let pod = fake_pod(&self.shared.pods, name, addresses);
        pod.claim(&self.shared.config.load(), &self.shared.identities);
        pod.stock.deliver(Family::V4, sockets(16));
        pod
    }

    /// The records so far.
    pub(crate) fn records(&self) -> Vec<String> {
        self.shared.telemetry.access.flush(BOUND);
        let text = String::from_utf8(self.out.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// A pod that only has names and addresses.
pub(crate) fn fake_pod(pods: &Pods, name: &str, addresses: &[&str]) -> Arc<Pod> {
    let listener = || Arc::new(OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()));
    pods.put(NewPod {
        spec: PodSpec {
            uid: format!("uid-{name}").into(),
            id: 1,
            namespace: "default".into(),
            name: name.into(),
            service_account: name.into(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            netns: "/nowhere".into(),
        },
        facts: None,
        listeners: Listeners {
            outbound: listener(),
            inbound: listener(),
            hbone: listener(),
        },
        cluster: "Kubernetes".into(),
        flows: Shutdown::new(),
    })
}

fn sockets(count: usize) -> Vec<OwnedFd> {
    let make = |_| {
        let kind = socket2::Type::STREAM.nonblocking();
        socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap()
    };
    (0..count).map(make).map(OwnedFd::from).collect()
}

/// Runs a test's body where connections run, within [`BOUND`].
pub(crate) async fn run<T>(body: impl Future<Output = T>) -> T {
    let local = tokio::task::LocalSet::new();
    let bounded = tokio::time::timeout(BOUND, local.run_until(Box::pin(body)));
    bounded.await.expect("within the bound")
}
