//! A certificate authority: signs exactly the identity that was authorised.
//!
//! In: a folder with the signing key (a root made by ourselves, or a plug-in `cacerts` folder as Istio's users have it), CSRs
//! with an identity that somebody else has authorised. Out: leaf, intermediates, root bundle; the control plane's own server
//! certificate. Not here: who may have which identity (the controller's `issue`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer};
use rcgen::{IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use weft_runtime::Clock;
use weft_types::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::credentials::{parse_pem, validity};
use crate::key::{KeyError, PrivateKey};
use crate::san::Usage;
use crate::verify::{ChainError, Trust};

mod folder;
mod request;

pub use request::{CSR_MAX, RequestError};

/// Leaves start this much in the past: clocks of nodes differ.
const BACKDATE: Duration = Duration::from_mins(5);

/// But by no more than this part of their lifetime. Istio's node proxy renews in the middle between start and end: one that
/// started further in the past than it has yet to live would be renewed at once, and again, as fast as we sign.
const BACKDATE_PART: u32 = 4;

/// Shortest lifetime given: shorter would expire before the renewal at half life could be retried a few times.
const TTL_MIN: Duration = Duration::from_mins(1);

/// Bounds of what is signed.
#[derive(Clone, Debug)]
pub struct AuthorityOptions {
    /// Lifetime when none is asked for.
    pub ttl_default: Duration,
    /// Longest lifetime; longer requests get this.
    pub ttl_max: Duration,
}

/// Signs certificates. The key stays inside.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    public_point: Vec<u8>,
    not_after: SystemTime,
    /// PEM of what stands between a leaf and the roots, the issuer first; empty when the issuer is a root.
    intermediates: Vec<String>,
    roots_pem: String,
    roots: Vec<CertificateDer<'static>>,
    trust_domain: TrustDomain,
    options: AuthorityOptions,
    clock: Arc<dyn Clock>,
}

/// A server certificate with its key, as text for a TLS server.
pub struct ServerCertificate {
    /// Leaf and intermediates.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: Zeroizing<String>,
    /// When it must have been replaced.
    pub not_after: SystemTime,
}

