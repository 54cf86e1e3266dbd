//! Leaves: arrays in one extension, and arrays in chunks.

use super::wire::{Fault, Head, Reader};
use super::{CHUNK_MARK, Extent, MAX_RANK, MsgpackProblem, expected, fault, key};
use crate::checkpoint::element::Element;

/// The extension types of `flax.serialization`.
const ARRAY: i8 = 1;
const COMPLEX: i8 = 2;
const SCALAR: i8 = 3;

/// The most bytes of a dtype's name that are read; numpy's longest float names have 10.
const MAX_DTYPE_NAME: u32 = 64;

/// An array whose bytes are adjacent.
pub(super) struct Array {
    element: Element,
    shape: Vec<usize>,
    offset: u64,
    len: usize,
}

impl Array {
    pub(super) fn into_parts(self) -> (Element, Vec<usize>, Extent) {
        let extent = Extent {
            start: 0,
            offset: self.offset,
            len: self.len,
        };
        (self.element, self.shape, extent)
    }
}

/// Reads an extension whose head, at `offset`, said `code` and `len`.
pub(super) fn extension(
    reader: &mut Reader,
    offset: u64,
    code: i8,
    len: u32,
) -> Result<Array, Fault> {
    match code {
        ARRAY | SCALAR => {}
        COMPLEX => return Err(fault(offset, MsgpackProblem::Complex)),
        code => return Err(fault(offset, MsgpackProblem::UnknownExtension { code })),
    }
    let outer = reader.narrow(len)?;
    let array = shape_dtype_bytes(reader)?;
    if reader.left() > 0 {
        return Err(fault(
            reader.position(),
            MsgpackProblem::TrailingBytes {
                count: reader.left(),
                after: "an array's bytes",
            },
        ));
    }
    reader.widen(outer);
    if code == SCALAR && !array.shape.is_empty() {
        return Err(fault(
            offset,
            MsgpackProblem::ScalarWithShape { shape: array.shape },
        ));
    }
    Ok(array)
}

/// The content of an extension: (shape, dtype name, bytes).
fn shape_dtype_bytes(reader: &mut Reader) -> Result<Array, Fault> {
    const TRIPLE: &str = "an array of shape, dtype and bytes";
    let offset = reader.position();
    match reader.head()? {
        Head::Array(3) => {}
        Head::Array(_) => {
            return Err(fault(
                offset,
                MsgpackProblem::Expected {
                    expected: TRIPLE,
                    found: "an array of another length",
                },
            ));
        }
        other => return Err(expected(offset, TRIPLE, other)),
    }

    let offset = reader.position();
    let rank = match reader.head()? {
        Head::Array(rank) => rank,
        other => return Err(expected(offset, "the shape, an array", other)),
    };
    check_rank(offset, rank)?;
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(dimension(reader)?);
    }

    let element = element(reader)?;

    let offset = reader.position();
    let len = match reader.head()? {
        // Writers from before msgpack had a type for bytes use its string.
        Head::Bin(len) | Head::Str(len) => len,
        other => return Err(expected(offset, "the array's bytes", other)),
    };
    let data = reader.position();
    reader.skip(len)?;
    let needed = match element {
        Element::Other(_) => len as usize,
        element => byte_len(offset, &shape, element)?,
    };
    if len as usize != needed {
        return Err(wrong_length(offset, shape, element, needed, len as usize));
    }
    Ok(Array {
        element,
        shape,
        offset: data,
        len: needed,
    })
}

fn element(reader: &mut Reader) -> Result<Element, Fault> {
    let offset = reader.position();
    let len = match reader.head()? {
        Head::Str(len) | Head::Bin(len) => len,
        other => return Err(expected(offset, "the dtype's name", other)),
    };
    let name = reader.bytes(len.min(MAX_DTYPE_NAME) as usize)?;
    std::str::from_utf8(name)
        .ok()
        .filter(|_| len <= MAX_DTYPE_NAME)
        .and_then(Element::from_numpy_name)
        .ok_or_else(|| {
            let found = String::from_utf8_lossy(name).into_owned();
            fault(offset, MsgpackProblem::UnknownDType { found })
        })
}

/// Dtype, shape and extents of an array that was written in chunks.
type Chunked = (Element, Vec<usize>, Vec<Extent>);

/// Reads a map of `count` keys as an array in chunks, if its first key is the mark of one;
/// otherwise reads nothing.
pub(super) fn chunked(reader: &mut Reader, count: u32) -> Result<Option<Chunked>, Fault> {
    let begin = reader.position();
    let mut name = String::new();
    if count == 0 || key(reader, &mut name)? != CHUNK_MARK {
        reader.rewind(begin);
        return Ok(None);
    }
    let offset = reader.position();
    if reader.head()? != Head::Bool(true) {
        return Err(fault(offset, MsgpackProblem::MisplacedChunkMark));
    }
    let (mut shape, mut chunks) = (None, None);
    for _ in 1..count {
        let offset = reader.position();
        name.clear();
        match key(reader, &mut name)? {
            "shape" if shape.is_none() => shape = Some(numbered_shape(reader)?),
            "chunks" if chunks.is_none() => chunks = Some(numbered_chunks(reader)?),
            _ => return Err(fault(offset, MsgpackProblem::ChunkKeys)),
        }
    }
    let (Some(shape), Some((element, extents))) = (shape, chunks) else {
        return Err(fault(begin, MsgpackProblem::ChunkKeys));
    };
    let found = extents.last().map_or(0, |last| last.start + last.len);
    let needed = match element {
        Element::Other(_) => found,
        element => byte_len(begin, &shape, element)?,
    };
    if needed != found {
        return Err(wrong_length(begin, shape, element, needed, found));
    }
    Ok(Some((element, shape, extents)))
}

