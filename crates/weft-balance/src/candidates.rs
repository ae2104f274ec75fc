//! The endpoints of one port of one service as one client sees them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_types::{Health, RoutingScope, Service, Workload};

use crate::hash;

/// The endpoints that may be picked, in tiers of locality.
///
/// Right as long as the service, its endpoints and the client's workload are the ones it was compiled from.
#[derive(Clone, Debug)]
pub struct Candidates {
    pub(crate) as_dialled: bool,
    /// The nearest first; none is empty.
    pub(crate) tiers: Vec<Tier>,
    /// Why there is no tier.
    pub(crate) empty: NoEndpoint,
    /// How long a client keeps its endpoint; zero for no affinity.
    pub(crate) affinity_secs: u32,
    /// Names the service and port towards [`crate::Affinity`].
    pub(crate) key: u64,
}

/// Endpoints that are equally near.
#[derive(Clone, Debug)]
pub(crate) struct Tier {
    pub(crate) endpoints: Vec<Endpoint>,
    /// Sum of weights up to and including each endpoint; empty when all weigh the same.
    pub(crate) cumulative: Vec<u64>,
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// The port that it listens on.
    pub port: u16,
    pub(crate) id: EndpointId,
}

/// Names an endpoint (workload and port) in tables of the caller. Stable between runs of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub(crate) u64);

/// Why a connection goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoEndpoint {
    /// No workload serves the port.
    None,
    /// Those that serve it are not ready.
    NotReady,
    /// Those that are ready are not in the scope that the service is strict about.
    NotLocal,
    /// Every one was tried for this connection and failed.
    AllTried,
}

impl Endpoint {
    /// An endpoint on its own, for callers that did not pick it.
    pub fn new(workload: Arc<Workload>, port: u16) -> Self {
        let id = EndpointId(hash::of_text(workload.uid.as_str(), u64::from(port)));
        Self { workload, port, id }
    }

    /// Its name.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Where to connect: an address of the family that the client dialled, if it has one, else its first.
    /// None for a workload without addresses (reached by name, or through a gateway).
    pub fn address(&self, dialled: IpAddr) -> Option<SocketAddr> {
        let dialled = dialled.to_canonical();
        let addresses = &self.workload.addresses;
        let same = addresses
            .iter()
            .find(|address| address.is_ipv4() == dialled.is_ipv4());
        let address = same.or_else(|| addresses.first())?;
        Some(SocketAddr::new(*address, self.port))
    }
}

impl Candidates {
    /// Compiles the endpoints of one port, as `ServiceEndpoints::on_port` of the configuration lists them.
    ///
    /// Costs a walk over them; keep the result.
    pub fn compile<'e>(
        service: &Service,
        service_port: u16,
        endpoints: impl IntoIterator<Item = (&'e Arc<Workload>, u16)>,
        client: &Workload,
    ) -> Self {
        let balancing = &service.load_balancing;
        let headless = service.addresses.is_empty() && service.address_ranges.is_empty();
        let mut ranked: Vec<Vec<Endpoint>> = vec![Vec::new(); balancing.preference.len() + 1];
        let mut empty = NoEndpoint::None;
        for (workload, port) in endpoints {
            // A capacity of 0 says: no traffic, whatever its health.
            let ready = workload.health == Health::Healthy || balancing.allow_unhealthy;
            if !ready || workload.capacity == 0 {
                empty = empty.max(NoEndpoint::NotReady);
                continue;
            }
            let rank = rank(&balancing.preference, client, workload);
            if balancing.strict && rank < balancing.preference.len() {
                empty = NoEndpoint::NotLocal;
                continue;
            }
            ranked[rank].push(Endpoint::new(workload.clone(), port));
        }
        let tiers = ranked.into_iter().rev();
        Self {
            as_dialled: balancing.passthrough || headless,
            tiers: tiers
                .filter(|tier| !tier.is_empty())
                .map(Tier::new)
                .collect(),
            empty,
            affinity_secs: balancing.client_ip_affinity_secs,
            key: hash::of_text(
                &service.name.hostname,
                hash::of_text(&service.name.namespace, u64::from(service_port)),
            ),
        }
    }

    /// Every endpoint that may be picked, the nearest first.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.tiers.iter().flat_map(|tier| &tier.endpoints)
    }

    /// Whether clients keep their endpoint: only then does a pick look at its [`crate::Affinity`], so that a table
    /// shared by all workers need not be locked for any other service.
    pub fn is_sticky(&self) -> bool {
        self.affinity_secs > 0
    }

    /// Whether a pick is certain to fail, so that `connect` can be refused at once.
    pub fn is_empty(&self) -> bool {
        !self.as_dialled && self.tiers.is_empty()
    }
}

impl Tier {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        let weight = |endpoint: &Endpoint| u64::from(endpoint.workload.capacity);
        let same = endpoints
            .windows(2)
            .all(|pair| weight(&pair[0]) == weight(&pair[1]));
        let mut sum = 0;
        let mut cumulative = Vec::new();
        if !same {
            cumulative = endpoints
                .iter()
                .map(|endpoint| {
                    sum += weight(endpoint);
                    sum
                })
                .collect();
        }
        Self {
            endpoints,
            cumulative,
        }
    }
}

/// How many scopes match from the most important on: a match after a mismatch counts for nothing.
fn rank(preference: &[RoutingScope], client: &Workload, endpoint: &Workload) -> usize {
    let (here, there) = (&client.locality, &endpoint.locality);
    let same = |scope: &&RoutingScope| match scope {
        RoutingScope::Region => here.region == there.region,
        RoutingScope::Zone => here.zone == there.zone,
        RoutingScope::Subzone => here.subzone == there.subzone,
        RoutingScope::Node => client.node == endpoint.node,
        RoutingScope::Cluster => client.cluster == endpoint.cluster,
        RoutingScope::Network => client.network == endpoint.network,
    };
    preference.iter().take_while(same).count()
}
