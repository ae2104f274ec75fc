//! What is signed, what is refused, and what the folder must look like.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;
use weft_runtime::ManualClock;

use super::{Authority, AuthorityError, AuthorityOptions, BACKDATE, IssueError, RequestError};
use crate::credentials::{Credentials, unix};
use crate::key::PrivateKey;
use crate::san;
use crate::testing::{HOUR, Root, WEB, ca_params, id, uri};

const DAY: Duration = Duration::from_hours(24);

fn load(folder: &Path) -> Result<Authority, AuthorityError> {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let domain = id(WEB).trust_domain().clone();
    Authority::load_or_create(folder, domain, AuthorityOptions::default(), clock)
}

fn authority() -> (TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = load(folder.path()).unwrap();
    (folder, authority)
}

fn csr(params: &CertificateParams, algorithm: &'static SignatureAlgorithm) -> String {
    let key = KeyPair::generate_for(algorithm).unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn asking_for(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params
}

#[test]
fn what_it_signs_is_accepted_as_credentials() {
    let (_folder, authority) = authority();
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&id(WEB)).unwrap();
    let chain = authority.sign(&csr, &id(WEB), HOUR).unwrap();
    assert_eq!(chain.len(), 2, "leaf and roots: no intermediate");
    assert_eq!(chain[1], authority.roots_pem());
    let now = SystemTime::now();
    let credentials = Credentials::from_response(id(WEB), key, &chain, now).unwrap();
    let (start, end) = (credentials.not_before(), credentials.not_after());
    assert!(now.duration_since(start).unwrap() >= BACKDATE);
    let life = end.duration_since(now).unwrap();
    assert!(life <= HOUR && life > HOUR.checked_sub(Duration::from_secs(5)).unwrap());
}

#[test]
fn a_leaf_carries_exactly_what_was_authorised() {
    let (_folder, authority) = authority();
    let mut params = asking_for(vec![uri(WEB)]);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "admin");
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let csr = csr(&params, &rcgen::PKCS_ECDSA_P256_SHA256);
    let chain = authority.sign(&csr, &id(WEB), HOUR).unwrap();
    let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let leaf = san::parse(&der).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(
        names.critical,
        "RFC 5280 4.2.1.6: critical when the subject is empty"
    );
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(san::identity_of(&leaf).unwrap(), id(WEB));
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.code_signing);
    let key_usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(key_usage.digital_signature() && !key_usage.key_encipherment());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    assert_eq!(leaf.raw_serial().len(), 16);
}

#[test]
fn serials_do_not_repeat() {
    let (_folder, authority) = authority();
    let csr = PrivateKey::generate().unwrap().request(&id(WEB)).unwrap();
    let sign = || authority.sign(&csr, &id(WEB), HOUR).unwrap().remove(0);
    let serials: std::collections::HashSet<_> = (0..50)
        .map(|_| {
            let der = CertificateDer::from_pem_slice(sign().as_bytes()).unwrap();
            san::parse(&der).unwrap().raw_serial_as_string()
        })
        .collect();
    assert_eq!(serials.len(), 50);
}

#[test]
fn lifetimes_are_held_within_bounds() {
    let (_folder, authority) = authority();
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&id(WEB)).unwrap();
    let cases = [
        (Duration::ZERO, DAY),
        (Duration::from_secs(1), Duration::from_mins(1)),
        (HOUR, HOUR),
        (10_000 * DAY, 90 * DAY),
        (Duration::from_secs(u64::MAX / 2), 90 * DAY),
    ];
    for (asked, given) in cases {
        let chain = authority.sign(&csr, &id(WEB), asked).unwrap();
        let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        let (start, end) = super::validity(&san::parse(&der).unwrap());
        let life = unix(end) - unix(start);
        let backdate = BACKDATE.min(given / 4);
        assert_eq!(life, (given + backdate).as_secs(), "{asked:?}");
    }
}