/// Why there is no authority. Every message says what to put right.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// A file is missing, unreadable or cannot be written.
    #[error("cannot use {path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Others may read the key.
    #[error("{path} may be read by others (mode {mode:o}): chmod 600")]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file has the wrong content.
    #[error("{path} {reason}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The files do not belong together: a trial certificate did not hold.
    #[error("key, certificate and roots do not belong together: {0}")]
    Trial(ChainError),
    /// The signing certificate is at its end.
    #[error("the signing certificate has expired or is about to: renew it")]
    Expired,
    /// The library refused.
    #[error("cannot make or sign a certificate: {0}")]
    Library(#[from] rcgen::Error),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Why a request was not signed.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The CSR is malformed, unsigned, weak, or asks for more than was authorised.
    #[error("the CSR {0}")]
    Request(#[from] RequestError),
    /// The identity belongs to another trust domain.
    #[error("{0} is not of trust domain {1}")]
    TrustDomain(SpiffeId, TrustDomain),
    /// The issuer itself is at its end: the operator must renew it.
    #[error("the signing certificate has expired or ends within {} s", TTL_MIN.as_secs())]
    IssuerExpired,
    /// The library refused.
    #[error("cannot sign: {0}")]
    Library(#[from] rcgen::Error),
}

impl Authority {
    /// Loads the authority kept in `state_dir`, or makes a root there on the first start (key file 0600).
    pub fn load_or_create(
        state_dir: &Path,
        trust_domain: TrustDomain,
        options: AuthorityOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let folder = folder::ensure(state_dir, &trust_domain, clock.wall())?;
        folder::refuse_exposed(&folder)?;
        Self::from_folder(&folder, trust_domain, options, clock)
    }

    /// Loads a plug-in folder: `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`.
    ///
    /// Who may read the key there is the business of whoever mounted it.
    pub fn from_folder(
        folder: &Path,
        trust_domain: TrustDomain,
        options: AuthorityOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let files = folder::read(folder, clock.wall())?;
        let issuer = Issuer::from_ca_cert_der(&files.certificate, files.key)?;
        let leaf = folder::parse(folder, &files.certificate)?;
        let (_, not_after) = validity(&leaf);
        let authority = Self {
            public_point: issuer.key().der_bytes().to_vec(),
            issuer,
            not_after,
            intermediates: files.intermediates,
            roots_pem: files.roots_pem,
            roots: files.roots,
            trust_domain,
            options,
            clock,
        };
        authority.trial()?;
        Ok(authority)
    }

    /// PEM of the root bundle, for clients of the control plane.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// Whose identities it signs.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// When the signing certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs a CSR for exactly `identity`, which the caller has authorised; nothing else of the CSR but its key is taken over.
    ///
    /// `ttl` of zero means the default. Out: leaf, intermediates, root bundle last, each as PEM.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &SpiffeId,
        ttl: Duration,
    ) -> Result<Vec<String>, IssueError> {
        if *identity.trust_domain() != self.trust_domain {
            return Err(IssueError::TrustDomain(
                identity.clone(),
                self.trust_domain.clone(),
            ));
        }
        let key = request::key_of(csr_pem, identity)?;
        if key.der_bytes() == self.public_point {
            return Err(RequestError::OurKey.into());
        }
        let mut params = self.leaf_params(ttl)?;
        let uri = identity.to_string().try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![leaf.pem()];
        chain.extend(self.intermediates.iter().cloned());
        chain.push(self.roots_pem.clone());
        Ok(chain)
    }

    /// Makes a key and a certificate for the control plane's own server, for the given DNS names and IP addresses.
    pub fn server_certificate(&self, names: &[String]) -> Result<ServerCertificate, IssueError> {
        let key = KeyPair::generate()?;
        let mut params = self.leaf_params(self.options.ttl_max)?;
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut chain_pem = params.signed_by(&key, &self.issuer)?.pem();
        for certificate in &self.intermediates {
            chain_pem.push_str(certificate);
        }
        Ok(ServerCertificate {
            chain_pem,
            key_pem: Zeroizing::new(key.serialize_pem()),
            not_after: params.not_after.into(),
        })
    }

    fn leaf_params(&self, ttl: Duration) -> Result<CertificateParams, IssueError> {
        let now = self.clock.wall();
        let left = self.not_after.duration_since(now).unwrap_or_default();
        if left < TTL_MIN {
            return Err(IssueError::IssuerExpired);
        }
        let ttl = if ttl.is_zero() {
            self.options.ttl_default
        } else {
            ttl
        };
        let ttl = ttl.min(self.options.ttl_max).max(TTL_MIN).min(left);
        let mut params = CertificateParams::default();
        params.not_before = (now - backdate(ttl)).into();
        params.not_after = (now + ttl).into();
        params.serial_number = Some(serial());
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    /// Signs a certificate for nobody and checks it as a peer would: finds a foreign key, a missing intermediate, an expired
    /// or constrained issuer at start instead of at the first handshake.
    fn trial(&self) -> Result<(), AuthorityError> {
        let identity = SpiffeId::new(self.trust_domain.clone(), "weft", "trial")
            .expect("legal literals in a checked trust domain");
        let csr = PrivateKey::generate()?.request(&identity)?;
        let signed = self
            .sign(&csr, &identity, TTL_MIN)
            .map_err(|error| match error {
                IssueError::Library(error) => AuthorityError::Library(error),
                IssueError::IssuerExpired => AuthorityError::Expired,
                IssueError::Request(_) | IssueError::TrustDomain(..) => {
                    unreachable!("the trial request is our own")
                }
            })?;
        let (_, above_roots) = signed
            .split_last()
            .expect("the root bundle is always there");
        let mut chain = Vec::new();
        for element in above_roots {
            chain.extend(parse_pem(element).expect("made or checked by us"));
        }
        let trust =
            Trust::new(self.trust_domain.clone(), &self.roots).map_err(AuthorityError::Trial)?;
        trust
            .check_chain(&chain, Usage::Server, self.clock.wall())
            .map_err(AuthorityError::Trial)?;
        Ok(())
    }
}

// === impl Authority ===

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Default for AuthorityOptions {
    fn default() -> Self {
        Self {
            ttl_default: Duration::from_hours(24),
            ttl_max: Duration::from_hours(90 * 24),
        }
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

fn backdate(ttl: Duration) -> Duration {
    BACKDATE.min(ttl / BACKDATE_PART)
}

/// 128 random bits, positive and of full length in DER.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Makes a self-signed root: ten years, leaves only.
fn self_signed_root(
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(KeyPair, String), rcgen::Error> {
    const LIFETIME: Duration = Duration::from_hours(3650 * 24);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LIFETIME).into();
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    // Each root has a name of its own, so that during a rotation a wrong root reads as unknown, not as a bad signature.
    let name = format!("Weft root {:08x}", rand::random::<u32>());
    params.distinguished_name.push(DnType::CommonName, name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain.as_str());
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pem = params.self_signed(&key)?.pem();
    Ok((key, pem))
}

#[cfg(test)]
mod tests;
