//! Certificates for tests of this crate: good ones, and any kind of bad ones.
//!
//! In: a recipe. Out: chain, key and roots. Nothing here checks anything.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use weft_runtime::Clock;
use weft_types::SpiffeId;

use crate::credentials::Credentials;
use crate::key::PrivateKey;

pub(crate) const WEB: &str = "spiffe://cluster.local/ns/default/sa/web";
pub(crate) const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// Wall time that follows tokio's (paused) time.
#[derive(Debug)]
pub(crate) struct PausedClock {
    start: tokio::time::Instant,
    wall: SystemTime,
}

impl PausedClock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self {
            start: tokio::time::Instant::now(),
            wall: SystemTime::now(),
        })
    }
}

impl Clock for PausedClock {
    fn now(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    fn wall(&self) -> SystemTime {
        self.wall + self.start.elapsed()
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A subject alternative name extension with one URI of any bytes.
pub(crate) fn raw_uri(bytes: &[u8]) -> CustomExtension {
    let mut names = vec![0x86];
    der_length(&mut names, bytes.len());
    names.extend_from_slice(bytes);
    let mut sequence = vec![0x30];
    der_length(&mut sequence, names.len());
    sequence.extend(names);
    CustomExtension::from_oid_content(&[2, 5, 29, 17], sequence)
}

fn der_length(out: &mut Vec<u8>, length: usize) {
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
}

pub(crate) fn leaf_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(name)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 48 * HOUR).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A root that signs whatever it is given.
pub(crate) struct Root {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Root {
    pub(crate) fn new(name: &str) -> Self {
        let params = ca_params(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        let key = PrivateKey::generate().unwrap();
        let leaf = leaf_params(name).signed_by(&key, &self.issuer).unwrap();
        let chain = vec![leaf.der().clone()];
        let roots = vec![self.der.clone()];
        Credentials::new(id(name), key, chain, roots, SystemTime::now()).unwrap()
    }
}
