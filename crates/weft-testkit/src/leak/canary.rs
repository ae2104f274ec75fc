//! Canaries: text that no protocol of the mesh writes by itself, and its traces.
//!
//! In: bytes. Out: whether a canary shows in them, raw or in base64. Not here: where they came from.

use memchr::memmem::Finder;

use crate::secrets::base64_inside;

/// What every canary begins with.
const PREFIX: &str = "~weft-canary:";
/// Longest trace: base64 of the prefix. Of a trace across a border at most this less one is on either side.
pub(super) const TRACE_MAX: usize = 18;

/// The traces that a canary leaves: raw, and in base64 at each of three alignments, whatever stands before and after.
pub(super) struct Traces([Finder<'static>; 4]);

// === impl Traces ===

impl Traces {
    pub(super) fn new() -> Self {
        let inside = |shift| base64_inside(PREFIX.as_bytes(), shift);
        let texts = [PREFIX.to_owned(), inside(0), inside(1), inside(2)];
        debug_assert!(texts.iter().all(|text| text.len() <= TRACE_MAX));
        Self(texts.map(|text| Finder::new(&text).into_owned()))
    }

    /// Whether one of them is in these bytes, whole.
    pub(super) fn show_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|finder| finder.find(bytes).is_some())
    }
}

/// A canary, another one at every call.
pub fn canary_text() -> String {
    format!("{PREFIX}{:016x}~", rand::random::<u64>())
}

/// A payload of exactly this many bytes, all of it canaries, so that every packet holds one.
pub fn canary_payload(length: usize) -> Vec<u8> {
    let text = canary_text();
    text.bytes().cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::forms;

    #[test]
    fn a_canary_shows_raw_and_in_base64_at_every_alignment() {
        let traces = Traces::new();
        for before in 0..7 {
            let text = [&vec![b'x'; before][..], canary_text().as_bytes(), b"yz"].concat();
            assert!(traces.show_in(&text));
            let in_base64 = &forms(&text)[4];
            assert!(traces.show_in(in_base64), "{before}");
            // Half of it is no trace: this is for streams to put together.
            assert!(!traces.show_in(&text[before + 1..]));
        }
        assert!(!traces.show_in(b"weft-canary"));
    }
}
