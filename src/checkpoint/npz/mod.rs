//! npz files: zip archives whose members are npy files, as `numpy.savez` and
//! `numpy.savez_compressed` write them.
//!
//! Stored members are views of the archive. Deflated members are unpacked once to one unnamed
//! temporary file, and are views of that: those of a small archive when it is opened, so that damage
//! shows at once, and those of a large one when the first of their bytes is read. How many bytes
//! that takes is bounded before the first one is written: by the sizes in the archive's directory, by each
//! array's own header, and by how far deflate can compress.

mod archive;
mod limits;
mod npy;
mod problem;
mod unpacked;

use std::fs::File;

pub use problem::NpzProblem;
pub(super) use unpacked::{Packed, Unpacked};

use self::archive::{Archive, Member};
use super::element::{Element, Unread};
use super::positional::ReadAt;
use super::tensor::{Stored, byte_len};

/// The most bytes that are unpacked when an archive is opened.
const MAX_AT_ONCE: u64 = 1 << 26;
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

/// An array of the archive.
pub(super) struct Array {
    /// Its shape is that of the bytes in C order: reversed where the array is in Fortran order.
    pub(super) stored: Stored,
    pub(super) fortran_order: bool,
    /// Whether its bytes are in the file of unpacked members.
    pub(super) unpacked: bool,
}

/// What an archive contains.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) arrays: Vec<Array>,
    pub(super) unread: Vec<Unread>,
    /// The unpacked members and the number of their bytes, where any were compressed.
    pub(super) unpacked: Option<(File, u64)>,
    /// Or the members that are to be unpacked, where they are large.
    pub(super) packed: Option<Packed>,
}

/// Finds every array in the archive, in its directory's order. No name occurs twice.
pub(super) fn parse(source: &dyn ReadAt) -> Result<Parsed, ParseError> {
    let archive = Archive::open(source)?;
    let mut parsed = Parsed::default();
    let (mut packed, mut unpacked_len) = (Vec::new(), 0_u64);
    for member in archive.members()? {
        let start = match member.deflated {
            true => unpacked_len,
            false => member.offset,
        };
        if read_array(&archive, &member, start, &mut parsed).map_err(|p| p.of(&member.name))? {
            // Each is at most 1032 times its compressed bytes, which do not overlap: the sum is
            // far from overflow.
            let size = member.size;
            packed.push((unpacked_len, member));
            unpacked_len = unpacked_len.saturating_add(size);
        }
    }
    if unpacked_len > MAX_AT_ONCE {
        parsed.packed = Some(Packed {
            members: packed,
            len: unpacked_len,
        });
    } else if !packed.is_empty() {
        parsed.unpacked = Some((archive.unpack(&packed, unpacked_len)?, unpacked_len));
    }
    Ok(parsed)
}

/// Reads a member's header. `start` is where its unpacked bytes begin. Returns whether the member
/// must be unpacked.
fn read_array(
    archive: &Archive,
    member: &Member,
    start: u64,
    parsed: &mut Parsed,
) -> Result<bool, NpzProblem> {
    let name = member.name.strip_suffix(SUFFIX).unwrap_or_default();
    if name.is_empty() {
        let what = "the member is not an array: its name does not end in .npy".into();
        return Err(NpzProblem::Member { what });
    }
    let npy::Header {
        element,
        fortran_order,
        mut shape,
        len,
    } = npy::parse(&archive.head(member, npy::MAX_HEAD)?)?;
    if let Element::Other(element) = element {
        parsed.unread.push(Unread {
            name: name.into(),
            element,
            shape,
        });
        return Ok(false);
    }
    let Some(needed) = byte_len(&shape, element) else {
        return Err(NpzProblem::ShapeTooLarge { shape });
    };
    let found = member.size.saturating_sub(len as u64);
    if needed as u64 != found {
        return Err(NpzProblem::WrongLength {
            shape,
            dtype: element.name(),
            expected: needed as u64,
            found,
        });
    }
    if fortran_order {
        shape.reverse();
    }
    let offset = start.saturating_add(len as u64);
    parsed.arrays.push(Array {
        stored: Stored::contiguous(name, element, shape, offset, needed),
        fortran_order,
        unpacked: member.deflated,
    });
    Ok(member.deflated)
}
