//! The table of bad certificates: each refused by our server and by our client, over real TLS.
//!
//! Every case is one change to a chain that is accepted as it stands (the negative control, in the same run).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, OtherNameValue,
    SanType, SignatureAlgorithm,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::stranger::Stranger;
use super::{DB, WEB, id};
use crate::testing::{HOUR, Root, ca_params, leaf_params, raw_uri, uri};
use crate::tls::TlsError;
use crate::verify::CHAIN_MAX;

/// How to make a chain. The default is accepted.
struct Recipe {
    leaf: CertificateParams,
    algorithm: &'static SignatureAlgorithm,
    /// Authorities between root and leaf, from the root down.
    intermediates: Vec<CertificateParams>,
    /// Signed by a root that the other side does not trust.
    foreign_root: bool,
    /// What is done to the finished chain.
    mangle: fn(&mut Vec<CertificateDer<'static>>),
    /// The handshake is signed with another key than the leaf's.
    foreign_key: bool,
}

type Case = (&'static str, fn(&mut Recipe));

impl Recipe {
    fn good() -> Self {
        Self {
            leaf: leaf_params(WEB),
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
            intermediates: Vec::new(),
            foreign_root: false,
            mangle: |_| {},
            foreign_key: false,
        }
    }

    fn with(change: fn(&mut Self)) -> Self {
        let mut recipe = Self::good();
        change(&mut recipe);
        recipe
    }

    fn cook(self, trusted: &Root) -> Stranger {
        let foreign = Root::new("root");
        let root = if self.foreign_root { &foreign } else { trusted };
        let mut chain = Vec::new();
        let mut issuer: Option<Issuer<'static, KeyPair>> = None;
        for params in self.intermediates {
            let key = KeyPair::generate().unwrap();
            let signer = issuer.as_ref().unwrap_or(&root.issuer);
            let certificate = params.signed_by(&key, signer).unwrap();
            chain.insert(0, certificate.der().clone());
            issuer = Some(Issuer::new(params, key));
        }
        let key = KeyPair::generate_for(self.algorithm).unwrap();
        let signer = issuer.as_ref().unwrap_or(&root.issuer);
        let leaf = self.leaf.signed_by(&key, signer).unwrap();
        chain.insert(0, leaf.der().clone());
        (self.mangle)(&mut chain);
        let key = if self.foreign_key {
            KeyPair::generate().unwrap()
        } else {
            key
        };
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).unwrap();
        Stranger::with(Arc::new(CertifiedKey::new(chain, signer)))
    }
}

fn is_refusal(error: &TlsError) -> bool {
    matches!(
        error,
        TlsError::Peer(_)
            | TlsError::PeerValidity
            | TlsError::PeerAuthority
            | TlsError::Protocol(_)
    )
}

async fn refused_by_both_sides(cases: &[Case]) {
    let root = Root::new("root");
    let db = root.credentials(DB);
    Recipe::good()
        .cook(&root)
        .dials(&db)
        .await
        .expect("control");
    let answered = Recipe::good().cook(&root).answers(&db, &[id(WEB)]).await;
    answered.expect("control");
    for (name, change) in cases {
        let as_client = Recipe::with(*change).cook(&root).dials(&db).await;
        let error = as_client.expect_err(name);
        assert!(is_refusal(&error), "server, {name}: {error:?}");
        let server = Recipe::with(*change).cook(&root);
        let error = server.answers(&db, &[id(WEB)]).await.expect_err(name);
        assert!(is_refusal(&error), "client, {name}: {error:?}");
    }
}

fn names(recipe: &mut Recipe, names: Vec<SanType>) {
    recipe.leaf.subject_alt_names = names;
}

fn times(params: &mut CertificateParams, from: Duration, to: Duration, past: bool) {
    let now = SystemTime::now();
    let at = |by| if past { now - by } else { now + by };
    params.not_before = at(from).into();
    params.not_after = at(to).into();
}

const LEAVES: &[Case] = &[
    ("expired an hour ago", |r| {
        times(&mut r.leaf, 2 * HOUR, HOUR, true);
    }),
    ("expired two seconds ago", |r| {
        times(&mut r.leaf, HOUR, Duration::from_secs(2), true);
    }),
    ("not valid before an hour", |r| {
        times(&mut r.leaf, HOUR, 2 * HOUR, false);
    }),
    ("ends before it starts", |r| {
        times(&mut r.leaf, HOUR, 2 * HOUR, true);
    }),
    ("no extended key usage", |r| {
        r.leaf.extended_key_usages.clear();
    }),
    ("for code signing", |r| {
        r.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    }),
    ("for mail", |r| {
        r.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    }),
    ("for OCSP", |r| {
        r.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
    }),
    ("for any purpose only", |r| {
        r.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    }),
    ("key usage without digital signature", |r| {
        r.leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    }),
    ("key usage to sign certificates", |r| {
        r.leaf.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }),
    ("key usage to sign revocations", |r| {
        r.leaf.key_usages.push(KeyUsagePurpose::CrlSign);
    }),
    ("an authority as leaf", |r| {
        r.leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }),
    ("an authority of path length 0 as leaf", |r| {
        r.leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    }),
    ("unknown critical extension", |r| {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 9, 9], vec![5, 0]);
        unknown.set_criticality(true);
        r.leaf.custom_extensions = vec![unknown];
    }),
    ("two name extensions", |r| {
        r.leaf.custom_extensions = vec![raw_uri(WEB.as_bytes())];
    }),
    ("signed with another key", |r| r.foreign_key = true),
];

