//! The structure of a zip archive: its members' names, sizes and places, from the directory at its end.
//!
//! Layouts are those of PKWARE's APPNOTE 6.3, with its 64-bit extensions, which numpy uses for every member.

use std::collections::HashSet;

use super::{NpzProblem, ParseError};
use crate::checkpoint::source::ReadAt;

/// The longest name of a member, in bytes.
pub(super) const MAX_NAME: usize = 512;
/// The largest directory that is read, in bytes. That of a hundred thousand members has about fifteen million.
const MAX_DIRECTORY: u64 = 1 << 26;
/// How much deflate can pack: 258 bytes into two bits.
pub(super) const MAX_RATIO: u64 = 1032;

const END: u32 = 0x0605_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const END_64: u32 = 0x0606_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// The fixed parts of these records, in bytes.
const END_LEN: usize = 22;
const END_64_LOCATOR_LEN: usize = 20;
const END_64_LEN: usize = 56;
const CENTRAL_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// The longest comment, which stands after everything else.
const MAX_COMMENT: usize = u16::MAX as usize;
/// The extra field with the numbers that do not fit 32 bits.
const EXTRA_64: u16 = 1;

/// How a member's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
}

/// A member of the archive. Its packed bytes lie within the file.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) method: Method,
    pub(super) crc32: u32,
    /// Where its packed bytes begin.
    pub(super) offset: u64,
    pub(super) packed: u64,
    pub(super) size: u64,
}

/// The members of an archive, in the directory's order. No name occurs twice.
pub(super) fn members(source: &dyn ReadAt) -> Result<Vec<Member>, ParseError> {
    let directory = directory(source)?;
    let mut rest = directory.as_slice();
    let mut members = Vec::new();
    let mut names = HashSet::new();
    while !rest.is_empty() {
        let (record, after) = Record::split(rest).ok_or(not_zip("its directory is cut short"))?;
        rest = after;
        let name = name(record.name)?;
        let member = record
            .member(source, &name)
            .map_err(|problem| problem.of(&name))?;
        if !names.insert(name.clone()) {
            return Err(NpzProblem::DuplicateName.of(&name));
        }
        members.push(member);
    }
    let mut taken: Vec<(u64, u64)> = members.iter().map(|m| (m.offset, m.packed)).collect();
    taken.sort_unstable();
    // Members that share bytes are how a small archive unpacks to a large one.
    let overlap = |pair: &[(u64, u64)]| matches!(pair, [a, b] if a.0 + a.1 > b.0);
    if taken.windows(2).any(overlap) {
        return Err(not_zip("two members overlap").into());
    }
    Ok(members)
}

/// The bytes of the directory.
fn directory(source: &dyn ReadAt) -> Result<Vec<u8>, NpzProblem> {
    let size = source.size();
    // The last record has a fixed length, but for a comment that may follow it.
    let tail_len = size.min((END_LEN + MAX_COMMENT + END_64_LOCATOR_LEN) as u64);
    let tail_start = size - tail_len;
    let tail = read(source, tail_start, tail_len)?;
    let end = (0..=tail.len().saturating_sub(END_LEN))
        .rev()
        .find(|&at| {
            u32_at(&tail, at) == Some(END)
                && u16_at(&tail, at + 20).map(|len| at + END_LEN + len as usize) == Some(tail.len())
        })
        .ok_or(not_zip("it has no directory (cut short?)"))?;
    let narrow = || {
        Some((
            u32_at(&tail, end + 12)?.into(),
            u32_at(&tail, end + 16)?.into(),
        ))
    };
    let wide = end
        .checked_sub(END_64_LOCATOR_LEN)
        .filter(|&at| u32_at(&tail, at) == Some(END_64_LOCATOR))
        .and_then(|at| u64_at(&tail, at + 8));
    let (len, start): (u64, u64) = match wide {
        None => narrow().ok_or(not_zip("its last record is cut short"))?,
        Some(at) => {
            within(at, END_64_LEN as u64, size)?;
            let record = read(source, at, END_64_LEN as u64)?;
            if u32_at(&record, 0) != Some(END_64) {
                return Err(not_zip("its 64-bit last record is not where it should be"));
            }
            u64_at(&record, 40)
                .zip(u64_at(&record, 48))
                .ok_or(not_zip("its 64-bit last record is cut short"))?
        }
    };
    within(start, len, tail_start + end as u64)?;
    if len > MAX_DIRECTORY {
        return Err(not_zip("its directory is larger than any model's"));
    }
    read(source, start, len)
}

/// One record of the directory.
struct Record<'a> {
    fixed: &'a [u8],
    name: &'a [u8],
    extra: &'a [u8],
}

