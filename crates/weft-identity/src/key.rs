//! A private key (P-256) and the certificate signing request for it.
//!
//! In: nothing but randomness, or PKCS#8 bytes of a former process. Out: signatures, a CSR with the identity as its only
//! name (no CN), and a rustls signing key. Key bytes are zeroized on drop and appear in no `Debug` or error text.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType, SignatureAlgorithm};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use weft_types::SpiffeId;
use zeroize::Zeroizing;

/// A P-256 key pair. Not `Clone`: one key belongs to one identity.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

/// Why a key cannot be made or used. Never carries key material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The bytes are not a PKCS#8 document with a P-256 key.
    #[error("not a P-256 key in PKCS#8 form")]
    Format,
    /// The cryptographic library refused: out of randomness or memory.
    #[error("the cryptographic library cannot make or use a key")]
    Library,
    /// The identity cannot be written into a CSR. Does not happen for a [`SpiffeId`], which is ASCII.
    #[error("the identity is not text that a certificate can carry")]
    Name,
}

impl PrivateKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Library)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Takes over a key that was exported by [`Self::pkcs8`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
            .map_err(|_| KeyError::Format)?;
        Ok(Self {
            pair,
            pkcs8: Zeroizing::new(der.to_vec()),
        })
    }

    /// The key itself, for the handover between proxies and for files that only their owner reads.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The uncompressed public point, as a certificate's subject public key carries it.
    pub fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// A CSR in PEM: the identity as its only URI SAN, an empty subject (the form that Istio's agents send).
    pub fn request(&self, identity: &SpiffeId) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.to_string().try_into();
        params.subject_alt_names = vec![SanType::URI(uri.map_err(|_| KeyError::Name)?)];
        params
            .serialize_request(self)
            .and_then(|request| request.pem())
            .map_err(|_| KeyError::Library)
    }

    pub(crate) fn tls_signer(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, KeyError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8()));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|_| KeyError::Format)
    }
}

// === impl PrivateKey ===

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(P-256)")
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| rcgen::Error::RingUnspecified)
    }
}

#[cfg(test)]
mod tests;