const NAMES: &[Case] = &[
    ("no name", |r| names(r, vec![])),
    ("identity in the common name only", |r| {
        names(r, vec![]);
        r.leaf.distinguished_name.push(DnType::CommonName, WEB);
    }),
    ("DNS only", |r| {
        names(
            r,
            vec![SanType::DnsName("web.default.svc".try_into().unwrap())],
        );
    }),
    ("identity as DNS name", |r| {
        names(r, vec![SanType::DnsName(WEB.try_into().unwrap())]);
    }),
    ("identity as mail address", |r| {
        names(r, vec![SanType::Rfc822Name(WEB.try_into().unwrap())]);
    }),
    ("identity as other name", |r| {
        let value = OtherNameValue::Utf8String(WEB.to_owned());
        names(r, vec![SanType::OtherName((vec![1, 2, 3], value))]);
    }),
    ("address only", |r| {
        names(r, vec![SanType::IpAddress([10, 0, 0, 1].into())]);
    }),
    ("two identities", |r| names(r, vec![uri(WEB), uri(DB)])),
    ("two identities, expected one last", |r| {
        names(r, vec![uri(DB), uri(WEB)]);
    }),
    ("the same identity twice", |r| {
        names(r, vec![uri(WEB), uri(WEB)]);
    }),
    ("an identity and a web address", |r| {
        names(r, vec![uri(WEB), uri("https://example.com/")]);
    }),
    ("three identities", |r| {
        names(r, vec![uri(WEB), uri(DB), uri(WEB)]);
    }),
];

