//! Leaves: arrays in one extension, and arrays in chunks.

use super::wire::{Fault, Head, Reader};
use super::{CHUNK_MARK, MAX_RANK, Piece, Problem, expected, fault, key};
use crate::checkpoint::tensor::Entry;
use crate::dtype::DType;

/// The extension types of `flax.serialization`.
const ARRAY: i8 = 1;
const COMPLEX: i8 = 2;
const SCALAR: i8 = 3;

/// The most bytes of a dtype's name that are read; numpy's longest float names have 10.
const MAX_DTYPE_NAME: u32 = 64;

/// An array whose bytes lie together.
pub(super) struct Array {
    dtype: DType,
    shape: Vec<usize>,
    offset: u64,
    len: usize,
}

impl Array {
    pub(super) fn into_entry(self, name: &str) -> Entry {
        Entry {
            name: name.into(),
            dtype: self.dtype,
            shape: self.shape,
            pieces: vec![Piece {
                start: 0,
                offset: self.offset,
                len: self.len,
            }],
        }
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
        COMPLEX => return Err(fault(offset, Problem::Complex)),
        code => return Err(fault(offset, Problem::UnknownExtension { code })),
    }
    let outer = reader.narrow(len)?;
    let array = shape_dtype_bytes(reader)?;
    if reader.left() > 0 {
        return Err(fault(
            reader.position(),
            Problem::TrailingBytes {
                count: reader.left(),
                after: "an array's bytes",
            },
        ));
    }
    reader.widen(outer);
    if code == SCALAR && !array.shape.is_empty() {
        return Err(fault(
            offset,
            Problem::ScalarWithShape { shape: array.shape },
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
                Problem::Expected {
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

    let dtype = dtype(reader)?;

    let offset = reader.position();
    let len = match reader.head()? {
        // Writers from before msgpack had a type for bytes use its string.
        Head::Bin(len) | Head::Str(len) => len,
        other => return Err(expected(offset, "the array's bytes", other)),
    };
    let data = reader.position();
    reader.skip(len)?;
    let needed = byte_len(offset, &shape, dtype)?;
    if len as usize != needed {
        return Err(wrong_length(offset, shape, dtype, needed, len as usize));
    }
    Ok(Array {
        dtype,
        shape,
        offset: data,
        len: needed,
    })
}

fn dtype(reader: &mut Reader) -> Result<DType, Fault> {
    let offset = reader.position();
    let len = match reader.head()? {
        Head::Str(len) | Head::Bin(len) => len,
        other => return Err(expected(offset, "the dtype's name", other)),
    };
    let name = reader.bytes(len.min(MAX_DTYPE_NAME) as usize)?;
    std::str::from_utf8(name)
        .ok()
        .filter(|_| len <= MAX_DTYPE_NAME)
        .and_then(DType::from_numpy_name)
        .ok_or_else(|| {
            let found = String::from_utf8_lossy(name).into_owned();
            fault(offset, Problem::UnknownDType { found })
        })
}

/// Dtype, shape and pieces of an array that was written in chunks.
type Chunked = (DType, Vec<usize>, Vec<Piece>);

/// Reads a map of `count` keys as an array in chunks, if its first key is the mark of one. Else reads nothing.
pub(super) fn chunked(reader: &mut Reader, count: u32) -> Result<Option<Chunked>, Fault> {
    let begin = reader.position();
    let mut name = String::new();
    if count == 0 || key(reader, &mut name)? != CHUNK_MARK {
        reader.rewind(begin);
        return Ok(None);
    }
    let offset = reader.position();
    if reader.head()? != Head::Bool(true) {
        return Err(fault(offset, Problem::MisplacedChunkMark));
    }
    let (mut shape, mut chunks) = (None, None);
    for _ in 1..count {
        let offset = reader.position();
        name.clear();
        match key(reader, &mut name)? {
            "shape" if shape.is_none() => shape = Some(numbered_shape(reader)?),
            "chunks" if chunks.is_none() => chunks = Some(numbered_chunks(reader)?),
            _ => return Err(fault(offset, Problem::ChunkKeys)),
        }
    }
    let (Some(shape), Some((dtype, pieces))) = (shape, chunks) else {
        return Err(fault(begin, Problem::ChunkKeys));
    };
    let needed = byte_len(begin, &shape, dtype)?;
    let found = pieces.last().map_or(0, |last| last.start + last.len);
    if needed != found {
        return Err(wrong_length(begin, shape, dtype, needed, found));
    }
    Ok(Some((dtype, shape, pieces)))
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
fn numbered_chunks(reader: &mut Reader) -> Result<(DType, Vec<Piece>), Fault> {
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
            return Err(fault(offset, Problem::ChunkShape { chunk, shape }));
        }
        // Of a chunk's shape nothing is left to know: it is kept small, for there may be many.
        numbered.push((chunk, (array.dtype, array.offset, array.len)));
    }
    let chunks = in_order(offset, "chunks", numbered)?;
    let Some((dtype, ..)) = chunks.first().copied() else {
        return Err(fault(offset, Problem::ChunkNumbers { what: "chunks" }));
    };
    let mut pieces = Vec::new();
    let mut start = 0_usize;
    for (chunk, (found, data, len)) in chunks.into_iter().enumerate() {
        if found != dtype {
            return Err(fault(
                offset,
                Problem::ChunkDType {
                    chunk,
                    found: found.numpy_name(),
                    expected: dtype.numpy_name(),
                },
            ));
        }
        pieces.push(Piece {
            start,
            offset: data,
            len,
        });
        start = start
            .checked_add(len)
            .ok_or_else(|| fault(offset, Problem::ShapeTooLarge { shape: Vec::new() }))?;
    }
    Ok((dtype, pieces))
}

/// A key that is a number, as Python prints it.
fn number(reader: &mut Reader, what: &'static str) -> Result<usize, Fault> {
    let offset = reader.position();
    let mut digits = String::new();
    let key = key(reader, &mut digits)?;
    key.parse()
        .ok()
        .filter(|number: &usize| number.to_string() == key)
        .ok_or_else(|| fault(offset, Problem::ChunkNumbers { what }))
}

/// The values, once their numbers were found to be 0, 1, 2, … in any order.
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
        return Err(fault(offset, Problem::ChunkNumbers { what }));
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
                Problem::Expected {
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
        return Err(fault(offset, Problem::TooManyDimensions { found: rank }));
    }
    Ok(())
}

/// The bytes that an array of this shape has.
fn byte_len(offset: u64, shape: &[usize], dtype: DType) -> Result<usize, Fault> {
    crate::checkpoint::tensor::byte_len(shape, dtype).ok_or_else(|| {
        let shape = shape.to_vec();
        fault(offset, Problem::ShapeTooLarge { shape })
    })
}

fn wrong_length(
    offset: u64,
    shape: Vec<usize>,
    dtype: DType,
    expected: usize,
    found: usize,
) -> Fault {
    fault(
        offset,
        Problem::WrongLength {
            shape,
            dtype: dtype.numpy_name(),
            expected,
            found,
        },
    )
}
