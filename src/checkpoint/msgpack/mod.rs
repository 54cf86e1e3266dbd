//! Flax's msgpack files: maps of names whose leaves are arrays.
//!
//! The encoding is that of `flax.serialization` (flax 0.10): a leaf is an extension of type 1 (array) or 3 (scalar) that holds
//! a msgpack array of shape, dtype name and bytes; an array of more than 2^30 bytes is a map of flat chunks. A file holds nested
//! maps, or, where it is a shard, one map of names that are already joined.
//!
//! Only heads are read, and what is kept of a file is bounded by its size: a leaf takes more than 12 bytes and adds one entry,
//! joined names together may not outgrow the file by much, and no length that a file states is allocated before the bytes
//! were found to be there.

mod array;
mod problem;
mod wire;

pub use problem::Problem;
use wire::{Fault, Head, Reader};

use super::source::ReadAt;
use super::tensor::{Entry, Piece};

/// The longest joined name, in bytes. Gemma's have about 60.
pub(super) const MAX_NAME: usize = 512;
/// The deepest nesting of maps. Gemma's trees have 6.
pub(super) const MAX_DEPTH: usize = 64;
/// The most dimensions of an array, as in numpy.
pub(super) const MAX_RANK: u32 = 64;

/// What joined names may take beyond the file's size, such that files with few small tensors pass.
const NAME_ALLOWANCE: u64 = 1 << 16;
/// The first key of a map that stands for an array in chunks.
const CHUNK_MARK: &str = "__msgpack_chunked_array__";
/// What a Git LFS pointer begins with.
const LFS_POINTER: &[u8] = b"version https://git-lfs";

/// What is wrong with a file, where, and under which name.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) tensor: String,
    pub(super) offset: u64,
    pub(super) problem: Problem,
}

/// A map that is being read.
struct Level {
    /// How many of its keys are still to come.
    left: u32,
    /// How much of the name belongs to the maps around it.
    prefix: usize,
}

/// Finds every array in the file, in the file's order. Names may occur twice: that shows once files are put together.
pub(super) fn parse(source: &dyn ReadAt) -> Result<Vec<Entry>, ParseError> {
    let mut reader = Reader::new(source);
    let mut name = String::new();
    let mut entries = Vec::new();
    walk(&mut reader, &mut name, &mut entries).map_err(|fault| ParseError {
        tensor: name,
        offset: fault.offset,
        problem: fault.problem,
    })?;
    Ok(entries)
}

/// Walks the tree without recursion. `name` is the path to where it is, also when it fails.
fn walk(reader: &mut Reader, name: &mut String, entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let mut name_budget = reader.left().saturating_add(NAME_ALLOWANCE);
    let mut levels = vec![top(reader)?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            break;
        };
        name.truncate(level.prefix);
        let Some(left) = level.left.checked_sub(1) else {
            levels.pop();
            continue;
        };
        level.left = left;
        if depth > 1 {
            name.push('/');
        }
        let offset = reader.position();
        if key(reader, name)? == CHUNK_MARK {
            return Err(fault(offset, Problem::MisplacedChunkMark));
        }
        let offset = reader.position();
        match reader.head()? {
            Head::Ext { code, len } => {
                let array = array::extension(reader, offset, code, len)?;
                spend(&mut name_budget, name, offset)?;
                entries.push(array.into_entry(name));
            }
            Head::Map(count) => {
                if let Some((dtype, shape, pieces)) = array::chunked(reader, count)? {
                    spend(&mut name_budget, name, offset)?;
                    entries.push(Entry {
                        name: name.as_str().into(),
                        dtype,
                        shape,
                        pieces,
                    });
                } else if depth == MAX_DEPTH {
                    return Err(fault(offset, Problem::TooDeep));
                } else {
                    levels.push(Level {
                        left: count,
                        prefix: name.len(),
                    });
                }
            }
            other => return Err(expected(offset, "an array or a map of arrays", other)),
        }
    }
    match reader.left() {
        0 => Ok(()),
        count => Err(fault(
            reader.position(),
            Problem::TrailingBytes {
                count,
                after: "the map of tensors",
            },
        )),
    }
}

/// Takes the name of one more tensor off the bytes that all names may have together.
fn spend(budget: &mut u64, name: &str, offset: u64) -> Result<(), Fault> {
    *budget = budget
        .checked_sub(name.len() as u64)
        .ok_or_else(|| fault(offset, Problem::NamesTooLarge))?;
    Ok(())
}

/// The head of the outermost map.
fn top(reader: &mut Reader) -> Result<Level, Fault> {
    if reader.left() >= LFS_POINTER.len() as u64 && reader.bytes(LFS_POINTER.len())? == LFS_POINTER
    {
        return Err(fault(0, Problem::LfsPointer));
    }
    reader.rewind(0);
    match reader.head()? {
        Head::Map(count) => Ok(Level {
            left: count,
            prefix: 0,
        }),
        other => Err(expected(0, "a map of tensors", other)),
    }
}

/// Reads a map's key and appends it to `name`. Gives the key.
fn key<'n>(reader: &mut Reader, name: &'n mut String) -> Result<&'n str, Fault> {
    let offset = reader.position();
    let len = match reader.head()? {
        Head::Str(len) => len,
        other => return Err(expected(offset, "a name", other)),
    };
    let before = name.len();
    let len = usize::try_from(len)
        .ok()
        .filter(|len| *len <= MAX_NAME.saturating_sub(before))
        .ok_or_else(|| fault(offset, Problem::NameTooLong))?;
    match std::str::from_utf8(reader.bytes(len)?) {
        Ok(key) => name.push_str(key),
        Err(_) => return Err(fault(offset, Problem::NameNotUtf8)),
    }
    Ok(name.get(before..).unwrap_or_default())
}

fn fault(offset: u64, problem: Problem) -> Fault {
    Fault { offset, problem }
}

fn expected(offset: u64, expected: &'static str, found: Head) -> Fault {
    fault(
        offset,
        Problem::Expected {
            expected,
            found: found.kind(),
        },
    )
}
