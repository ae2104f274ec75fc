//! All keys and chains as bytes, for the sealed memory file that the next proxy takes over.
//!
//! In: credentials. Out: bytes that are wiped on drop; and back. The form is private to this file and versioned: a proxy of
//! another version that does not know it starts without keys and asks the authority, it never guesses.
//!
//! ```text
//! "WEFTKEYS" version:u16 count:u32 { identity key chain-length:u32 {certificate} roots-length:u32 {certificate} } sha256
//! ```
//! where identity, key and certificate are each `length:u32 bytes`, and integers are big-endian.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsError, ROOTS_MAX};
use crate::key::PrivateKey;
use crate::verify::CHAIN_MAX;

const MAGIC: &[u8; 8] = b"WEFTKEYS";
const VERSION: u16 = 1;

/// Most identities taken over. A node runs a few hundred pods.
const IDENTITIES_MAX: usize = 16 * 1024;

/// Why bytes of a former proxy are not used. Never carries any of them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandoverError {
    /// Not ours at all.
    #[error("not a key handover")]
    Foreign,
    /// Of a version that this program does not know.
    #[error("key handover of version {0}, this program knows {VERSION}")]
    Version(u16),
    /// Cut short or damaged.
    #[error("the key handover is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes all credentials down.
pub fn export(all: &[Arc<Credentials>]) -> Zeroizing<Vec<u8>> {
    // The size is known beforehand: growing would leave copies of keys in freed memory.
    let field = |bytes: &[u8]| 4 + bytes.len();
    let of_one = |one: &Arc<Credentials>| {
        let certificates = one.chain().iter().chain(one.roots());
        field(one.identity().to_string().as_bytes())
            + field(one.key().pkcs8())
            + 8
            + certificates.map(|der| field(der)).sum::<usize>()
    };
    let size = MAGIC.len() + 2 + 4 + all.iter().map(of_one).sum::<usize>() + SHA256_OUTPUT_LEN;
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&(all.len() as u32).to_be_bytes());
    for one in all {
        put(&mut out, one.identity().to_string().as_bytes());
        put(&mut out, one.key().pkcs8());
        for list in [one.chain(), one.roots()] {
            out.extend_from_slice(&(list.len() as u32).to_be_bytes());
            for der in list {
                put(&mut out, der);
            }
        }
    }
    let sum = digest(&SHA256, &out);
    out.extend_from_slice(sum.as_ref());
    debug_assert_eq!(out.len(), size, "a wrong size would have reallocated");
    out
}

/// Reads what [`export`] wrote; leaves out what is no longer valid.
pub fn import(bytes: &[u8], now: SystemTime) -> Result<Vec<Credentials>, HandoverError> {
    let mut rest = Reader(bytes);
    if rest.take(MAGIC.len()).ok() != Some(MAGIC.as_slice()) {
        return Err(HandoverError::Foreign);
    }
    let version = rest.take(2)?;
    let version = u16::from_be_bytes([version[0], version[1]]);
    if version != VERSION {
        return Err(HandoverError::Version(version));
    }
    let body = bytes.len().checked_sub(SHA256_OUTPUT_LEN);
    let (body, sum) = bytes.split_at(body.ok_or(HandoverError::Damaged("too short"))?);
    if digest(&SHA256, body).as_ref() != sum {
        return Err(HandoverError::Damaged("checksum"));
    }
    rest = Reader(&body[MAGIC.len() + 2..]);
    let count = rest.length(IDENTITIES_MAX)?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.extend(one(&mut rest, now)?);
    }
    if !rest.0.is_empty() {
        return Err(HandoverError::Damaged("trailing bytes"));
    }
    Ok(all)
}

fn one(rest: &mut Reader<'_>, now: SystemTime) -> Result<Option<Credentials>, HandoverError> {
    let identity = std::str::from_utf8(rest.field()?)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(HandoverError::Damaged("identity"))?;
    let key = PrivateKey::from_pkcs8(rest.field()?).map_err(|_| HandoverError::Damaged("key"))?;
    let chain = rest.certificates(CHAIN_MAX)?;
    let roots = rest.certificates(ROOTS_MAX)?;
    match Credentials::new(identity, key, chain, roots, now) {
        Ok(credentials) => Ok(Some(credentials)),
        // Intact, but time has passed since the export.
        Err(CredentialsError::Validity { .. } | CredentialsError::Chain(_)) => Ok(None),
        Err(_) => Err(HandoverError::Damaged("credentials")),
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HandoverError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(HandoverError::Damaged("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn length(&mut self, max: usize) -> Result<usize, HandoverError> {
        let bytes: [u8; 4] = self.take(4)?.try_into().expect("four were taken");
        let length = u32::from_be_bytes(bytes) as usize;
        if length > max {
            return Err(HandoverError::Damaged("a length beyond its limit"));
        }
        Ok(length)
    }

    fn field(&mut self) -> Result<&'a [u8], HandoverError> {
        let length = self.length(self.0.len())?;
        self.take(length)
    }

    fn certificates(&mut self, max: usize) -> Result<Vec<CertificateDer<'static>>, HandoverError> {
        (0..self.length(max)?)
            .map(|_| Ok(CertificateDer::from(self.field()?.to_vec())))
            .collect()
    }
}

#[cfg(test)]
mod tests;
