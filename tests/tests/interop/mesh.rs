//! One authority, and certificates of it in the form that each side takes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use tempfile::TempDir;
use weft_identity::{Authority, AuthorityOptions, Credentials, PrivateKey};
use weft_runtime::SystemClock;
use weft_testkit::envoy::Certificates;
use weft_types::{SpiffeId, TrustDomain};

pub(crate) fn id(name: &str) -> SpiffeId {
    name.parse().unwrap()
}

pub(crate) struct Mesh {
    authority: Authority,
    _folder: TempDir,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("cluster.local").unwrap();
        let options = AuthorityOptions::default();
        let clock = Arc::new(SystemClock);
        Self {
            authority: Authority::load_or_create(folder.path(), domain, options, clock).unwrap(),
            _folder: folder,
        }
    }

    /// For our own side.
    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        self.credentials_trusting(name, self)
    }

    /// For our own side, trusting the roots of another mesh as well.
    pub(crate) fn credentials_trusting(&self, name: &str, other: &Self) -> Credentials {
        let key = PrivateKey::generate().unwrap();
        let csr = key.request(&id(name)).unwrap();
        let mut chain = self
            .authority
            .sign(&csr, &id(name), Duration::ZERO)
            .unwrap();
        let roots = chain.last_mut().unwrap();
        roots.push_str(other.authority.roots_pem());
        Credentials::from_response(id(name), key, &chain, SystemTime::now()).unwrap()
    }

    /// For Envoy.
    pub(crate) fn certificates(&self, name: &str) -> Certificates {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let mut chain = self
            .authority
            .sign(&csr, &id(name), Duration::ZERO)
            .unwrap();
        let roots = chain.pop().unwrap();
        Certificates {
            chain: chain.concat(),
            key: key.serialize_pem(),
            roots,
            peers: "spiffe://cluster.local/".to_owned(),
        }
    }
}
