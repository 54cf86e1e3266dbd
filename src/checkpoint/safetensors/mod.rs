//! safetensors files: eight bytes with the length of a JSON header, the header, and the tensors'
//! bytes without gaps.
//!
//! Only the header is read. Its length is compared with the file's before anything is allocated.

mod problem;

use std::collections::HashSet;
use std::fmt;

use ::safetensors::tensor::{Dtype, Metadata, SafeTensorError, TensorInfo};
use serde::Deserialize;
use serde::de::value::{self, StrDeserializer};
use serde::de::{Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor};

pub use problem::SafetensorsProblem;

use super::element::{Element, Unread};
use super::positional::ReadAt;
use super::tensor::{Stored, byte_len};
use crate::dtype::DType;

/// The most bytes of a header, as in the format's own library.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// The longest name, in bytes. Gemma's have about 60.
pub(super) const MAX_NAME: usize = 512;
/// The most dimensions of a tensor, as in numpy.
pub(super) const MAX_RANK: usize = 64;
/// The bytes that say how long the header is.
pub(super) const LENGTH_BYTES: u64 = 8;
/// The key of the header that is not a tensor.
const METADATA: &str = "__metadata__";

/// What is wrong, and with which tensor; the name is empty where it is the file itself.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) tensor: String,
    pub(super) problem: SafetensorsProblem,
}

impl SafetensorsProblem {
    fn of(self, tensor: &str) -> ParseError {
        ParseError {
            tensor: tensor.to_owned(),
            problem: self,
        }
    }
}

/// What a file contains.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) stored: Vec<Stored>,
    pub(super) unread: Vec<Unread>,
}

/// The format's name of a dtype.
pub(super) fn format_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
    }
}

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::F32 => Element::Float(DType::F32),
        Dtype::F16 => Element::Float(DType::F16),
        Dtype::BF16 => Element::Float(DType::BF16),
        Dtype::F64 => Element::Float64,
        Dtype::BOOL => Element::Other("bool"),
        Dtype::U8 => Element::Other("uint8"),
        Dtype::I8 => Element::Other("int8"),
        Dtype::U16 => Element::Other("uint16"),
        Dtype::I16 => Element::Other("int16"),
        Dtype::U32 => Element::Other("uint32"),
        Dtype::I32 => Element::Other("int32"),
        Dtype::U64 => Element::Other("uint64"),
        Dtype::I64 => Element::Other("int64"),
        Dtype::F4 => Element::Other("float4_e2m1fn"),
        Dtype::F6_E2M3 => Element::Other("float6_e2m3fn"),
        Dtype::F6_E3M2 => Element::Other("float6_e3m2fn"),
        Dtype::F8_E4M3 => Element::Other("float8_e4m3fn"),
        Dtype::F8_E5M2 => Element::Other("float8_e5m2"),
        Dtype::F8_E8M0 => Element::Other("float8_e8m0fnu"),
        Dtype::F8_E4M3FNUZ => Element::Other("float8_e4m3fnuz"),
        Dtype::F8_E5M2FNUZ => Element::Other("float8_e5m2fnuz"),
        _ => return None,
    })
}

/// Finds every tensor in the file, in the order of their bytes. No name occurs twice.
pub(super) fn parse(source: &dyn ReadAt) -> Result<Parsed, ParseError> {
    let text = header_text(source).map_err(|problem| problem.of(""))?;
    let data = LENGTH_BYTES + text.len() as u64;
    let available = source.size().saturating_sub(data);

    let Header(values) = serde_json::from_slice(&text).map_err(malformed)?;
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    let mut parsed = Parsed::default();
    for (name, value) in values {
        let checked = checked(&name, value, data, available, &mut parsed);
        let info = checked.map_err(|problem| problem.of(&name))?;
        if !names.insert(name.clone()) {
            return Err(SafetensorsProblem::DuplicateName.of(&name));
        }
        tensors.push((name, info));
    }
    tensors.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
    let metadata = Metadata::new(None, tensors).map_err(|error| match error {
        SafeTensorError::InvalidOffset(name) => SafetensorsProblem::NotAdjacent.of(&name),
        error => malformed(error),
    })?;
    match available - metadata.data_len() as u64 {
        0 => {}
        count => return Err(SafetensorsProblem::TrailingBytes { count }.of("")),
    }
    parsed
        .stored
        .sort_by_key(|stored| stored.extents.first().map(|extent| extent.offset));
    Ok(parsed)
}