/// Each is the only URI name of an otherwise good certificate.
const URIS: &[&[u8]] = &[
    b"",
    b"web",
    b"spiffe:",
    b"spiffe://",
    b"spiffe:///ns/default/sa/web",
    b"spiffe://cluster.local",
    b"spiffe://cluster.local/",
    b"spiffe://cluster.local/ns/default",
    b"spiffe://cluster.local/ns/default/sa",
    b"spiffe://cluster.local/ns/default/sa/",
    b"spiffe://cluster.local/ns//sa/web",
    b"spiffe://cluster.local//ns/default/sa/web",
    b"spiffe://cluster.local/ns/default/sa/web/",
    b"spiffe://cluster.local/ns/default/sa/web/x",
    b"spiffe://cluster.local/ns/default/sa/web\0",
    b"spiffe://cluster.local/ns/default/sa/web\0.evil",
    b"spiffe://cluster.local\0.evil/ns/default/sa/web",
    b"spiffe://cluster.local/ns/default/sa/web\n",
    b"spiffe://cluster.local/ns/default/sa/web\t",
    b" spiffe://cluster.local/ns/default/sa/web",
    b"spiffe://cluster.local/ns/default/sa/web ",
    b"spiffe://cluster.local/ns/default/sa/web?x=1",
    b"spiffe://cluster.local/ns/default/sa/web#x",
    b"spiffe://cluster.local/ns/default/sa/w%65b",
    b"spiffe://cluster.local/ns/default%2fsa/web",
    b"spiffe://cluster.local/ns/../ns/default/sa/web",
    b"spiffe://cluster.local/ns/./sa/web",
    b"spiffe://cluster.local/ns/default/sa/..",
    b"spiffe://cluster.local/ns/default/sa/*",
    b"spiffe://cluster.local/ns/default\\sa\\web",
    b"spiffe://cluster.local/NS/default/SA/web",
    b"spiffe://cluster.local/namespace/default/sa/web",
    b"spiffe://cluster.local/sa/web/ns/default",
    b"SPIFFE://cluster.local/ns/default/sa/web",
    b"Spiffe://cluster.local/ns/default/sa/web",
    b"spiffe:/cluster.local/ns/default/sa/web",
    b"https://cluster.local/ns/default/sa/web",
    b"spiffe://Cluster.Local/ns/default/sa/web",
    b"spiffe://cluster.local:443/ns/default/sa/web",
    b"spiffe://user@cluster.local/ns/default/sa/web",
    b"spiffe://cluster.local./ns/default/sa/web",
    b"spiffe://cluster.local.evil/ns/default/sa/web",
    b"spiffe://evil.cluster.local/ns/default/sa/web",
    b"spiffe://cluster.loca/ns/default/sa/web",
    b"spiffe://cluster/ns/default/sa/web",
    b"spiffe://evil/ns/default/sa/web",
    b"spiffe://xn--cluster.local/ns/default/sa/web",
    "spiffe://clust\u{435}r.local/ns/default/sa/web".as_bytes(),
    "spiffe://cluster.local/ns/default/sa/w\u{435}b".as_bytes(),
    b"spiffe://cluster.local/ns/default/sa/w\xffb",
];

const CHAINS: &[Case] = &[
    ("another root", |r| r.foreign_root = true),
    ("another root with an intermediate", |r| {
        r.foreign_root = true;
        r.intermediates = vec![ca_params("middle")];
    }),
    ("expired intermediate", |r| {
        let mut middle = ca_params("middle");
        times(&mut middle, 2 * HOUR, HOUR, true);
        r.intermediates = vec![middle];
    }),
    ("intermediate of tomorrow", |r| {
        let mut middle = ca_params("middle");
        times(&mut middle, 24 * HOUR, 48 * HOUR, false);
        r.intermediates = vec![middle];
    }),
    ("a leaf as intermediate", |r| {
        r.intermediates = vec![leaf_params(DB)];
    }),
    ("intermediate without basic constraints", |r| {
        let mut middle = ca_params("middle");
        middle.is_ca = IsCa::NoCa;
        r.intermediates = vec![middle];
    }),
    ("intermediate that may not sign certificates", |r| {
        let mut middle = ca_params("middle");
        middle.key_usages = vec![KeyUsagePurpose::CrlSign];
        r.intermediates = vec![middle];
    }),
    ("path length exceeded", |r| {
        let mut upper = ca_params("upper");
        upper.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        r.intermediates = vec![upper, ca_params("lower")];
    }),
    ("intermediate for code signing", |r| {
        let mut middle = ca_params("middle");
        middle.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        r.intermediates = vec![middle];
    }),
    (
        "intermediate constrained to a DNS name that the leaf does not have",
        |r| {
            let mut middle = ca_params("middle");
            middle.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("a.example".to_owned())],
                excluded_subtrees: Vec::new(),
            });
            r.leaf
                .subject_alt_names
                .push(SanType::DnsName("b.example".try_into().unwrap()));
            r.intermediates = vec![middle];
        },
    ),
    (
        "intermediate with a URI constraint, which nobody here can judge",
        |r| {
            let mut middle = ca_params("middle");
            // NameConstraints { permitted [0] { base [6] "evil.example" } }
            let mut content = vec![0x30, 18, 0xa0, 16, 0x30, 14, 0x86, 12];
            content.extend(b"evil.example");
            let mut constraint = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
            constraint.set_criticality(true);
            middle.custom_extensions = vec![constraint];
            r.intermediates = vec![middle];
        },
    ),
    ("missing intermediate", |r| {
        r.intermediates = vec![ca_params("middle")];
        r.mangle = |chain| chain.truncate(1);
    }),
    ("leaf missing", |r| {
        r.intermediates = vec![ca_params("middle")];
        r.mangle = |chain| drop(chain.remove(0));
    }),
    ("too many certificates", |r| {
        r.mangle = |chain| chain.resize(CHAIN_MAX + 1, chain[0].clone());
    }),
    ("a hundred certificates", |r| {
        r.mangle = |chain| chain.resize(100, chain[0].clone());
    }),
    ("too deep", |r| {
        r.intermediates = (0..CHAIN_MAX)
            .map(|n| ca_params(&format!("ca {n}")))
            .collect();
    }),
    ("more certificate than a stranger may send", |r| {
        let huge = CustomExtension::from_oid_content(&[1, 3, 9, 8], vec![0; 60_000]);
        r.leaf.custom_extensions = vec![huge];
    }),
    ("garbage", |r| {
        r.mangle = |chain| chain[0] = CertificateDer::from(vec![0x5a; 300]);
    }),
    ("empty", |r| {
        r.mangle = |chain| chain[0] = CertificateDer::from(Vec::new());
    }),
    ("cut short", |r| {
        r.mangle = |chain| chain[0] = CertificateDer::from(chain[0][..chain[0].len() - 9].to_vec());
    }),
    ("trailing byte", |r| {
        r.mangle = |chain| {
            let mut der = chain[0].to_vec();
            der.push(0);
            chain[0] = der.into();
        };
    }),
    ("a flipped bit in the signature", |r| {
        r.mangle = |chain| {
            let mut der = chain[0].to_vec();
            *der.last_mut().unwrap() ^= 1;
            chain[0] = der.into();
        };
    }),
    ("a flipped bit in the name", |r| {
        r.mangle = |chain| {
            let mut der = chain[0].to_vec();
            let at = der.windows(6).position(|bytes| bytes == b"sa/web").unwrap();
            der[at + 3] = b'v';
            chain[0] = der.into();
        };
    }),
];

