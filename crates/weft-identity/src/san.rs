//! From a leaf certificate to the identity that it claims.
//!
//! In: DER of a leaf. Out: its [`SpiffeId`], or why it has none. webpki checks chain, time and signature but knows nothing
//! of URI names, so these rules are ours (X.509-SVID specification, sections 2 to 5).
//! Departure: a DNS or IP name beside the URI is tolerated, as SPIFFE allows; it is never looked at.

use thiserror::Error;
use weft_types::{SpiffeId, SpiffeIdError};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Why a leaf certificate does not name a workload of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not one X.509 certificate.
    #[error("not a certificate: {0}")]
    Malformed(&'static str),
    /// No URI name, or several: it must be exactly one.
    #[error("has {0} URI names, must have exactly one")]
    UriNames(usize),
    /// Its URI name is not an identity of the mesh.
    #[error("its URI name is not a workload identity: {0}")]
    Identity(#[from] SpiffeIdError),
    /// It may sign certificates, so it is not a leaf.
    #[error("is a certificate authority, not a workload")]
    Authority,
    /// Its key usage or extended key usage does not allow what it was used for.
    #[error("is not meant for {0}")]
    Usage(&'static str),
}

/// What a leaf certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To prove who a client is.
    Client,
    /// To prove who a server is.
    Server,
}

/// Parses one certificate; trailing bytes are refused.
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], leaf)) => Ok(leaf),
        Ok(_) => Err(CertificateError::Malformed("trailing bytes")),
        Err(_) => Err(CertificateError::Malformed(
            "not DER of an X.509 certificate",
        )),
    }
}

/// The one identity in a leaf certificate. Does not check chain, time or usage.
pub fn identity_of(leaf: &X509Certificate<'_>) -> Result<SpiffeId, CertificateError> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| CertificateError::Malformed("subject alternative name"))?;
    let mut uris = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.count()) {
        (None, _) => Err(CertificateError::UriNames(0)),
        (Some(uri), 0) => Ok(uri.parse()?),
        (Some(_), more) => Err(CertificateError::UriNames(more + 1)),
    }
}

/// Checks that the leaf is one, and may be used so. Extended key usage must be there and must name the usage.
pub fn check_usage(leaf: &X509Certificate<'_>, usage: Usage) -> Result<(), CertificateError> {
    let constraints = leaf
        .basic_constraints()
        .map_err(|_| CertificateError::Malformed("basic constraints"))?;
    if constraints.is_some_and(|extension| extension.value.ca) {
        return Err(CertificateError::Authority);
    }
    let key_usage = leaf
        .key_usage()
        .map_err(|_| CertificateError::Malformed("key usage"))?;
    if let Some(allowed) = key_usage.map(|extension| extension.value) {
        if allowed.key_cert_sign() || allowed.crl_sign() {
            return Err(CertificateError::Authority);
        }
        if !allowed.digital_signature() {
            return Err(CertificateError::Usage("digital signatures"));
        }
    }
    let extended = leaf
        .extended_key_usage()
        .map_err(|_| CertificateError::Malformed("extended key usage"))?
        .map(|extension| extension.value);
    match usage {
        Usage::Client if extended.is_some_and(|allowed| allowed.client_auth) => Ok(()),
        Usage::Server if extended.is_some_and(|allowed| allowed.server_auth) => Ok(()),
        Usage::Client => Err(CertificateError::Usage("TLS clients")),
        Usage::Server => Err(CertificateError::Usage("TLS servers")),
    }
}