/// The header's bytes, which are allocated once the file is known to have them.
fn header_text(source: &dyn ReadAt) -> Result<Vec<u8>, SafetensorsProblem> {
    let found = source.size();
    if found < LENGTH_BYTES {
        return Err(SafetensorsProblem::Truncated {
            needed: LENGTH_BYTES,
            found,
        });
    }
    let mut length = [0; LENGTH_BYTES as usize];
    source
        .read_exact_at(&mut length, 0)
        .map_err(SafetensorsProblem::Io)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(SafetensorsProblem::HeaderTooLarge { found: length });
    }
    let needed = LENGTH_BYTES + length;
    if needed > found {
        return Err(SafetensorsProblem::Truncated { needed, found });
    }
    let mut text = vec![0; length as usize];
    source
        .read_exact_at(&mut text, LENGTH_BYTES)
        .map_err(SafetensorsProblem::Io)?;
    Ok(text)
}

/// Checks one tensor by itself, so that the error can name it, and adds it to what was found.
/// The library checks how the tensors follow one another.
fn checked(
    name: &str,
    value: Value,
    data: u64,
    available: u64,
    parsed: &mut Parsed,
) -> Result<TensorInfo, SafetensorsProblem> {
    let Value {
        dtype: found,
        shape,
        data_offsets: (begin, end),
    } = value;
    if name.len() > MAX_NAME {
        return Err(SafetensorsProblem::NameTooLong);
    }
    if shape.len() > MAX_RANK {
        let found = shape.len();
        return Err(SafetensorsProblem::TooManyDimensions { found });
    }
    let name_only: StrDeserializer<'_, value::Error> = found.as_str().into_deserializer();
    let known = Dtype::deserialize(name_only).ok();
    let Some((dtype, element)) = known.and_then(|dtype| Some((dtype, element(dtype)?))) else {
        let found = found.chars().take(64).collect();
        return Err(SafetensorsProblem::UnknownDType { found });
    };
    let out_of_file = SafetensorsProblem::OutOfFile {
        begin,
        end,
        available,
    };
    let place = usize::try_from(begin).ok().zip(usize::try_from(end).ok());
    let Some(data_offsets) = place.filter(|_| begin <= end && end <= available) else {
        return Err(out_of_file);
    };
    if let Element::Other(element) = element {
        parsed.unread.push(Unread {
            name: name.into(),
            element,
            shape: shape.clone(),
        });
    } else {
        let Some(needed) = byte_len(&shape, element) else {
            return Err(SafetensorsProblem::ShapeTooLarge { shape });
        };
        if needed as u64 != end - begin {
            return Err(SafetensorsProblem::WrongLength {
                shape,
                dtype: found,
                expected: needed as u64,
                found: end - begin,
            });
        }
        let shape = shape.clone();
        let stored = Stored::contiguous(name, element, shape, data + begin, needed);
        parsed.stored.push(stored);
    }
    Ok(TensorInfo {
        dtype,
        shape,
        data_offsets,
    })
}

/// The message quotes what the file has, which may be of any length and contain line breaks.
fn malformed(error: impl fmt::Display) -> ParseError {
    const LONGEST: usize = 300;
    let what = error
        .to_string()
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    SafetensorsProblem::Header { what }.of("")
}

/// What the header says of a tensor. The library's own type accepts other keys beside these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Value {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

struct Header(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the map as a list: the library keeps the second of two equal names without a word.
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
            let short: String = name.chars().take(MAX_NAME).collect();
            let value = map
                .next_value()
                .map_err(|error| A::Error::custom(format_args!("tensor {short:?}: {error}")))?;
            tensors.push((name, value));
        }
        Ok(Header(tensors))
    }
}
