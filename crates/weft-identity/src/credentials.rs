//! What one identity holds: a leaf with its chain, the key, and the roots that it trusts.
//!
//! In: a key and what the certificate authority answered (or what a former proxy handed over). Out: [`Credentials`], checked
//! once on the way in: the leaf names exactly this identity, carries this key, is valid now, and chains to its own roots.
//! rustls configurations made from it are kept in it, so a rotation drops them together with the key. Not here: fetching.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use weft_types::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;

use crate::key::{KeyError, PrivateKey};
use crate::san::{self, CertificateError, Usage};
use crate::verify::{CHAIN_MAX, ChainError, Trust};

mod config;

pub use config::ALPN;
use config::Configs;

/// Most roots in one bundle: three phases of a rotation times several trust bundles.
pub const ROOTS_MAX: usize = 64;

/// A leaf with its chain, the key, and the roots that it trusts.
pub struct Credentials {
    identity: SpiffeId,
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    trust: Arc<Trust>,
    certified: Arc<CertifiedKey>,
    configs: Configs,
}

/// Why an answer of the certificate authority, or a chain that was handed over, is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialsError {
    /// Not PEM, or not the expected list: leaf, intermediates, root bundle last.
    #[error("the chain is not a list of PEM certificates with the roots last: {0}")]
    Form(&'static str),
    /// The leaf is not what was asked for.
    #[error("the certificate {0}")]
    Leaf(#[from] CertificateError),
    /// The leaf names another identity.
    #[error("asked for {asked} but the certificate names {got}")]
    Identity {
        /// What was asked for.
        asked: SpiffeId,
        /// What came.
        got: SpiffeId,
    },
    /// The leaf carries another public key.
    #[error("the certificate is for another key")]
    ForeignKey,
    /// It is expired or not yet valid; the clocks may differ.
    #[error(
        "the certificate is not valid now (valid {not_before} to {not_after} as unix time): compare the clocks"
    )]
    Validity {
        /// Unix seconds.
        not_before: u64,
        /// Unix seconds.
        not_after: u64,
    },
    /// It does not chain to the roots that came with it.
    #[error("the certificate does not chain to the roots that came with it: {0}")]
    Chain(#[from] ChainError),
    /// The key cannot be used.
    #[error("the key cannot be used: {0}")]
    Key(#[from] KeyError),
}

impl Credentials {
    /// Takes the answer of `CreateCertificate`: PEM of the leaf, one PEM for each intermediate, the root bundle last.
    pub fn from_response(
        identity: SpiffeId,
        key: PrivateKey,
        response: &[String],
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let [chain @ .., bundle] = response else {
            return Err(CredentialsError::Form("it is empty"));
        };
        let mut certificates = Vec::new();
        for element in chain {
            certificates.extend(parse_pem(element)?);
        }
        Self::new(identity, key, certificates, parse_pem(bundle)?, now)
    }

    /// Checks and assembles; `chain` starts with the leaf.
    pub fn new(
        identity: SpiffeId,
        key: PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let Some(leaf_der) = chain.first().filter(|_| chain.len() <= CHAIN_MAX) else {
            return Err(CredentialsError::Form("no leaf, or too many certificates"));
        };
        if roots.is_empty() || roots.len() > ROOTS_MAX {
            return Err(CredentialsError::Form("no root, or too many roots"));
        }
        let leaf = san::parse(leaf_der)?;
        let got = san::identity_of(&leaf)?;
        if got != identity {
            return Err(CredentialsError::Identity {
                asked: identity,
                got,
            });
        }
        if leaf.public_key().subject_public_key.data.as_ref() != key.public_point() {
            return Err(CredentialsError::ForeignKey);
        }
        let (not_before, not_after) = validity(&leaf);
        if now < not_before || now >= not_after {
            return Err(CredentialsError::Validity {
                not_before: unix(not_before),
                not_after: unix(not_after),
            });
        }
        let trust = Arc::new(Trust::new(identity.trust_domain().clone(), &roots)?);
        trust.check_chain(&chain, Usage::Client, now)?;
        trust.check_chain(&chain, Usage::Server, now)?;
        let serial = leaf.raw_serial_as_string();
        let certified = Arc::new(CertifiedKey::new(chain.clone(), key.tls_signer()?));
        Ok(Self {
            identity,
            key,
            chain,
            roots,
            serial,
            not_before,
            not_after,
            trust,
            certified,
            configs: Configs::default(),
        })
    }

    /// Accepts peers of these trust domains as well; none by default. Explicit configuration, never implied.
    #[must_use]
    pub fn with_aliases(mut self, aliases: &[TrustDomain]) -> Self {
        self.trust = Arc::new(self.trust.with_aliases(aliases));
        self.configs = Configs::default();
        self
    }

    /// Whom it speaks for.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The leaf's serial number in hex.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Start of validity, usually some minutes before issue.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity: no handshake succeeds from here on.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Leaf first, roots not included.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The roots that peers must chain to.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The rustls configuration to be dialled with; made once, then shared.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, rustls::Error> {
        config::server(self)
    }

    /// The rustls configuration to dial with, for these expected identities; made once for each list, then shared.
    pub fn client_config(&self, expected: &[SpiffeId]) -> Result<Arc<ClientConfig>, rustls::Error> {
        config::client(self, expected)
    }
}

// === impl Credentials ===

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity.to_string())
            .field("serial", &self.serial)
            .field("not_after", &unix(self.not_after))
            .finish_non_exhaustive()
    }
}

/// Reads every certificate of a PEM text; anything else in it is an error.
pub(crate) fn parse_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| CredentialsError::Form("not PEM"))
}

pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    // Before 1970 is clamped: nothing that old is valid anyway.
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.max(0) as u64);
    let validity = certificate.validity();
    (
        time(validity.not_before.timestamp()),
        time(validity.not_after.timestamp()),
    )
}

pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
