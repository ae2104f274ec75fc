//! Comparison of text with a list of patterns.
//!
//! The text comes in pieces, because a principal is never put together for a comparison.

use std::cmp::Ordering;

use weft_types::StringMatch;

const SCHEME: &str = "spiffe://";

/// Patterns, any of which is enough.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    /// Sorted: policies list hundreds of these, and few of the others.
    exact: Box<[Box<str>]>,
    prefixes: Box<[Box<str>]>,
    suffixes: Box<[Box<str>]>,
    presence: bool,
}

impl Texts {
    pub(super) fn new(patterns: &[StringMatch]) -> Self {
        Self::collect(patterns, |pattern| pattern)
    }

    /// Patterns of principals, which may be written with the scheme that the compared text does not have.
    pub(super) fn of_principals(patterns: &[StringMatch]) -> Self {
        Self::collect(patterns, |pattern| {
            pattern.strip_prefix(SCHEME).unwrap_or(pattern)
        })
    }

    fn collect(patterns: &[StringMatch], start: impl Fn(&str) -> &str) -> Self {
        let (mut exact, mut prefixes, mut suffixes) = (Vec::new(), Vec::new(), Vec::new());
        let mut presence = false;
        for pattern in patterns {
            match pattern {
                StringMatch::Exact(text) => exact.push(start(text).into()),
                StringMatch::Prefix(text) => prefixes.push(start(text).into()),
                StringMatch::Suffix(text) => suffixes.push(text.as_str().into()),
                StringMatch::Presence => presence = true,
            }
        }
        exact.sort_unstable();
        Self {
            exact: exact.into_boxed_slice(),
            prefixes: prefixes.into_boxed_slice(),
            suffixes: suffixes.into_boxed_slice(),
            presence,
        }
    }

    /// Whether any pattern matches the text that the pieces make together.
    pub(super) fn any(&self, pieces: &[&str]) -> bool {
        let exact = |pattern: &str| compare(pattern, pieces);
        (self.presence && pieces.iter().any(|piece| !piece.is_empty()))
            || self
                .exact
                .binary_search_by(|pattern| exact(pattern))
                .is_ok()
            || self.prefixes.iter().any(|one| starts_with(pieces, one))
            || self.suffixes.iter().any(|one| ends_with(pieces, one))
    }
}

/// Orders a pattern against a text as `str` would.
fn compare(pattern: &str, pieces: &[&str]) -> Ordering {
    let mut rest = pattern.as_bytes();
    for piece in pieces {
        let piece = piece.as_bytes();
        let (head, tail) = rest.split_at(piece.len().min(rest.len()));
        // A pattern that ends within the piece is a prefix of it at best, and then less.
        match head.cmp(piece) {
            Ordering::Equal => rest = tail,
            other => return other,
        }
    }
    if rest.is_empty() {
        Ordering::Equal
    } else {
        Ordering::Greater
    }
}

fn starts_with(pieces: &[&str], pattern: &str) -> bool {
    let mut rest = pattern.as_bytes();
    for piece in pieces {
        let both = piece.len().min(rest.len());
        if piece.as_bytes()[..both] != rest[..both] {
            return false;
        }
        rest = &rest[both..];
        if rest.is_empty() {
            return true;
        }
    }
    rest.is_empty()
}

fn ends_with(pieces: &[&str], pattern: &str) -> bool {
    let mut rest = pattern.as_bytes();
    for piece in pieces.iter().rev() {
        let both = piece.len().min(rest.len());
        let (front, end) = rest.split_at(rest.len() - both);
        if &piece.as_bytes()[piece.len() - both..] != end {
            return false;
        }
        rest = front;
        if rest.is_empty() {
            return true;
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::{compare, ends_with, starts_with};

    /// Every way to cut a text into three pieces compares as the whole text does.
    #[test]
    fn pieces_compare_as_the_text_that_they_make() {
        let text = "td/ns/a";
        let patterns = [
            "", "t", "td", "td/", "td/n", "td/ns/a", "td/ns/a/", "td/ns/b", "a", "/a", "s/a",
            "xtd/ns/a", "te", "tc", "ns",
        ];
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                for pattern in patterns {
                    let at = format!("{pieces:?} {pattern:?}");
                    assert_eq!(compare(pattern, &pieces), pattern.cmp(text), "{at}");
                    assert_eq!(
                        starts_with(&pieces, pattern),
                        text.starts_with(pattern),
                        "{at}"
                    );
                    assert_eq!(ends_with(&pieces, pattern), text.ends_with(pattern), "{at}");
                }
            }
        }
    }
}
