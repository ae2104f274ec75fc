//! The files of an authority, in the layout of Istio's plug-in `cacerts`.
//!
//! In: a folder. Out: the signing key, its certificate, what stands above it, the roots. A folder of our own is made whole
//! under another name and then renamed, so that a crash leaves either nothing or all of it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use weft_types::TrustDomain;
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

use super::{AuthorityError, self_signed_root};
use crate::credentials::{ROOTS_MAX, validity};
use crate::san;
use crate::verify::CHAIN_MAX;

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

pub(super) struct Files {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) intermediates: Vec<String>,
    pub(super) roots_pem: String,
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// The folder of our own root below `state_dir`, made on the first start.
pub(super) fn ensure(
    state_dir: &Path,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<PathBuf, AuthorityError> {
    let folder = state_dir.join("ca");
    if folder.exists() {
        return Ok(folder);
    }
    let (key, certificate) = self_signed_root(trust_domain, now)?;
    let key = Zeroizing::new(key.serialize_pem());
    let fresh = state_dir.join(format!("ca.{:016x}", rand::random::<u64>()));
    let made = make(&fresh, key.as_bytes(), certificate.as_bytes())
        .and_then(|()| fs::rename(&fresh, &folder));
    match made {
        Ok(()) => Ok(folder),
        Err(reason) => {
            // Another process may have been first; its root is as good.
            drop(fs::remove_dir_all(&fresh));
            if folder.exists() {
                return Ok(folder);
            }
            Err(AuthorityError::File {
                path: folder,
                reason,
            })
        }
    }
}

fn make(folder: &Path, key: &[u8], certificate: &[u8]) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let files = [
        (KEY, key, 0o600),
        (CERTIFICATE, certificate, 0o644),
        (CHAIN, certificate, 0o644),
        (ROOTS, certificate, 0o644),
    ];
    for (name, content, mode) in files {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(folder.join(name))?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    fs::File::open(folder)?.sync_all()
}

pub(super) fn refuse_exposed(folder: &Path) -> Result<(), AuthorityError> {
    const OTHERS: u32 = 0o077;
    let path = folder.join(KEY);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.permissions().mode() & OTHERS == 0 => Ok(()),
        Ok(metadata) => Err(AuthorityError::Exposed {
            mode: metadata.permissions().mode() & 0o7777,
            path,
        }),
        Err(reason) => Err(AuthorityError::File { path, reason }),
    }
}

pub(super) fn read(folder: &Path, now: SystemTime) -> Result<Files, AuthorityError> {
    let content = |name: &str, reason| AuthorityError::Content {
        path: folder.join(name),
        reason,
    };
    let issuer = certificates(folder, CERTIFICATE, 1)?.remove(0);
    let certificate = issuer.1.clone();
    let key_pem = Zeroizing::new(text(folder, KEY)?);
    let key = KeyPair::from_pem(&key_pem)
        .map_err(|_| content(KEY, "holds no private key in PKCS#8 PEM"))?;
    let parsed = parse(folder, &certificate)?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(content(CERTIFICATE, "carries another key than ca-key.pem"));
    }
    if !parsed.is_ca() {
        return Err(content(
            CERTIFICATE,
            "is not a certificate authority's: basicConstraints must say CA:TRUE",
        ));
    }
    let usage = parsed.key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(content(
            CERTIFICATE,
            "may not sign certificates: its keyUsage lacks keyCertSign",
        ));
    }
    refuse_untimely(&folder.join(CERTIFICATE), &parsed, now)?;
    let roots = certificates(folder, ROOTS, ROOTS_MAX)?;
    if roots.iter().all(|(_, root)| is_over(root, now)) {
        return Err(content(ROOTS, "holds no root that is still valid"));
    }
    let mut above = vec![issuer];
    if folder.join(CHAIN).exists() {
        above.extend(certificates(folder, CHAIN, CHAIN_MAX)?);
    }
    // Users' chain files start with or without the issuer and end with or without the root.
    above.dedup_by(|a, b| a.1 == b.1);
    above.retain(|(_, der)| roots.iter().all(|(_, root)| root != der));
    Ok(Files {
        certificate,
        key,
        intermediates: above.into_iter().map(|(pem, _)| pem).collect(),
        roots_pem: roots.iter().map(|(pem, _)| pem.as_str()).collect(),
        roots: roots.into_iter().map(|(_, der)| der).collect(),
    })
}

/// A certificate that has ended, or whose time has not come: in words, as "the chain does not hold" would send nobody to the right file.
fn refuse_untimely(
    path: &Path,
    certificate: &X509Certificate<'_>,
    now: SystemTime,
) -> Result<(), AuthorityError> {
    let (not_before, not_after) = validity(certificate);
    let reason = if not_after <= now {
        "has expired: renew it"
    } else if not_before > now {
        "is not valid yet: check the clock of this machine"
    } else {
        return Ok(());
    };
    Err(AuthorityError::Content {
        path: path.to_owned(),
        reason,
    })
}

/// Whether a root has ended; one that cannot be read is another error's business.
fn is_over(root: &CertificateDer<'_>, now: SystemTime) -> bool {
    san::parse(root).is_ok_and(|root| validity(&root).1 <= now)
}

pub(super) fn parse<'a>(
    folder: &Path,
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, AuthorityError> {
    san::parse(certificate).map_err(|_| AuthorityError::Content {
        path: folder.join(CERTIFICATE),
        reason: "is not a certificate",
    })
}

/// Each certificate of a file, as the text that it was given in and as DER.
fn certificates(
    folder: &Path,
    name: &str,
    max: usize,
) -> Result<Vec<(String, CertificateDer<'static>)>, AuthorityError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let text = text(folder, name)?;
    let wrong = |reason| AuthorityError::Content {
        path: folder.join(name),
        reason,
    };
    let mut all = Vec::new();
    // Whatever stands between certificates (comments, subject lines) is left out.
    for section in text.split_inclusive(END) {
        let Some(start) = section.find(BEGIN) else {
            continue;
        };
        let pem = format!("{}\n", &section[start..]);
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| wrong("is not PEM"))?;
        all.push((pem, der));
    }
    match all.len() {
        0 => Err(wrong("holds no certificate")),
        count if count > max => Err(wrong("holds too many certificates")),
        _ => Ok(all),
    }
}

fn text(folder: &Path, name: &str) -> Result<String, AuthorityError> {
    let path = folder.join(name);
    fs::read_to_string(&path).map_err(|reason| AuthorityError::File { path, reason })
}