impl<'a> Record<'a> {
    /// The first record, and what follows it.
    fn split(directory: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (fixed, rest) = directory.split_at_checked(CENTRAL_LEN)?;
        if u32_at(fixed, 0)? != CENTRAL {
            return None;
        }
        let (name, rest) = rest.split_at_checked(u16_at(fixed, 28)?.into())?;
        let (extra, rest) = rest.split_at_checked(u16_at(fixed, 30)?.into())?;
        let (_comment, rest) = rest.split_at_checked(u16_at(fixed, 32)?.into())?;
        Some((Record { fixed, name, extra }, rest))
    }

    fn member(&self, source: &dyn ReadAt, name: &str) -> Result<Member, NpzProblem> {
        let cut = || not_zip("a record of its directory is cut short");
        let word = |at| u16_at(self.fixed, at).ok_or_else(cut);
        let long = |at| u32_at(self.fixed, at).ok_or_else(cut);
        // The upper half of the external attributes is a Unix file mode where the writer was one.
        const LINK: u32 = 0o120_000;
        const KIND: u32 = 0o170_000;
        if (long(38)? >> 16) & KIND == LINK {
            return Err(NpzProblem::Link);
        }
        if word(8)? & 1 != 0 {
            return Err(NpzProblem::Encrypted);
        }
        let method = match word(10)? {
            0 => Method::Stored,
            8 => Method::Deflated,
            method => return Err(NpzProblem::Compression { method }),
        };
        let mut wide = Wide::find(self.extra);
        let size = wide.or(long(24)?)?;
        let packed = wide.or(long(20)?)?;
        let header = wide.or(long(42)?)?;
        let offset = data_offset(source, header)?;
        within(offset, packed, source.size())?;
        match method {
            Method::Stored if packed != size => {
                return Err(not_zip("a stored member has two different sizes"));
            }
            Method::Deflated if size / MAX_RATIO > packed => {
                return Err(NpzProblem::Bomb {
                    compressed: packed,
                    size,
                });
            }
            _ => {}
        }
        Ok(Member {
            name: name.to_owned(),
            method,
            crc32: long(16)?,
            offset,
            packed,
            size,
        })
    }
}

/// Where a member's bytes begin: behind a header of its own, which repeats the name and has an extra field of its own length.
fn data_offset(source: &dyn ReadAt, header: u64) -> Result<u64, NpzProblem> {
    within(header, LOCAL_LEN as u64, source.size())?;
    let fixed = read(source, header, LOCAL_LEN as u64)?;
    let lengths = u16_at(&fixed, 26).zip(u16_at(&fixed, 28));
    match lengths {
        Some((name, extra)) if u32_at(&fixed, 0) == Some(LOCAL) => {
            Ok(header + LOCAL_LEN as u64 + u64::from(name) + u64::from(extra))
        }
        _ => Err(not_zip("a member is not where its directory says")),
    }
}

/// The numbers that did not fit the record: of size, packed size and offset, in this order, those that are all ones there.
struct Wide<'a>(&'a [u8]);

impl<'a> Wide<'a> {
    fn find(mut extra: &'a [u8]) -> Self {
        while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
            let Some((field, rest)) = extra
                .get(4..)
                .and_then(|rest| rest.split_at_checked(len.into()))
            else {
                break;
            };
            if id == EXTRA_64 {
                return Wide(field);
            }
            extra = rest;
        }
        Wide(&[])
    }

    fn or(&mut self, narrow: u32) -> Result<u64, NpzProblem> {
        if narrow != u32::MAX {
            return Ok(narrow.into());
        }
        let value = u64_at(self.0, 0).ok_or(not_zip("a member's 64-bit size is missing"))?;
        self.0 = self.0.get(8..).unwrap_or_default();
        Ok(value)
    }
}

/// A member's name. No file is ever made by it; one that climbs was still not written by numpy.
fn name(bytes: &[u8]) -> Result<String, ParseError> {
    let name = std::str::from_utf8(bytes).map_err(|_| NpzProblem::NameNotUtf8)?;
    if name.len() > MAX_NAME {
        return Err(NpzProblem::NameTooLong.into());
    }
    let climbs = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.split('/').any(climbs)
        || name.contains(|c: char| c == '\\' || c == ':' || c.is_control())
    {
        return Err(NpzProblem::NameClimbs.of(name));
    }
    Ok(name.to_owned())
}

fn within(offset: u64, len: u64, file_len: u64) -> Result<(), NpzProblem> {
    match offset.checked_add(len) {
        Some(end) if end <= file_len => Ok(()),
        _ => Err(NpzProblem::OutOfFile {
            offset,
            len,
            file_len,
        }),
    }
}

/// Reads bytes that were found to be within the file.
fn read(source: &dyn ReadAt, offset: u64, len: u64) -> Result<Vec<u8>, NpzProblem> {
    let len = usize::try_from(len).map_err(|_| not_zip("it is too large to address"))?;
    let mut bytes = vec![0; len];
    source
        .read_exact_at(&mut bytes, offset)
        .map_err(super::unreadable)?;
    Ok(bytes)
}

fn not_zip(what: &'static str) -> NpzProblem {
    NpzProblem::NotZip { what }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
