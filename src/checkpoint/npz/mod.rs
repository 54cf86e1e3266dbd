//! npz files: zip archives whose members are npy files, as `numpy.savez` and `numpy.savez_compressed` write them.
//!
//! Members that are stored are views of the archive. Those that are deflated are unpacked once, when the archive is opened, to
//! one temporary file without a name, and are views of that; how many bytes that may take is bounded before the first is
//! written, by the sizes in the archive's directory, each array's own header, and how far deflate can pack.

mod inflate;
mod npy;
mod problem;
mod zip;

use std::fs::File;
use std::io;

pub use problem::NpzProblem;

use self::zip::{Member, Method};
use super::source::ReadAt;
use super::tensor::{Entry, byte_len};

/// The most dimensions of an array, as in numpy.
pub(super) const MAX_RANK: usize = 64;
/// What numpy appends to an array's name.
const SUFFIX: &str = ".npy";

/// What is wrong, and with which member; the name is empty where it is the archive itself.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) tensor: String,
    pub(super) problem: NpzProblem,
}

impl NpzProblem {
    /// This problem, of the member with this name.
    fn of(self, name: &str) -> ParseError {
        ParseError {
            tensor: name.to_owned(),
            problem: self,
        }
    }
}

impl From<NpzProblem> for ParseError {
    fn from(problem: NpzProblem) -> Self {
        problem.of("")
    }
}

/// Failing to read the archive.
fn unreadable(source: io::Error) -> NpzProblem {
    NpzProblem::Io {
        what: "cannot be read",
        source,
    }
}

/// An array of the archive.
pub(super) struct Array {
    /// Its shape is that of the bytes in C order: the array's own reversed where it is in Fortran order.
    pub(super) entry: Entry,
    pub(super) fortran_order: bool,
    /// Whether its bytes are in the file of unpacked members.
    pub(super) unpacked: bool,
}

/// What an archive has.
pub(super) struct Parsed {
    pub(super) arrays: Vec<Array>,
    /// The unpacked members and the number of their bytes, where any were packed.
    pub(super) unpacked: Option<(File, u64)>,
}

/// Finds every array in the archive, in its directory's order. No name occurs twice.
pub(super) fn parse(source: &dyn ReadAt) -> Result<Parsed, ParseError> {
    let mut arrays = Vec::new();
    let mut packed = Vec::new();
    let mut unpacked_len = 0_u64;
    for member in zip::members(source)? {
        let name = member.name.as_str();
        let array = name
            .strip_suffix(SUFFIX)
            .filter(|array| !array.is_empty())
            .ok_or_else(|| NpzProblem::NotArray.of(name))?;
        let start = match member.method {
            Method::Stored => member.offset,
            Method::Deflated => unpacked_len,
        };
        let array =
            read_array(source, &member, array, start).map_err(|problem| problem.of(name))?;
        arrays.push(array);
        if member.method == Method::Deflated {
            // Each is at most 1032 times its packed bytes, which do not overlap: the sum is far from overflow.
            let size = member.size;
            packed.push((unpacked_len, member));
            unpacked_len = unpacked_len.saturating_add(size);
        }
    }
    let unpacked = match packed.is_empty() {
        true => None,
        false => Some((inflate::all(source, &packed, unpacked_len)?, unpacked_len)),
    };
    Ok(Parsed { arrays, unpacked })
}

/// Reads a member's header. `start` is where its unpacked bytes begin.
fn read_array(
    source: &dyn ReadAt,
    member: &Member,
    name: &str,
    start: u64,
) -> Result<Array, NpzProblem> {
    let head = match member.method {
        Method::Stored => {
            let len = member.size.min(npy::MAX_HEAD as u64) as usize;
            let mut head = vec![0; len];
            source
                .read_exact_at(&mut head, member.offset)
                .map_err(unreadable)?;
            head
        }
        Method::Deflated => inflate::head(source, member, npy::MAX_HEAD)?,
    };
    let header = npy::parse(&head)?;
    let mut shape = header.shape;
    let Some(needed) = byte_len(&shape, header.dtype) else {
        return Err(NpzProblem::ShapeTooLarge { shape });
    };
    let found = member.size.saturating_sub(header.len as u64);
    if needed as u64 != found {
        return Err(NpzProblem::WrongLength {
            shape,
            dtype: header.dtype.numpy_name(),
            expected: needed as u64,
            found,
        });
    }
    if header.fortran_order {
        shape.reverse();
    }
    let offset = start.saturating_add(header.len as u64);
    Ok(Array {
        entry: Entry::contiguous(name, header.dtype, shape, offset, needed),
        fortran_order: header.fortran_order,
        unpacked: member.method == Method::Deflated,
    })
}