/// The shape of an array in chunks, `{"0": n, "1": m, …}`.
fn numbered_shape(reader: &mut Reader) -> Result<Vec<usize>, Fault> {
    let offset = reader.position();
    let rank = match reader.head()? {
        Head::Map(rank) => rank,
        other => return Err(expected(offset, "the shape, a map", other)),
    };
    check_rank(offset, rank)?;
    let mut numbered = Vec::new();
    for _ in 0..rank {
        numbered.push((number(reader, "shape")?, dimension(reader)?));
    }
    in_order(offset, "shape", numbered)
}

/// The chunks of an array, `{"0": leaf, "1": leaf, …}`: flat runs of its elements.
fn numbered_chunks(reader: &mut Reader) -> Result<(Element, Vec<Extent>), Fault> {
    let offset = reader.position();
    let count = match reader.head()? {
        Head::Map(count) => count,
        other => return Err(expected(offset, "the chunks, a map", other)),
    };
    let mut numbered = Vec::new();
    for _ in 0..count {
        let chunk = number(reader, "chunks")?;
        let offset = reader.position();
        let array = match reader.head()? {
            Head::Ext { code, len } => extension(reader, offset, code, len)?,
            other => return Err(expected(offset, "a chunk", other)),
        };
        if array.shape.len() != 1 {
            let shape = array.shape;
            return Err(fault(offset, MsgpackProblem::ChunkShape { chunk, shape }));
        }
        // A chunk's shape is not needed any more. There may be many chunks: little is kept of each.
        numbered.push((chunk, (array.element, array.offset, array.len)));
    }
    let chunks = in_order(offset, "chunks", numbered)?;
    let Some((element, ..)) = chunks.first().copied() else {
        return Err(fault(
            offset,
            MsgpackProblem::ChunkNumbers { what: "chunks" },
        ));
    };
    let mut extents = Vec::new();
    let mut start = 0_usize;
    for (chunk, (found, data, len)) in chunks.into_iter().enumerate() {
        if found != element {
            return Err(fault(
                offset,
                MsgpackProblem::ChunkDType {
                    chunk,
                    found: found.name(),
                    expected: element.name(),
                },
            ));
        }
        extents.push(Extent {
            start,
            offset: data,
            len,
        });
        start = start
            .checked_add(len)
            .ok_or_else(|| fault(offset, MsgpackProblem::ShapeTooLarge { shape: Vec::new() }))?;
    }
    Ok((element, extents))
}

/// A key that is a number, as Python prints it.
fn number(reader: &mut Reader, what: &'static str) -> Result<usize, Fault> {
    let offset = reader.position();
    let mut digits = String::new();
    let key = key(reader, &mut digits)?;
    key.parse()
        .ok()
        .filter(|number: &usize| number.to_string() == key)
        .ok_or_else(|| fault(offset, MsgpackProblem::ChunkNumbers { what }))
}

/// The values, once their numbers are known to be 0, 1, 2, … in any order.
fn in_order<T>(
    offset: u64,
    what: &'static str,
    mut numbered: Vec<(usize, T)>,
) -> Result<Vec<T>, Fault> {
    numbered.sort_by_key(|(number, _)| *number);
    if !numbered
        .iter()
        .map(|(number, _)| *number)
        .eq(0..numbered.len())
    {
        return Err(fault(offset, MsgpackProblem::ChunkNumbers { what }));
    }
    Ok(numbered.into_iter().map(|(_, value)| value).collect())
}

fn dimension(reader: &mut Reader) -> Result<usize, Fault> {
    const EXPECTED: &str = "a dimension, a whole number";
    let offset = reader.position();
    match reader.head()? {
        Head::Uint(size) => usize::try_from(size).map_err(|_| {
            fault(
                offset,
                MsgpackProblem::Expected {
                    expected: EXPECTED,
                    found: "a number too large to address",
                },
            )
        }),
        other => Err(expected(offset, EXPECTED, other)),
    }
}

fn check_rank(offset: u64, rank: u32) -> Result<(), Fault> {
    if rank > MAX_RANK {
        return Err(fault(
            offset,
            MsgpackProblem::TooManyDimensions { found: rank },
        ));
    }
    Ok(())
}

/// The bytes that an array of this shape has.
fn byte_len(offset: u64, shape: &[usize], element: Element) -> Result<usize, Fault> {
    crate::checkpoint::tensor::byte_len(shape, element).ok_or_else(|| {
        let shape = shape.to_vec();
        fault(offset, MsgpackProblem::ShapeTooLarge { shape })
    })
}

fn wrong_length(
    offset: u64,
    shape: Vec<usize>,
    element: Element,
    expected: usize,
    found: usize,
) -> Fault {
    fault(
        offset,
        MsgpackProblem::WrongLength {
            shape,
            dtype: element.name(),
            expected,
            found,
        },
    )
}
