//! The head of an npy file: a magic string, a version, a length, and a Python dictionary with
//! dtype, order and shape.
//!
//! The format is that of `numpy.lib.format`, versions 1.0, 2.0 and 3.0. The dictionary is parsed
//! by `py_literal`, which `npyz` uses too: `npyz` itself accepts a key twice, and knows neither
//! the name `bfloat16` nor Python 2's.

use py_literal::Value;

use super::NpzProblem;
use super::limits::{MAX_HEADER, MAX_RANK};
use crate::checkpoint::element::Element;
use crate::dtype::DType;

/// The longest head: magic, version, length and dictionary.
pub(super) const MAX_HEAD: usize = 12 + MAX_HEADER;
/// The most brackets within one another; a record whose fields are arrays has 4. The parser
/// is recursive, and takes twice as long for each level.
const MAX_DEPTH: usize = 6;

const MAGIC: &[u8] = b"\x93NUMPY";

/// What a head says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) element: Element,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
    /// The head's own length: the elements follow.
    pub(super) len: usize,
}

/// Reads the head of an npy file from its first bytes.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, NpzProblem> {
    let not_npy = |what| NpzProblem::NotNpy { what };
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or(not_npy("it does not begin with numpy's magic string"))?;
    let cut = || not_npy("its head is cut short");
    let ([major, _minor], rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let (len, rest) = match major {
        1 => {
            let (len, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (usize::from(u16::from_le_bytes(*len)), rest)
        }
        2 | 3 => {
            let (len, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (u32::from_le_bytes(*len) as usize, rest)
        }
        _ => return Err(not_npy("its version is unknown")),
    };
    if len > MAX_HEADER {
        return Err(NpzProblem::HeaderTooLarge { found: len as u64 });
    }
    let text = rest.get(..len).ok_or_else(cut)?;
    let Ok(Value::Dict(pairs)) = simple(text)?.parse() else {
        return Err(malformed("expected a dictionary such as numpy writes"));
    };
    let mut values = [None, None, None];
    for (key, value) in pairs {
        let keys = ["descr", "fortran_order", "shape"];
        let key = key.as_string().map(String::as_str);
        let slot = keys.iter().position(|known| Some(*known) == key);
        match slot.and_then(|slot| values.get_mut(slot)) {
            Some(slot @ None) => *slot = Some(value),
            _ => return Err(malformed(EACH_ONCE)),
        }
    }
    let [
        Some(descr),
        Some(Value::Boolean(fortran_order)),
        Some(Value::Tuple(shape)),
    ] = values
    else {
        return Err(malformed(EACH_ONCE));
    };
    Ok(Header {
        element: element(&descr)?,
        fortran_order,
        shape: dimensions(&shape)?,
        len: bytes.len() - rest.len() + len,
    })
}

const EACH_ONCE: &str =
    "expected descr, fortran_order (True or False) and shape (a tuple), each once";

/// The dictionary's text, found to be of the few kinds of tokens that numpy writes and not deeply
/// nested, without the `L` that Python 2 put after long integers.
fn simple(text: &[u8]) -> Result<String, NpzProblem> {
    let text = std::str::from_utf8(text).map_err(|_| malformed("it is not UTF-8"))?;
    let mut out = String::with_capacity(text.len());
    let (mut quote, mut depth) = (None, 0_usize);
    for character in text.trim().chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (_, '\\') => return Err(malformed("it has an escape sequence")),
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, 'L') if out.ends_with(|c: char| c.is_ascii_digit()) => continue,
            (None, ',' | ':' | ' ' | '0'..='9' | 'A'..='Z' | 'a'..='z') => {}
            (None, _) => return Err(malformed("it has a character that numpy does not write")),
        }
        if depth > MAX_DEPTH {
            return Err(malformed("its brackets are nested too deeply"));
        }
        out.push(character);
    }
    Ok(out)
}

fn element(descr: &Value) -> Result<Element, NpzProblem> {
    let unknown = |found: String| NpzProblem::UnknownDType { found };
    let Some(descr) = descr.as_string() else {
        return Err(unknown("a record of fields".to_owned()));
    };
    let name = match descr.as_str() {
        // numpy has no name for the type of `ml_dtypes`: it writes two bytes of no type.
        "|V2" | "<V2" | "bfloat16" => return Ok(Element::Float(DType::BF16)),
        "<f8" => return Ok(Element::Float64),
        "<f4" => return Ok(Element::Float(DType::F32)),
        "<f2" => return Ok(Element::Float(DType::F16)),
        "|b1" => "bool",
        "|i1" => "int8",
        "|u1" => "uint8",
        "<i2" => "int16",
        "<u2" => "uint16",
        "<i4" => "int32",
        "<u4" => "uint32",
        "<i8" => "int64",
        "<u8" => "uint64",
        "O" | "|O" | "<O" | ">O" | "=O" | "|O8" => return Err(NpzProblem::Pickle),
        other => return Err(unknown(other.chars().take(64).collect())),
    };
    Ok(Element::Other(name))
}

fn dimensions(shape: &[Value]) -> Result<Vec<usize>, NpzProblem> {
    if shape.len() > MAX_RANK {
        return Err(NpzProblem::TooManyDimensions { found: shape.len() });
    }
    let dimension = |value: &Value| usize::try_from(value.as_integer()?).ok();
    shape
        .iter()
        .map(|value| dimension(value).ok_or(malformed("expected a dimension, a whole number")))
        .collect()
}

fn malformed(what: &'static str) -> NpzProblem {
    NpzProblem::Header { what }
}
