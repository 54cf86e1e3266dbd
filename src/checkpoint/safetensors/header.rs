//! The JSON of a safetensors header: a map from names to dtype, shape and place, and `__metadata__` beside them.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{ParseError, SafetensorsProblem};

/// The key that is no tensor.
pub(in crate::checkpoint) const METADATA: &str = "__metadata__";

/// What the header says of one tensor, unchecked.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    /// The place of its first byte after the header.
    pub(super) begin: u64,
    /// The place after its last byte.
    pub(super) end: u64,
}

/// Reads the header. Names occur once each.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Tensor>, ParseError> {
    let Header(tensors) = serde_json::from_slice(text).map_err(malformed)?;
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(ParseError {
            tensor: twice.name.clone(),
            problem: SafetensorsProblem::DuplicateName,
        });
    }
    Ok(tensors)
}

/// The parser's message quotes what it found, which may be of any length and have line ends.
fn malformed(error: serde_json::Error) -> SafetensorsProblem {
    const LONGEST: usize = 200;
    let message = error.to_string();
    let what = message
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    SafetensorsProblem::Header { what }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

struct Header(Vec<Tensor>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the map as a list: a map type would let the second of two equal names win in silence.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let Value {
                dtype,
                shape,
                data_offsets: (begin, end),
            } = map.next_value()?;
            tensors.push(Tensor {
                name,
                dtype,
                shape,
                begin,
                end,
            });
        }
        Ok(Header(tensors))
    }
}