#[test]
fn the_middle_of_every_lifetime_is_still_to_come() {
    let (_folder, authority) = authority();
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&id(WEB)).unwrap();
    for asked in [60, 90, 300, 600, 3600, 86_400].map(Duration::from_secs) {
        let now = SystemTime::now();
        let chain = authority.sign(&csr, &id(WEB), asked).unwrap();
        let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        let (start, end) = super::validity(&san::parse(&der).unwrap());
        let middle = start + end.duration_since(start).unwrap() / 2;
        let left = middle.duration_since(now).unwrap_or_default();
        assert!(left >= asked / 3, "{left:?} of {asked:?}");
    }
}

#[test]
fn a_request_for_more_than_was_authorised_is_refused() {
    let (_folder, authority) = authority();
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let other = "spiffe://cluster.local/ns/default/sa/admin";
    let dns = || SanType::DnsName("web".try_into().unwrap());
    let mut ca = asking_for(vec![uri(WEB)]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut signer = asking_for(vec![uri(WEB)]);
    signer.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let foreign = |name: &str| RequestError::ForeignName(name.to_owned());
    let cases = [
        (asking_for(vec![uri(other)]), foreign(other)),
        (asking_for(vec![uri(WEB), uri(other)]), foreign(other)),
        (
            asking_for(vec![uri("spiffe://x/y")]),
            foreign("spiffe://x/y"),
        ),
        (
            asking_for(vec![uri(WEB), uri(WEB)]),
            RequestError::ExtraNames,
        ),
        (asking_for(vec![uri(WEB), dns()]), RequestError::ExtraNames),
        (asking_for(vec![dns()]), RequestError::ExtraNames),
        (
            asking_for(vec![SanType::IpAddress([10, 0, 0, 1].into())]),
            RequestError::ExtraNames,
        ),
        (ca, RequestError::Authority),
        (signer, RequestError::Authority),
    ];
    for (params, expected) in cases {
        let refused = authority
            .sign(&csr(&params, p256), &id(WEB), HOUR)
            .unwrap_err();
        let IssueError::Request(reason) = refused else {
            panic!("{refused}");
        };
        assert_eq!(reason, expected);
    }
    let nameless = csr(&asking_for(vec![]), p256);
    authority
        .sign(&nameless, &id(WEB), HOUR)
        .expect("the identity comes from the authorisation, a nameless CSR is fine");
}

#[test]
fn malformed_requests_are_refused() {
    let (_folder, authority) = authority();
    let good = PrivateKey::generate().unwrap().request(&id(WEB)).unwrap();
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(good.as_bytes());
    let der = der.unwrap().to_vec();
    let mut flipped = der.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut renamed = der.clone();
    let at = der.windows(6).position(|bytes| bytes == b"sa/web").unwrap();
    renamed[at + 3] = b'v';
    let mut trailing = der.clone();
    trailing.push(0);
    let cases = [
        (String::new(), RequestError::Malformed),
        ("garbage".to_owned(), RequestError::Malformed),
        (pem(&[0x30, 0x03, 1, 2, 3]), RequestError::Malformed),
        (pem(&der[..der.len() - 4]), RequestError::Malformed),
        (pem(&trailing), RequestError::Malformed),
        (pem(&flipped), RequestError::Signature),
        (pem(&renamed), RequestError::Signature),
        (good.replace("REQUEST", "KEY"), RequestError::Malformed),
        ("x".repeat(17_000), RequestError::Size(17_000)),
    ];
    assert_eq!(
        pem(&der).replace('\n', ""),
        good.replace(['\r', '\n'], ""),
        "control"
    );
    for (csr, expected) in cases {
        let refused = authority.sign(&csr, &id(WEB), HOUR).unwrap_err();
        let IssueError::Request(reason) = refused else {
            panic!("{refused}");
        };
        assert_eq!(reason, expected);
    }
}

#[test]
fn only_keys_of_known_strength_are_signed() {
    let (_folder, authority) = authority();
    let sign = |algorithm| {
        let csr = csr(&asking_for(vec![uri(WEB)]), algorithm);
        authority.sign(&csr, &id(WEB), HOUR)
    };
    sign(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    sign(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    sign(&rcgen::PKCS_RSA_SHA256).unwrap();
    assert!(matches!(
        sign(&rcgen::PKCS_ED25519),
        Err(IssueError::Request(RequestError::Key))
    ));
    // RSA-1024, made by openssl: rcgen rightly makes no such key.
    let weak = authority.sign(include_str!("tests/rsa1024.csr.pem"), &id(WEB), HOUR);
    assert!(
        matches!(weak, Err(IssueError::Request(RequestError::Key))),
        "{weak:?}"
    );
}

#[test]
fn another_trust_domain_is_refused() {
    let (_folder, authority) = authority();
    let foreign = id("spiffe://evil.example/ns/default/sa/web");
    let csr = PrivateKey::generate().unwrap().request(&foreign).unwrap();
    let refused = authority.sign(&csr, &foreign, HOUR);
    assert!(matches!(refused, Err(IssueError::TrustDomain(..))));
}

#[test]
fn the_root_survives_a_restart_and_its_key_is_private() {
    let (folder, first) = authority();
    let second = load(folder.path()).unwrap();
    assert_eq!(first.roots_pem(), second.roots_pem());
    let key = folder.path().join("ca/ca-key.pem");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        load(folder.path()),
        Err(AuthorityError::Exposed { mode: 0o640, .. })
    ));
}

#[test]
fn an_issuer_near_its_end_signs_nothing_and_never_beyond_itself() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let domain = id(WEB).trust_domain().clone();
    let options = AuthorityOptions::default();
    let authority =
        Authority::load_or_create(folder.path(), domain, options, clock.clone()).unwrap();
    let csr = PrivateKey::generate().unwrap().request(&id(WEB)).unwrap();
    clock.set_wall(authority.not_after() - HOUR);
    let chain = authority.sign(&csr, &id(WEB), DAY).unwrap();
    let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let (_, end) = super::validity(&san::parse(&der).unwrap());
    assert_eq!(end, authority.not_after());
    clock.set_wall(authority.not_after() + HOUR);
    let refused = authority.sign(&csr, &id(WEB), DAY);
    assert!(matches!(refused, Err(IssueError::IssuerExpired)));
}

