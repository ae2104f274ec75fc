//! From the tree to a typed object, strictly: a field that the type does not take is reported with its line and its nearest known name.
//!
//! The trick: a serde type asks for a value that it will ignore by `deserialize_ignored_any`, so every such call is an unknown field.
//! That holds for derived types and for k8s-openapi's, which both hand over the list of fields they know.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::node::{Entry, Node, Value, child_path, item_path};

/// One problem of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) line: u64,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// Decodes a document, or says everything that is wrong with it: all unknown fields, and the first value of a wrong type.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(node: &Node) -> Result<T, Vec<FieldError>> {
    let unknown = RefCell::new(Vec::new());
    let decoder = Decoder {
        node,
        line: node.line,
        path: String::new(),
        siblings: &[],
        numbers_are_text: false,
        unknown: &unknown,
    };
    let decoded = T::deserialize(decoder);
    let mut problems = unknown.into_inner();
    match decoded {
        Ok(value) if problems.is_empty() => Ok(value),
        Ok(_) => Err(problems),
        Err(Located(error)) => {
            problems.push(error);
            Err(problems)
        }
    }
}

/// The position in the tree.
struct Decoder<'a> {
    node: &'a Node,
    /// Line of the key, where there is one: that is where an editor should jump to.
    line: u64,
    path: String,
    /// Fields that the parent knows.
    siblings: &'static [&'static str],
    /// `cpu: 1` is a quantity as good as `cpu: "1"`.
    numbers_are_text: bool,
    unknown: &'a RefCell<Vec<FieldError>>,
}

/// The error of the innermost field that failed.
#[derive(Debug)]
struct Located(FieldError);

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Located {}

impl de::Error for Located {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(FieldError {
            line: 0,
            field: String::new(),
            message: message.to_string(),
        })
    }
}

impl Located {
    /// Adds the position unless a field further inside has done so.
    fn at(mut self, line: u64, path: &str) -> Self {
        if self.0.line == 0 {
            self.0.line = line;
            path.clone_into(&mut self.0.field);
        }
        self
    }
}

// === impl Decoder ===

impl Decoder<'_> {
    fn run<'de, V: Visitor<'de>>(
        self,
        visitor: V,
        known: &'static [&'static str],
    ) -> Result<V::Value, Located> {
        let (line, path) = (self.line, self.path.clone());
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
            Value::List(items) => visitor.visit_seq(Items {
                parent: &self,
                items: items.iter().enumerate(),
            }),
            Value::Map(entries) => visitor.visit_map(Fields {
                parent: &self,
                entries: entries.iter(),
                current: None,
                known,
            }),
        };
        result.map_err(|error| error.at(line, &path))
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        let result: Result<V::Value, Located> = match &self.node.value {
            Value::Text(text) => visitor.visit_str(text),
            Value::Integer(number) if self.numbers_are_text => {
                visitor.visit_string(number.to_string())
            }
            Value::Unsigned(number) if self.numbers_are_text => {
                visitor.visit_string(number.to_string())
            }
            Value::Float(number) if self.numbers_are_text => {
                visitor.visit_string(number.to_string())
            }
            other => Err(de::Error::invalid_type(
                unexpected(other),
                &"a string (put it in quotes)",
            )),
        };
        result.map_err(|error| error.at(self.line, &self.path))
    }
}

impl<'de> Deserializer<'de> for Decoder<'_> {
    type Error = Located;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        self.run(visitor, &[])
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Located> {
        self.run(visitor, fields)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Located> {
        self.numbers_are_text = name == "Quantity";
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        self.text(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Located> {
        let result = match &self.node.value {
            Value::Text(text) => {
                let word: StrDeserializer<'_, Located> = text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            other => Err(de::Error::invalid_type(unexpected(other), &"a word")),
        };
        result.map_err(|error| error.at(self.line, &self.path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        let name = self.path.rsplit('.').next().unwrap_or(&self.path);
        let hint = nearest(name, self.siblings)
            .map(|known| format!(", did you mean {known}?"))
            .unwrap_or_default();
        self.unknown.borrow_mut().push(FieldError {
            line: self.line,
            field: self.path.clone(),
            message: format!("unknown field{hint}"),
        });
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct Items<'a> {
    parent: &'a Decoder<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Located;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Located> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let path = item_path(&self.parent.path, index);
        let decoder = Decoder {
            node,
            line: node.line,
            path: path.clone(),
            siblings: &[],
            numbers_are_text: false,
            unknown: self.parent.unknown,
        };
        let value = seed.deserialize(decoder);
        value.map(Some).map_err(|error| error.at(node.line, &path))
    }
}

struct Fields<'a> {
    parent: &'a Decoder<'a>,
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
    known: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Located;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Located> {
        self.current = self.entries.next();
        let Some(entry) = self.current else {
            return Ok(None);
        };
        let path = child_path(&self.parent.path, &entry.key);
        let key = seed.deserialize(Key(&entry.key));
        key.map(Some).map_err(|error| error.at(entry.line, &path))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Located> {
        let entry = self
            .current
            .expect("serde asks for a value only after its key");
        let path = child_path(&self.parent.path, &entry.key);
        let decoder = Decoder {
            node: &entry.node,
            line: entry.line,
            path: path.clone(),
            siblings: self.known,
            numbers_are_text: false,
            unknown: self.parent.unknown,
        };
        let value = seed.deserialize(decoder);
        value.map_err(|error| error.at(entry.line, &path))
    }
}

/// A key: text, or a number where the type of the map says so.
struct Key<'a>(&'a str);

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Located;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        visitor.visit_str(self.0)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Located> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u16(number),
            Err(_) => Err(de::Error::custom("this key must be a number up to 65535")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Located> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The known name that a typo probably meant.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // A third of the letters may be wrong, and at least one: arbitrary, it catches typos and singular against plural.
    let most = (name.len() / 3).max(1);
    let distance = |known: &&str| {
        strsim::damerau_levenshtein(&name.to_ascii_lowercase(), &known.to_ascii_lowercase())
    };
    let best = known.iter().copied().min_by_key(distance)?;
    (distance(&best) <= most).then_some(best)
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Integer(value) => Unexpected::Signed(*value),
        Value::Unsigned(value) => Unexpected::Unsigned(*value),
        Value::Float(value) => Unexpected::Float(*value),
        Value::Text(value) => Unexpected::Str(value),
        Value::List(_) => Unexpected::Seq,
        Value::Map(_) => Unexpected::Map,
    }
}
