//! From a CSR to the one thing that is taken from it: the public key.
//!
//! In: PEM from a stranger. Out: the key, or why not. A CSR that asks for another identity, for more names, or to be an
//! authority is refused instead of trimmed: such a caller is broken or hostile, and either should show.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use weft_types::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Largest CSR in PEM: an RSA-4096 request with an identity has 2 KB.
pub const CSR_MAX: usize = 16 * 1024;

/// RSA moduli that are signed, in bits. Envoy agents of Istio ask with 2048 by default.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// What is wrong with a CSR.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Larger than [`CSR_MAX`].
    #[error("has {0} bytes, more than {CSR_MAX}")]
    Size(usize),
    /// Not one PKCS#10 request in PEM.
    #[error("is not one PKCS#10 request in PEM")]
    Malformed,
    /// Its signature does not prove possession of the key.
    #[error("is not signed by its own key")]
    Signature,
    /// The key is of a kind or size that is not signed.
    #[error("has a key that is not P-256, P-384 or RSA of 2048 to 4096 bits")]
    Key,
    /// It carries the authority's own public key.
    #[error("carries the authority's own key")]
    OurKey,
    /// It asks for another URI name than the authorised identity.
    #[error("asks for the name {0:?}, authorised is another")]
    ForeignName(String),
    /// It asks for names that are no workload identity, or for several.
    #[error("asks for more names than one identity")]
    ExtraNames,
    /// It asks to become an authority.
    #[error("asks for a certificate that may sign others")]
    Authority,
}

/// The public key of a well-formed, self-signed CSR that asks for nothing beyond `identity`.
pub(super) fn key_of(
    csr_pem: &str,
    identity: &SpiffeId,
) -> Result<SubjectPublicKeyInfo, RequestError> {
    if csr_pem.len() > CSR_MAX {
        return Err(RequestError::Size(csr_pem.len()));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|_| RequestError::Malformed)?;
    let (rest, csr) =
        X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let spki = &csr.certification_request_info.subject_pki;
    match spki.parsed().map_err(|_| RequestError::Key)? {
        PublicKey::EC(point) if matches!(point.key_size(), 256 | 384) => {}
        PublicKey::RSA(rsa) if RSA_BITS.contains(&rsa.key_size()) => {}
        _ => return Err(RequestError::Key),
    }
    csr.verify_signature()
        .map_err(|_| RequestError::Signature)?;
    refuse_excess(&csr, identity)?;
    SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| RequestError::Key)
}

fn refuse_excess(
    csr: &X509CertificationRequest<'_>,
    identity: &SpiffeId,
) -> Result<(), RequestError> {
    let mut names = 0;
    for attribute in csr.certification_request_info.iter_attributes() {
        let extensions = match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(request) => &request.extensions,
            // Not taken over, and harmless to carry.
            ParsedCriAttribute::ChallengePassword(_) | ParsedCriAttribute::UnsupportedAttribute => {
                continue;
            }
        };
        for extension in extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    for name in &san.general_names {
                        check_name(name, identity)?;
                        names += 1;
                    }
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err(RequestError::Authority);
                }
                ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                    return Err(RequestError::Authority);
                }
                ParsedExtension::ParseError { .. } => return Err(RequestError::Malformed),
                // Anything else is not taken over, and harmless to ask for.
                _ => {}
            }
        }
    }
    // A CSR without any name is fine: the identity comes from the caller's authorisation, not from here.
    if names > 1 {
        return Err(RequestError::ExtraNames);
    }
    Ok(())
}

fn check_name(name: &GeneralName<'_>, identity: &SpiffeId) -> Result<(), RequestError> {
    match name {
        GeneralName::URI(uri) if *uri == identity.to_string() => Ok(()),
        GeneralName::URI(uri) => Err(RequestError::ForeignName((*uri).to_owned())),
        _ => Err(RequestError::ExtraNames),
    }
}
