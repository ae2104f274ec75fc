//! Words of a lab file that must have a form: labels as Kubernetes takes them, a program to run.
//!
//! In: what stands in the YAML. Out: the words, or an error that says what is allowed; its line is added by the parser.
//! Not here: names, which are checked with the plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Longest name of a label's key, and longest value, as in Kubernetes.
const LABEL_MAX: usize = 63;
/// Longest prefix of a label's key, as in Kubernetes.
const PREFIX_MAX: usize = 253;

/// Labels in the syntax of Kubernetes.
pub(super) fn labels<'de, D: Deserializer<'de>>(
    source: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let labels = BTreeMap::<Key, LabelValue>::deserialize(source)?;
    Ok(labels
        .into_iter()
        .map(|(key, value)| (key.0, value.0))
        .collect())
}

/// A program and its arguments; nothing at all is allowed as well.
pub(super) fn command<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<String>, D::Error> {
    Ok(Command::deserialize(source)?.0)
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct Key(String);

#[derive(Deserialize)]
#[serde(try_from = "Option<String>")]
struct LabelValue(String);

#[derive(Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Command(Vec<String>);

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key.as_str()),
        };
        if is_label(name) && prefix.is_none_or(is_domain) {
            return Ok(Self(key));
        }
        Err(format!(
            "label key {key:?} must be [PREFIX/]NAME: NAME of 1 to {LABEL_MAX} letters, digits, '-', '_' or '.', with a letter or digit at both ends; PREFIX a lower-case domain name of at most {PREFIX_MAX} bytes"
        ))
    }
}

impl TryFrom<Option<String>> for LabelValue {
    type Error = String;

    fn try_from(value: Option<String>) -> Result<Self, String> {
        let value = value.ok_or("a label has no value: write '' for an empty one")?;
        if value.is_empty() || is_label(&value) {
            return Ok(Self(value));
        }
        Err(format!(
            "label value {value:?} must be empty or at most {LABEL_MAX} letters, digits, '-', '_' or '.', with a letter or digit at both ends"
        ))
    }
}

impl TryFrom<Vec<String>> for Command {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        if words
            .first()
            .is_some_and(|program| program.trim().is_empty())
        {
            return Err("run: the first word must name a program, as in `run: [python3, -m, http.server]`; leave run out to run nothing".to_owned());
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err("run: a word cannot hold a NUL character".to_owned());
        }
        Ok(Self(words))
    }
}

/// The form of a label's name and of a value that is not empty.
fn is_label(text: &str) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= LABEL_MAX
        && ends
            .iter()
            .all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A domain name in lower case (RFC 1123).
fn is_domain(text: &str) -> bool {
    text.len() <= PREFIX_MAX
        && text.split('.').all(|part| {
            is_label(part)
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}
