//! Decides whether a certificate chain proves an identity, for rustls in both directions.
//!
//! In: a peer's chain. Out: yes, or an error that rustls turns into an alert. The order is: size, chain to a root (webpki:
//! signatures, time, path length, name constraints, usage), then our rules for the leaf ([`crate::san`]), then the trust
//! domain, then (client side) the identities that were expected. No host names, no OCSP, no public roots.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError as TlsCertificateError, DistinguishedName, OtherError};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use weft_types::{SpiffeId, TrustDomain};

use crate::san::{self, CertificateError, Usage};

/// Most certificates in one chain, roots excluded: leaf, and what a company's hierarchy puts above it (three is common).
pub const CHAIN_MAX: usize = 8;

/// Whom one identity trusts: the anchors, its own trust domain, and explicit aliases of it.
#[derive(Clone, Debug)]
pub struct Trust {
    anchors: Vec<TrustAnchor<'static>>,
    domains: Vec<TrustDomain>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a chain does not prove an identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// No certificate at all, or more than [`CHAIN_MAX`].
    #[error("{0} certificates in the chain, must be 1 to {CHAIN_MAX}")]
    Length(usize),
    /// A root of ours cannot be read.
    #[error("a root certificate is malformed: {0}")]
    Root(webpki::Error),
    /// Signature, time, constraints or usage somewhere in the chain.
    #[error("the chain does not hold: {0}")]
    Path(webpki::Error),
    /// The leaf is no workload certificate.
    #[error("the certificate {0}")]
    Leaf(#[from] CertificateError),
    /// Another trust domain, and no alias of ours.
    #[error("{0} belongs to a foreign trust domain")]
    TrustDomain(SpiffeId),
    /// A workload of the mesh, but not the one that was dialled.
    #[error("the peer is {got}, expected {expected}")]
    Unexpected {
        /// Who answered.
        got: SpiffeId,
        /// Who was expected, as a list.
        expected: String,
    },
}

impl Trust {
    /// Trusts what chains to `roots` and belongs to `domain`.
    pub fn new(domain: TrustDomain, roots: &[CertificateDer<'static>]) -> Result<Self, ChainError> {
        let anchors = roots
            .iter()
            .map(|root| anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(ChainError::Root)?;
        Ok(Self {
            anchors,
            domains: vec![domain],
            algorithms: rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms,
        })
    }

    /// The same with aliases of the trust domain.
    #[must_use]
    pub fn with_aliases(&self, aliases: &[TrustDomain]) -> Self {
        let mut trust = self.clone();
        trust.domains.extend_from_slice(aliases);
        trust
    }

    /// Checks a chain (leaf first) and tells whom it proves.
    pub fn check_chain(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<SpiffeId, ChainError> {
        let (leaf, intermediates) = chain.split_first().ok_or(ChainError::Length(0))?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.check(
            leaf,
            intermediates,
            usage,
            UnixTime::since_unix_epoch(since),
        )
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<SpiffeId, ChainError> {
        if intermediates.len() >= CHAIN_MAX {
            return Err(ChainError::Length(intermediates.len() + 1));
        }
        // Intermediates rarely carry an extended key usage, so it is required of the leaf only, in `check_usage`.
        let purpose = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let end_entity = EndEntityCert::try_from(leaf).map_err(ChainError::Path)?;
        end_entity
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                now,
                purpose,
                None,
                Some(&signers_may_sign),
            )
            .map_err(ChainError::Path)?;
        let leaf = san::parse(leaf)?;
        san::check_usage(&leaf, usage)?;
        let identity = san::identity_of(&leaf)?;
        if !self.domains.contains(identity.trust_domain()) {
            return Err(ChainError::TrustDomain(identity));
        }
        Ok(identity)
    }
}

/// RFC 5280 section 4.2.1.3: where key usage is present, only one with keyCertSign signs certificates. webpki does not look.
fn signers_may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    for signer in path.intermediate_certificates() {
        let der = signer.der();
        let signer = san::parse(&der).map_err(|_| webpki::Error::BadDer)?;
        let usage = signer.key_usage().map_err(|_| webpki::Error::BadDer)?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

/// Server side: any identity of the trust domain may come; policy decides later.
#[derive(Debug)]
pub(crate) struct AnyWorkload(pub(crate) Arc<Trust>);

/// Client side: only one of these identities may answer. An empty list accepts nobody.
#[derive(Debug)]
pub(crate) struct ExpectedWorkloads {
    pub(crate) trust: Arc<Trust>,
    pub(crate) expected: Box<[SpiffeId]>,
}

// === impl AnyWorkload ===

impl ClientCertVerifier for AnyWorkload {
    /// No hints: they would tell a stranger our roots, and clients have one certificate anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0
            .check(leaf, intermediates, Usage::Client, now)
            .map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is off".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

// === impl ExpectedWorkloads ===

impl ServerCertVerifier for ExpectedWorkloads {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let got = self
            .trust
            .check(leaf, intermediates, Usage::Server, now)
            .map_err(refuse)?;
        if self.expected.contains(&got) {
            return Ok(ServerCertVerified::assertion());
        }
        let expected: Vec<_> = self.expected.iter().map(ToString::to_string).collect();
        Err(refuse(ChainError::Unexpected {
            got,
            expected: expected.join(", "),
        }))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is off".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.trust.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.algorithms.supported_schemes()
    }
}

/// Keeps the reason inside rustls's error, so that [`crate::tls::TlsError`] can tell it, and picks the alert.
fn refuse(error: ChainError) -> Error {
    let reason = match error {
        ChainError::Path(webpki::Error::CertExpired { .. }) => TlsCertificateError::Expired,
        ChainError::Path(webpki::Error::CertNotValidYet { .. }) => TlsCertificateError::NotValidYet,
        ChainError::Path(webpki::Error::UnknownIssuer) => TlsCertificateError::UnknownIssuer,
        other => TlsCertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(reason)
}
