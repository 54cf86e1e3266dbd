//! The head of an npy file: a magic string, a version, a length, and a Python dictionary with dtype, order and shape.
//!
//! The format is that of `numpy.lib.format`, versions 1.0, 2.0 and 3.0.

use super::{MAX_RANK, NpzProblem};
use crate::dtype::DType;

/// The longest dictionary that is read, in bytes, as in numpy.
pub(super) const MAX_HEADER: usize = 10_000;
/// The longest head: magic, version, length and dictionary.
pub(super) const MAX_HEAD: usize = 12 + MAX_HEADER;

const MAGIC: &[u8] = b"\x93NUMPY";

/// What a head says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) dtype: DType,
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
            (u16::from_le_bytes(*len).into(), rest)
        }
        2 | 3 => {
            let (len, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (u32::from_le_bytes(*len), rest)
        }
        _ => return Err(not_npy("its version is unknown")),
    };
    let len = len as usize;
    if len > MAX_HEADER {
        return Err(NpzProblem::HeaderTooLarge { found: len as u64 });
    }
    let text = rest.get(..len).ok_or_else(cut)?;
    let mut header = Parser { text, at: 0 }.header()?;
    header.len = bytes.len() - rest.len() + len;
    Ok(header)
}

/// Reads the dictionary, without recursion: nothing in it nests.
struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn header(&mut self) -> Result<Header, NpzProblem> {
        let (mut dtype, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{', "expected a dictionary")?;
        while !self.take(b'}') {
            let at = self.at;
            let key = self.string()?;
            self.expect(b':', "expected ':' after a key")?;
            match key {
                b"descr" if dtype.is_none() => dtype = Some(self.dtype()?),
                b"fortran_order" if fortran_order.is_none() => {
                    fortran_order = Some(self.boolean()?);
                }
                b"shape" if shape.is_none() => shape = Some(self.shape()?),
                _ => {
                    return Err(wrong(
                        at,
                        "expected each of descr, fortran_order, shape once",
                    ));
                }
            }
            if !self.take(b',') {
                self.expect(b'}', "expected ',' or '}' after a value")?;
                break;
            }
        }
        self.space();
        if self.at < self.text.len() {
            return Err(self.wrong("more than one dictionary"));
        }
        match (dtype, fortran_order, shape) {
            (Some(dtype), Some(fortran_order), Some(shape)) => Ok(Header {
                dtype,
                fortran_order,
                shape,
                len: 0,
            }),
            _ => Err(self.wrong("descr, fortran_order or shape is missing")),
        }
    }

    fn dtype(&mut self) -> Result<DType, NpzProblem> {
        self.space();
        if self.text.get(self.at) == Some(&b'[') {
            let found = "a record of fields".to_owned();
            return Err(NpzProblem::UnknownDType { found });
        }
        match self.string()? {
            b"<f4" => Ok(DType::F32),
            b"<f2" => Ok(DType::F16),
            // numpy has no name for the type of `ml_dtypes`: it writes two bytes of no type.
            b"|V2" | b"<V2" | b"bfloat16" => Ok(DType::BF16),
            b"O" | b"|O" | b"<O" | b">O" | b"=O" | b"|O8" => Err(NpzProblem::Pickle),
            other => Err(NpzProblem::UnknownDType {
                found: String::from_utf8_lossy(other).chars().take(64).collect(),
            }),
        }
    }

    fn boolean(&mut self) -> Result<bool, NpzProblem> {
        self.space();
        for (word, value) in [("True", true), ("False", false)] {
            let rest = self.text.get(self.at..).unwrap_or_default();
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.wrong("expected True or False"))
    }

    fn shape(&mut self) -> Result<Vec<usize>, NpzProblem> {
        self.expect(b'(', "expected the shape, a tuple")?;
        let mut shape = Vec::new();
        while !self.take(b')') {
            shape.push(self.number()?);
            if shape.len() > MAX_RANK {
                return Err(NpzProblem::TooManyDimensions { found: shape.len() });
            }
            if !self.take(b',') {
                self.expect(b')', "expected ',' or ')' after a dimension")?;
                break;
            }
        }
        Ok(shape)
    }

    fn number(&mut self) -> Result<usize, NpzProblem> {
        self.space();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.iter().take_while(|c| c.is_ascii_digit()).count();
        let digits = rest.get(..len).unwrap_or_default();
        let number = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse().ok());
        let number = number.ok_or_else(|| self.wrong("expected a dimension, a whole number"))?;
        self.at += len;
        // Python 2 wrote its long integers with this letter.
        if self.text.get(self.at) == Some(&b'L') {
            self.at += 1;
        }
        Ok(number)
    }

    /// A string in single or double quotes, without escapes.
    fn string(&mut self) -> Result<&'a [u8], NpzProblem> {
        self.space();
        let quote = match self.text.get(self.at) {
            Some(quote @ (b'\'' | b'"')) => *quote,
            _ => return Err(self.wrong("expected a string")),
        };
        let begin = self.at + 1;
        let rest = self.text.get(begin..).unwrap_or_default();
        let len = rest
            .iter()
            .position(|c| *c == quote)
            .ok_or_else(|| self.wrong("a string does not end"))?;
        self.at = begin + len + 1;
        Ok(rest.get(..len).unwrap_or_default())
    }

    fn space(&mut self) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += rest.iter().take_while(|c| c.is_ascii_whitespace()).count();
    }

    /// Whether the next character is this one, which is passed then.
    fn take(&mut self, character: u8) -> bool {
        self.space();
        let found = self.text.get(self.at) == Some(&character);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, character: u8, what: &'static str) -> Result<(), NpzProblem> {
        match self.take(character) {
            true => Ok(()),
            false => Err(self.wrong(what)),
        }
    }

    fn wrong(&self, what: &'static str) -> NpzProblem {
        wrong(self.at, what)
    }
}

fn wrong(at: usize, what: &'static str) -> NpzProblem {
    NpzProblem::Header { at, what }
}
