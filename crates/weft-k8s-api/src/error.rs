//! The one error of this crate: where in the text, in which object and field, and what about it.

use std::fmt;

use crate::object::ObjectKey;

/// Something in the text that cannot be accepted. The author of the text is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1; 0 when unknown.
    pub line: u64,
    /// The object, as far as it was recognised.
    pub object: Option<ObjectKey>,
    /// Path of the field (`spec.ports[0].port`); empty for the document as a whole.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line != 0 {
            write!(f, "line {}: ", self.line)?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}
