//! Whether a stream is nothing but TLS records.
//!
//! In: the bytes of a stream in order. Out: whether they still are. Only the headers are read: whatever stands between two of
//! them is a record's inside, and canaries are looked for there, too.

/// Bytes of a record's header (RFC 8446, 5.1).
const HEADER: usize = 5;
/// Longest inside of a record: 2^14 and what encryption may add (RFC 8446, 5.2).
const INSIDE_MAX: u16 = (1 << 14) + 256;
/// Content type of everything that is encrypted in TLS 1.3.
const APPLICATION_DATA: u8 = 0x17;

/// Where in its records a stream is.
///
/// ```text
/// Header --5 bytes--> Inside --all of it--> Header ...
///    |                                (a gap from anywhere)
///    +---no header of TLS 1.3---> Unknown <----+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::leak) enum Records {
    /// Joined in the middle, a gap, or found to be something else and reported: nothing can be said.
    #[default]
    Unknown,
    /// In a header: what there is of it, and whether encryption has begun.
    Header {
        bytes: [u8; HEADER],
        length: u8,
        encrypted: bool,
    },
    /// Inside a record, so many bytes before its end.
    Inside { left: u16, encrypted: bool },
}

// === impl Records ===

impl Records {
    /// A stream's first byte begins a record.
    pub(in crate::leak) fn beginning() -> Self {
        Self::header(false)
    }

    /// Takes the next bytes. False, once, when they are no TLS 1.3.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self {
                Self::Unknown => return true,
                Self::Inside { left, encrypted } => {
                    let step = usize::from(*left).min(bytes.len());
                    bytes = &bytes[step..];
                    *left -= step as u16;
                    if *left == 0 {
                        *self = Self::header(*encrypted);
                    }
                }
                Self::Header {
                    bytes: header,
                    length,
                    encrypted,
                } => {
                    header[usize::from(*length)] = bytes[0];
                    *length += 1;
                    bytes = &bytes[1..];
                    let begun = &header[..usize::from(*length)];
                    if !begins(begun, *encrypted) {
                        *self = Self::Unknown;
                        return false;
                    }
                    if begun.len() == HEADER {
                        let encrypted = header[0] == APPLICATION_DATA;
                        *self = match u16::from_be_bytes([header[3], header[4]]) {
                            0 => Self::header(encrypted),
                            left => Self::Inside { left, encrypted },
                        };
                    }
                }
            }
        }
        true
    }

    fn header(encrypted: bool) -> Self {
        Self::Header {
            bytes: [0; HEADER],
            length: 0,
            encrypted,
        }
    }
}

/// Whether a record may begin so: any type until the first that is encrypted, which all that follow are, version 3.x, and no
/// more inside than a record may have.
fn begins(header: &[u8], encrypted: bool) -> bool {
    let first = if encrypted { APPLICATION_DATA } else { 0x14 };
    let kind = (first..=APPLICATION_DATA).contains(&header[0]);
    let version = match header {
        [_, major, minor, ..] => *major == 3 && *minor <= 4,
        [_, major] => *major == 3,
        _ => true,
    };
    let inside = match header {
        [_, _, _, high, low] => u16::from_be_bytes([*high, *low]) <= INSIDE_MAX,
        _ => true,
    };
    kind && version && inside
}