/// A plug-in folder as Istio's users have it: an intermediate below a corporate root.
struct Plugin {
    folder: TempDir,
    root: Root,
}

impl Plugin {
    fn new() -> Self {
        let plugin = Self {
            folder: tempfile::tempdir().unwrap(),
            root: Root::new("corporate root"),
        };
        let key = KeyPair::generate().unwrap();
        let issuer = ca_params("mesh")
            .signed_by(&key, &plugin.root.issuer)
            .unwrap();
        plugin.write("ca-cert.pem", &issuer.pem());
        plugin.write("ca-key.pem", &key.serialize_pem());
        plugin.write(
            "cert-chain.pem",
            &format!("{}{}", issuer.pem(), plugin.root.pem),
        );
        plugin.write("root-cert.pem", &plugin.root.pem);
        plugin
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn load(&self) -> Result<Authority, AuthorityError> {
        let clock = Arc::new(ManualClock::new(SystemTime::now()));
        let domain = id(WEB).trust_domain().clone();
        let options = AuthorityOptions::default();
        Authority::from_folder(self.folder.path(), domain, options, clock)
    }
}

#[test]
fn a_plug_in_intermediate_is_sent_along_and_roots_come_last() {
    let plugin = Plugin::new();
    let authority = plugin.load().unwrap();
    let key = PrivateKey::generate().unwrap();
    let csr = key.request(&id(WEB)).unwrap();
    let chain = authority.sign(&csr, &id(WEB), HOUR).unwrap();
    assert_eq!(chain.len(), 3);
    let credentials = Credentials::from_response(id(WEB), key, &chain, SystemTime::now()).unwrap();
    assert_eq!(credentials.chain().len(), 2);
    assert_eq!(credentials.roots(), std::slice::from_ref(&plugin.root.der));

    let second = Root::new("next root");
    plugin.write(
        "root-cert.pem",
        &format!("{}# next\n{}", plugin.root.pem, second.pem),
    );
    let roots = plugin.load().unwrap().roots_pem().matches("BEGIN").count();
    assert_eq!(roots, 2, "both roots of a rotation are published");
}

/// What is broken, a word that the error says, and how; the text is a key that fits nothing.
type BadFolder = (&'static str, &'static str, fn(&Plugin, String));

impl Plugin {
    /// Another issuer, made with these changes.
    fn issuer(&self, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params("mesh");
        change(&mut params);
        let issuer = params.signed_by(&key, &self.root.issuer).unwrap();
        self.write("ca-cert.pem", &issuer.pem());
        self.write("ca-key.pem", &key.serialize_pem());
        self.write("cert-chain.pem", &issuer.pem());
    }
}

#[test]
fn a_plug_in_folder_that_cannot_work_is_refused_with_file_and_reason() {
    let key = || KeyPair::generate().unwrap().serialize_pem();
    let cases: &[BadFolder] = &[
        (
            "foreign key",
            "another key than ca-key.pem",
            |plugin, key| {
                plugin.write("ca-key.pem", &key);
            },
        ),
        ("no key", "ca-key.pem holds no private key", |plugin, _| {
            plugin.write("ca-key.pem", "");
        }),
        (
            "no root",
            "root-cert.pem holds no certificate",
            |plugin, _| {
                plugin.write("root-cert.pem", "");
            },
        ),
        ("foreign root", "do not belong together", |plugin, _| {
            plugin.write("root-cert.pem", &Root::new("x").pem);
        }),
        ("garbage", "ca-cert.pem", |plugin, _| {
            plugin.write("ca-cert.pem", "-----BEGIN CERTIFICATE-----\n!");
        }),
        ("two issuers", "ca-cert.pem holds too many", |plugin, _| {
            let pem = format!("{0}{0}", plugin.root.pem);
            plugin.write("ca-cert.pem", &pem);
        }),
        ("missing file", "ca-cert.pem", |plugin, _| {
            fs::remove_file(plugin.folder.path().join("ca-cert.pem")).unwrap();
        }),
        ("no authority", "basicConstraints", |plugin, _| {
            plugin.issuer(|params| params.is_ca = IsCa::ExplicitNoCa);
        }),
        ("wrong usage", "keyCertSign", |plugin, _| {
            plugin.issuer(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
        }),
        ("expired", "ca-cert.pem has expired", |plugin, _| {
            plugin.issuer(|params| {
                params.not_before = (SystemTime::now() - 2 * DAY).into();
                params.not_after = (SystemTime::now() - DAY).into();
            });
        }),
        ("future", "not valid yet", |plugin, _| {
            plugin.issuer(|params| {
                params.not_before = (SystemTime::now() + DAY).into();
                params.not_after = (SystemTime::now() + 2 * DAY).into();
            });
        }),
    ];
    Plugin::new().load().expect("control");
    let same = Plugin::new();
    same.issuer(|_| {});
    same.load().expect("control");
    for (name, word, change) in cases {
        let plugin = Plugin::new();
        change(&plugin, key());
        let error = plugin.load().expect_err(name).to_string();
        assert!(error.contains(word), "{name}: {error}");
    }
}

#[test]
fn the_control_planes_own_certificate_names_its_hosts_only() {
    let (_folder, authority) = authority();
    let names = [
        "weft-controller.weft-system.svc".to_owned(),
        "127.0.0.1".to_owned(),
    ];
    let server = authority.server_certificate(&names).unwrap();
    let der = CertificateDer::from_pem_slice(server.chain_pem.as_bytes()).unwrap();
    let leaf = san::parse(&der).unwrap();
    san::identity_of(&leaf).expect_err("no workload identity");
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    let end_entity = webpki::EndEntityCert::try_from(&der).unwrap();
    for name in &names {
        let name = rustls_pki_types::ServerName::try_from(name.as_str()).unwrap();
        end_entity.verify_is_valid_for_subject_name(&name).unwrap();
    }
}

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at > chunk.len() { '=' } else { digit.into() });
        }
    }
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}
