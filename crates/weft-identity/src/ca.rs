//! Asking a certificate authority to sign.
//!
//! In: an identity and a CSR for it. Out: PEM of the chain, or a refusal that names identity and reason.
//! The trait is the seam for tests; [`CaClient`] is the only one in production. Nothing that comes back is trusted here:
//! [`Credentials`](crate::Credentials) checks it.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use thiserror::Error;
use weft_types::SpiffeId;

use crate::credentials::CredentialsError;
use crate::key::KeyError;

mod client;

pub use client::{CaClient, CaOptions};

/// The answer of [`CertificateSource::sign`].
pub type Signed<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, CaError>> + Send + 'a>>;

/// Something that signs certificates for identities.
pub trait CertificateSource: fmt::Debug + Send + Sync + 'static {
    /// Asks for a certificate of `identity`, valid for about `ttl`.
    ///
    /// Out: PEM of the leaf, of each intermediate, and the root bundle last. Cancel safe: the answer is dropped.
    fn sign<'a>(&'a self, identity: &'a SpiffeId, csr: String, ttl: Duration) -> Signed<'a>;
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CaError {
    /// The authority answered no. Asking again helps only once something changes there.
    #[error("the certificate authority refused {identity}: {reason}")]
    Refused {
        /// For whom it was asked.
        identity: SpiffeId,
        /// Its words.
        reason: String,
    },
    /// The authority cannot be reached, or cannot answer now.
    #[error("the certificate authority is unavailable: {0}")]
    Unavailable(String),
    /// What it sent is not what was asked for.
    #[error("the certificate authority answered {identity} with something unusable: {reason}")]
    Answer {
        /// For whom it was asked.
        identity: SpiffeId,
        /// What is wrong with it.
        reason: Box<CredentialsError>,
    },
    /// A file of ours that the call needs.
    #[error("cannot read {path}: {reason}")]
    File {
        /// Token or root certificate.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
}
