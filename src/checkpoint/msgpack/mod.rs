//! Flax's msgpack files: maps of names whose leaves are arrays.
//!
//! The encoding is that of `flax.serialization` (flax 0.10): a leaf is an extension of type 1
//! (array) or 3 (scalar) that holds a msgpack array of shape, dtype name and bytes; an array of
//! more than 2^30 bytes is a map of flat chunks. A file holds nested maps, or, where it is a shard,
//! one map of names that are already joined.
//!
//! Only heads are read, and what is kept of a file is bounded by its size: a leaf takes more than
//! 12 bytes and adds one entry, joined names together may not outgrow the file by much, and no
//! length that a file states is allocated before the file is known to have the bytes.

mod array;
mod problem;
mod wire;

pub use problem::MsgpackProblem;
use wire::{Fault, Head, Reader};

use super::element::{Element, Unread};
use super::positional::ReadAt;
use super::tensor::{Extent, Stored};

/// The longest joined name, in bytes. Gemma's have about 60.
pub(super) const MAX_NAME: usize = 512;
/// The deepest nesting of maps. Gemma's trees have 6.
pub(super) const MAX_DEPTH: usize = 64;
/// The most dimensions of an array, as in numpy.
pub(super) const MAX_RANK: u32 = 64;

/// What joined names may take beyond the file's size, so that files with few small tensors pass.
const NAME_ALLOWANCE: u64 = 1 << 16;
/// The first key of a map that stands for an array in chunks.
const CHUNK_MARK: &str = "__msgpack_chunked_array__";

/// What is wrong with a file, where, and under which name.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) tensor: String,
    pub(super) offset: u64,
    pub(super) problem: MsgpackProblem,
}

/// A map that is being read.
struct Level {
    /// How many of its keys are still to come.
    left: u32,
    /// How much of the name belongs to the enclosing maps.
    prefix: usize,
}

/// What a file contains.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) stored: Vec<Stored>,
    pub(super) unread: Vec<Unread>,
}

impl Parsed {
    fn add(&mut self, name: &str, element: Element, shape: Vec<usize>, extents: Vec<Extent>) {
        match element {
            Element::Other(element) => self.unread.push(Unread {
                name: name.into(),
                element,
                shape,
            }),
            element => {
                let stored = Stored::new(name, element, shape, extents);
                self.stored.push(stored);
            }
        }
    }
}

/// Finds every array in the file, in the file's order. A name that occurs twice is found once the
/// files are put together.
pub(super) fn parse(source: &dyn ReadAt) -> Result<Parsed, ParseError> {
    let mut reader = Reader::new(source);
    let mut name = String::new();
    let mut parsed = Parsed::default();
    walk(&mut reader, &mut name, &mut parsed).map_err(|fault| ParseError {
        tensor: name,
        offset: fault.offset,
        problem: fault.problem,
    })?;
    Ok(parsed)
}

/// Walks the tree without recursion. `name` is the path to where it is, also when it fails.
fn walk(reader: &mut Reader, name: &mut String, parsed: &mut Parsed) -> Result<(), Fault> {
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
        match key(reader, name)? {
            CHUNK_MARK => return Err(fault(offset, MsgpackProblem::MisplacedChunkMark)),
            "step" | "opt_state" if depth == 1 => {
                return Err(fault(offset, MsgpackProblem::TrainingState));
            }
            _ => {}
        }
        let offset = reader.position();
        match reader.head()? {
            Head::Ext { code, len } => {
                let array = array::extension(reader, offset, code, len)?;
                spend(&mut name_budget, name, offset)?;
                let (element, shape, extent) = array.into_parts();
                parsed.add(name, element, shape, vec![extent]);
            }
            Head::Map(count) => {
                if let Some((element, shape, extents)) = array::chunked(reader, count)? {
                    spend(&mut name_budget, name, offset)?;
                    parsed.add(name, element, shape, extents);
                } else if depth == MAX_DEPTH {
                    return Err(fault(offset, MsgpackProblem::TooDeep));
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
            MsgpackProblem::TrailingBytes {
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
        .ok_or_else(|| fault(offset, MsgpackProblem::NamesTooLarge))?;
    Ok(())
}

/// The head of the outermost map.
fn top(reader: &mut Reader) -> Result<Level, Fault> {
    match reader.head()? {
        Head::Map(count) => Ok(Level {
            left: count,
            prefix: 0,
        }),
        other => Err(expected(0, "a map of tensors", other)),
    }
}

/// Reads a map's key, appends it to `name`, and returns it.
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
        .ok_or_else(|| fault(offset, MsgpackProblem::NameTooLong))?;
    match std::str::from_utf8(reader.bytes(len)?) {
        Ok(key) => name.push_str(key),
        Err(_) => return Err(fault(offset, MsgpackProblem::NameNotUtf8)),
    }
    Ok(name.get(before..).unwrap_or_default())
}

fn fault(offset: u64, problem: MsgpackProblem) -> Fault {
    Fault { offset, problem }
}

fn expected(offset: u64, expected: &'static str, found: Head) -> Fault {
    fault(
        offset,
        MsgpackProblem::Expected {
            expected,
            found: found.kind(),
        },
    )
}