#[tokio::test]
async fn leaves_that_break_a_rule_are_refused() {
    refused_by_both_sides(LEAVES).await;
}

#[tokio::test]
async fn leaves_without_exactly_one_identity_are_refused() {
    refused_by_both_sides(NAMES).await;
}

#[tokio::test]
async fn chains_that_do_not_hold_are_refused() {
    refused_by_both_sides(CHAINS).await;
}

/// Every byte that is not a letter, a digit or one of `._-`, in the middle of a service account, and again of a trust domain.
fn foreign_bytes() -> impl Iterator<Item = Vec<u8>> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (0..=u8::MAX)
        .filter(move |byte| !legal(*byte))
        .flat_map(|byte| {
            let account = [
                b"spiffe://cluster.local/ns/default/sa/we",
                &[byte][..],
                b"b",
            ]
            .concat();
            let domain = [
                b"spiffe://cluster",
                &[byte][..],
                b".local/ns/default/sa/web",
            ]
            .concat();
            [account, domain]
        })
}

#[tokio::test]
async fn names_that_are_almost_an_identity_are_refused() {
    let names: Vec<Vec<u8>> = URIS
        .iter()
        .map(|uri| uri.to_vec())
        .chain(foreign_bytes())
        .collect();
    assert!(names.len() + LEAVES.len() + NAMES.len() + CHAINS.len() > 250);
    let root = Root::new("root");
    let db = root.credentials(DB);
    let cook = |bytes: &[u8]| {
        let mut recipe = Recipe::good();
        recipe.leaf.subject_alt_names.clear();
        recipe.leaf.custom_extensions = vec![raw_uri(bytes)];
        recipe.cook(&root)
    };
    cook(WEB.as_bytes()).dials(&db).await.expect("control");
    for bytes in &names {
        let shown = String::from_utf8_lossy(bytes);
        let error = cook(bytes).dials(&db).await.expect_err(&shown);
        assert!(is_refusal(&error), "server, {shown:?}: {error:?}");
        let error = cook(bytes)
            .answers(&db, &[id(WEB)])
            .await
            .expect_err(&shown);
        assert!(is_refusal(&error), "client, {shown:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_certificate_for_the_other_role_is_refused() {
    let root = Root::new("root");
    let db = root.credentials(DB);
    let only = |purpose: ExtendedKeyUsagePurpose| {
        let mut recipe = Recipe::good();
        recipe.leaf.extended_key_usages = vec![purpose];
        recipe.cook(&root)
    };
    let server_only = only(ExtendedKeyUsagePurpose::ServerAuth);
    assert!(is_refusal(&server_only.dials(&db).await.unwrap_err()));
    server_only.answers(&db, &[id(WEB)]).await.expect("control");
    let client_only = only(ExtendedKeyUsagePurpose::ClientAuth);
    let answered = client_only.answers(&db, &[id(WEB)]).await;
    assert!(is_refusal(&answered.unwrap_err()));
    client_only.dials(&db).await.expect("control");
}

#[tokio::test]
async fn a_peer_without_certificate_or_h2_or_tls_1_3_is_refused() {
    let root = Root::new("root");
    let db = root.credentials(DB);
    let mut nobody = Recipe::good().cook(&root);
    nobody.certified = None;
    assert!(is_refusal(&nobody.dials(&db).await.unwrap_err()));
    for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut stranger = Recipe::good().cook(&root);
        stranger.alpn = alpn;
        let dialled = stranger.dials(&db).await;
        assert!(matches!(dialled, Err(TlsError::Alpn)), "{dialled:?}");
        let answered = stranger.answers(&db, &[id(WEB)]).await;
        assert!(
            matches!(answered, Err(TlsError::Alpn | TlsError::Alert(_))),
            "{answered:?}"
        );
    }
}

#[tokio::test]
async fn good_chains_of_every_kind_are_accepted() {
    const GOOD: &[Case] = &[
        ("one intermediate", |r| {
            r.intermediates = vec![ca_params("middle")];
        }),
        ("two intermediates", |r| {
            r.intermediates = vec![ca_params("upper"), ca_params("lower")];
        }),
        ("intermediate of path length 0", |r| {
            let mut middle = ca_params("middle");
            middle.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            r.intermediates = vec![middle];
        }),
        ("intermediate for TLS", |r| {
            let mut middle = ca_params("middle");
            middle.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
            r.intermediates = vec![middle];
        }),
        ("intermediate without key usage", |r| {
            let mut middle = ca_params("middle");
            middle.key_usages.clear();
            r.intermediates = vec![middle];
        }),
        ("P-384", |r| r.algorithm = &rcgen::PKCS_ECDSA_P384_SHA384),
        ("RSA 2048", |r| r.algorithm = &rcgen::PKCS_RSA_SHA256),
        ("Ed25519", |r| r.algorithm = &rcgen::PKCS_ED25519),
        ("a DNS name beside the identity", |r| {
            r.leaf
                .subject_alt_names
                .push(SanType::DnsName("web".try_into().unwrap()));
        }),
        ("no key usage", |r| r.leaf.key_usages.clear()),
        ("no basic constraints", |r| r.leaf.is_ca = IsCa::NoCa),
        ("more purposes", |r| {
            r.leaf
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::CodeSigning);
        }),
        ("unknown harmless extension", |r| {
            let unknown = CustomExtension::from_oid_content(&[1, 3, 9, 9], vec![5, 0]);
            r.leaf.custom_extensions = vec![unknown];
        }),
        ("a common name", |r| {
            r.leaf
                .distinguished_name
                .push(DnType::CommonName, "anything");
        }),
        ("a certificate sent twice", |r| {
            r.mangle = |chain| chain.push(chain[0].clone());
        }),
    ];
    let root = Root::new("root");
    let db = root.credentials(DB);
    for (name, change) in GOOD {
        let dialled = Recipe::with(*change).cook(&root).dials(&db).await;
        assert_eq!(dialled.expect(name).peer_identity(), &id(WEB), "{name}");
        let server = Recipe::with(*change).cook(&root);
        server.answers(&db, &[id(WEB)]).await.expect(name);
    }
}
