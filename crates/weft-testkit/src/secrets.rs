//! Finding private keys where they have no business: in files, answers, memory.
//!
//! In: keys that are known, bytes to search. Out: which key is in them, and in which form. Known keys are found by their secret
//! number, whatever stands around it; [`Needles::any_key`] knows how keys of this mesh begin. Not here: where to look.

use std::fmt::Write as _;

use memchr::memmem::{Finder, find_iter};

/// Length of the secret number of a P-256 key.
pub const SECRET_BYTES: usize = 32;
/// How an `ECPrivateKey` with such a number begins (RFC 5915): version 1, then an octet string. PKCS#8 holds one as well.
const KEY_HEAD: [u8; 5] = [0x02, 0x01, 0x01, 0x04, SECRET_BYTES as u8];
/// Bytes at either end of a number that are searched for in base64: a line break hides one end at most.
const END_BYTES: usize = 15;

/// What is searched for.
#[derive(Clone, Debug, Default)]
pub struct Needles(Vec<(String, Finder<'static>)>);

// === impl Needles ===

impl Needles {
    /// Any private key at all: PEM, and the first bytes of PKCS#8 in base64 and raw.
    pub fn any_key() -> Self {
        let mut this = Self::default();
        this.put("PEM", b"PRIVATE KEY-----");
        // SEQUENCE, version 0, the algorithm's SEQUENCE of OIDs: P-256, in the longer and the shorter form.
        this.put("PKCS#8 in base64", b"MIGHAgEAMBMGByqGSM49");
        this.put("PKCS#8 in base64", b"MEECAQAwEwYHKoZIzj0C");
        this.put("an EC key in DER", &[&[0x30, 0x6b][..], &KEY_HEAD].concat());
        this.put("an EC key in DER", &[&[0x30, 0x77][..], &KEY_HEAD].concat());
        this
    }

    /// Adds a key by its secret number.
    pub fn add(&mut self, name: &str, secret: &[u8; SECRET_BYTES]) {
        self.put(&format!("{name}, raw"), secret);
        let lower = hex(secret);
        self.put(&format!("{name}, in hex"), lower.as_bytes());
        let upper = lower.to_uppercase();
        self.put(&format!("{name}, in hex"), upper.as_bytes());
        for part in [&secret[..END_BYTES], &secret[SECRET_BYTES - END_BYTES..]] {
            for shift in 0..3 {
                let text = base64_inside(part, shift);
                self.put(&format!("{name}, in base64"), text.as_bytes());
            }
        }
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    /// The first that is found, by its name.
    pub fn find(&self, bytes: &[u8]) -> Option<String> {
        let found = self
            .0
            .iter()
            .find(|(_, finder)| finder.find(bytes).is_some());
        found.map(|(name, _)| name.clone())
    }

    fn put(&mut self, name: &str, bytes: &[u8]) {
        let finder = Finder::new(bytes).into_owned();
        self.0.push((name.to_owned(), finder));
    }
}

/// The secret numbers of every P-256 key that is written out in these bytes.
pub fn secrets_in(bytes: &[u8]) -> Vec<[u8; SECRET_BYTES]> {
    find_iter(bytes, &KEY_HEAD)
        .filter_map(|at| bytes[at + KEY_HEAD.len()..].first_chunk().copied())
        .collect()
}

/// The forms in which bytes get into logs: raw, hex of both cases, base64 in one line and in lines as PEM has them.
pub fn forms(bytes: &[u8]) -> [Vec<u8>; 5] {
    let lower = hex(bytes);
    let text = base64(bytes);
    let lines: Vec<&[u8]> = text.as_bytes().chunks(64).collect();
    [
        bytes.to_owned(),
        lower.to_uppercase().into_bytes(),
        lower.into_bytes(),
        lines.join(&b'\n'),
        text.into_bytes(),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What of the base64 of a longer text does not depend on what stands before and after these bytes, when they begin `shift` bytes
/// after a multiple of three.
pub(crate) fn base64_inside(bytes: &[u8], shift: usize) -> String {
    let mut padded = vec![0; shift];
    padded.extend(bytes);
    let text = base64(&padded[..padded.len() / 3 * 3]);
    // Characters that hold bits of the padding.
    text[[0, 2, 3][shift]..].to_owned()
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at) & 63) as usize;
            let filled = at <= chunk.len();
            text.push(if filled {
                char::from(ALPHABET[index])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; SECRET_BYTES] = *b"0123456789abcdefghijklmnopqrstuv";

    #[test]
    fn base64_is_that_of_the_standard() {
        let check = |bytes: &[u8], want| assert_eq!(base64(bytes), want);
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"foobar", "Zm9vYmFy");
    }

    #[test]
    fn a_secret_is_found_in_every_form_and_wherever_it_stands() {
        let mut needles = Needles::default();
        needles.add("it", &SECRET);
        for before in 0..70 {
            let text = [&vec![7; before][..], &SECRET, &[8; 50]].concat();
            for form in forms(&text) {
                let found = needles.find(&form).unwrap_or_default();
                assert!(found.starts_with("it, "), "{before}: {found:?}");
            }
        }
        assert_eq!(needles.find(&[7; 1000]), None);
        let mut other = SECRET;
        other[16] ^= 1;
        assert_eq!(
            needles.find(&other),
            None,
            "all of it counts where it is raw"
        );
    }

    #[test]
    fn secrets_are_read_from_the_form_in_which_keys_are_written() {
        let key = [&[0x30, 0x6b][..], &KEY_HEAD, &SECRET, b"more"].concat();
        assert_eq!(secrets_in(&[&key[..], &key].concat()), [SECRET, SECRET]);
        assert_eq!(secrets_in(&key[..20]), [[0; SECRET_BYTES]; 0]);
        assert!(Needles::any_key().find(&key).is_some());
        assert!(Needles::any_key().find(&SECRET).is_none());
    }
}
