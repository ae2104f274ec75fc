//! An authority as users bring it along: a root of their own, an intermediate for the mesh, in the layout of Istio's `cacerts`.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;

/// The folder, and what is in it.
pub(crate) struct Plugin {
    folder: TempDir,
    root: CertificateDer<'static>,
    root_pem: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Plugin {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root_key = KeyPair::generate().unwrap();
        let root = params("corporate root").self_signed(&root_key).unwrap();
        let issuer = Issuer::new(params("corporate root"), root_key);
        let key = KeyPair::generate().unwrap();
        let intermediate = params("mesh").signed_by(&key, &issuer).unwrap();
        for (name, text) in [
            ("ca-cert.pem", intermediate.pem()),
            ("ca-key.pem", key.serialize_pem()),
            ("cert-chain.pem", intermediate.pem() + &root.pem()),
            ("root-cert.pem", root.pem()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self {
            folder,
            root: root.der().clone(),
            root_pem: root.pem(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    pub(crate) fn root_pem(&self) -> String {
        self.root_pem.clone()
    }
}

/// A key that fits nothing.
pub(crate) fn foreign_key() -> String {
    KeyPair::generate().unwrap().serialize_pem()
}
