//! The certificate service: `istio.v1.auth.IstioCertificateService/CreateCertificate`.
//!
//! In: a call with a node's bearer token, a CSR, and the identity that the node wants for one of its pods.
//! Out: the chain, or a status whose message names node, identity and reason. An identity is given only to a node on which
//! a live pod with that service account runs; the CSR's own words count for nothing but its key.
//! Not here: what a token is (files, TokenReview) and where pods come from: both behind [`Authorizer`].

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};
use weft_identity::authority::CSR_MAX;
use weft_identity::{Authority, IssueError};
use weft_proto::wire::ca::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use weft_proto::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::{Struct, value};
use weft_runtime::Clock;
use weft_types::{NodeName, SpiffeId};

mod decide;
mod rate;

pub(crate) use decide::{Denial, PodState, decide};
use rate::Rates;

/// Largest request message: a CSR at its limit, and the metadata.
const MESSAGE_MAX: usize = 2 * CSR_MAX;

/// Longest identity: the longest trust domain (255), namespace (63) and service account (253) have 595 bytes together.
/// Longer texts would not fit the status message, which repeats them.
const IDENTITY_MAX: usize = 1024;

/// What the service must know of the cluster.
#[tonic::async_trait]
pub(crate) trait Authorizer: Send + Sync + 'static {
    /// The node that a bearer token belongs to, or why it is not accepted. The reason must not repeat the token.
    async fn node_of(&self, token: &str) -> Result<NodeName, String>;

    /// All pods that the index holds now with this service account, wherever they run. Deleted pods are not among them.
    fn pods(&self, namespace: &str, service_account: &str) -> Vec<PodState>;

    /// How long certificates live when a call does not say; zero leaves it to the authority.
    fn ttl_default(&self) -> Duration {
        Duration::ZERO
    }
}

/// What happens, for metrics. Must not block.
pub(crate) trait IssueEvents: Send + Sync + 'static {
    /// A certificate was given.
    fn issued(&self, _node: &NodeName, _identity: &SpiffeId) {}
    /// A call was refused; `node` is absent when the token was.
    fn refused(&self, _node: Option<&NodeName>, _code: tonic::Code) {}
}

/// Nobody listens.
impl IssueEvents for () {}

/// The service.
pub(crate) struct Issue {
    authority: Arc<Authority>,
    authorizer: Arc<dyn Authorizer>,
    events: Arc<dyn IssueEvents>,
    rates: Rates,
}

impl Issue {
    pub(crate) fn new(
        authority: Arc<Authority>,
        authorizer: Arc<dyn Authorizer>,
        events: Arc<dyn IssueEvents>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            authority,
            authorizer,
            events,
            rates: Rates::new(clock),
        }
    }

    /// Ready for a tonic server.
    pub(crate) fn service(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MESSAGE_MAX)
    }

    async fn answer(
        &self,
        caller: &mut Option<NodeName>,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Vec<String>, Status> {
        let node = caller.insert(self.identify(&request).await?);
        if !self.rates.take(node) {
            return Err(Status::resource_exhausted(format!(
                "node {node} asks for more certificates than {} a second",
                rate::PER_SECOND
            )));
        }
        let request = request.into_inner();
        let identity = requested(request.metadata.as_ref())?;
        self.authorize(node, &identity)?;
        // Zero and negative mean that the caller leaves it to us.
        let mut ttl = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or(0));
        if ttl.is_zero() {
            ttl = self.authorizer.ttl_default();
        }
        let chain = self
            .authority
            .sign(&request.csr, &identity, ttl)
            .map_err(|error| blame(&error))?;
        self.events.issued(node, &identity);
        tracing::debug!(%node, %identity, "certificate issued");
        Ok(chain)
    }

    async fn identify(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<NodeName, Status> {
        let token = bearer(request.metadata()).map_err(Status::unauthenticated)?;
        let node = self.authorizer.node_of(token).await;
        node.map_err(Status::unauthenticated)
    }

    fn authorize(&self, node: &NodeName, identity: &SpiffeId) -> Result<(), Status> {
        let ours = self.authority.trust_domain();
        let decision = if identity.trust_domain() == ours {
            let pods = self
                .authorizer
                .pods(identity.namespace(), identity.service_account());
            decide(node, &pods)
        } else {
            Err(Denial::TrustDomain(ours.clone()))
        };
        decision.map_err(|denial| {
            Status::permission_denied(format!("node {node} may not have {identity}: {denial}"))
        })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Issue {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut caller = None;
        match self.answer(&mut caller, request).await {
            Ok(cert_chain) => Ok(Response::new(IstioCertificateResponse { cert_chain })),
            Err(status) => {
                let node = caller.as_ref().map(ToString::to_string);
                tracing::warn!(node, code = ?status.code(), reason = status.message(), "certificate refused");
                self.events.refused(caller.as_ref(), status.code());
                Err(status)
            }
        }
    }
}

/// The token of an `authorization: Bearer TOKEN` header.
pub(crate) fn bearer(metadata: &tonic::metadata::MetadataMap) -> Result<&str, &'static str> {
    let mut headers = metadata.get_all("authorization").iter();
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err("exactly one authorization header with a bearer token is needed");
    };
    header
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .ok_or("the authorization header carries no bearer token")
}

fn requested(metadata: Option<&Struct>) -> Result<SpiffeId, Status> {
    let wanted = metadata
        .and_then(|metadata| metadata.fields.get("ImpersonatedIdentity"))
        .and_then(|value| value.kind.as_ref());
    let Some(value::Kind::StringValue(text)) = wanted else {
        return Err(Status::invalid_argument(
            "metadata ImpersonatedIdentity must name the identity that is wanted",
        ));
    };
    if text.len() > IDENTITY_MAX {
        return Err(Status::invalid_argument(format!(
            "ImpersonatedIdentity is longer than {IDENTITY_MAX} bytes"
        )));
    }
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("ImpersonatedIdentity {error}")))
}

fn blame(error: &IssueError) -> Status {
    match error {
        IssueError::Request(_) => Status::invalid_argument(error.to_string()),
        IssueError::TrustDomain(..) => Status::permission_denied(error.to_string()),
        IssueError::IssuerExpired => Status::failed_precondition(error.to_string()),
        IssueError::Library(_) => Status::internal(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
