//! Unpacks deflated members.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::Crc;
use flate2::read::DeflateDecoder;
use rayon::prelude::*;

use super::zip::Member;
use super::{NpzProblem, ParseError};
use crate::checkpoint::source::ReadAt;

/// Bytes that are unpacked at a time.
const BUFFER: usize = 1 << 16;

/// The packed bytes of a member.
struct Packed<'a> {
    source: &'a dyn ReadAt,
    offset: u64,
    left: u64,
}

impl Read for Packed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.left.min(buf.len() as u64);
        let (now, _) = buf.split_at_mut(len as usize);
        self.source.read_exact_at(now, self.offset)?;
        self.offset += len;
        self.left -= len;
        Ok(now.len())
    }
}

fn decoder<'a>(source: &'a dyn ReadAt, member: &Member) -> DeflateDecoder<Packed<'a>> {
    DeflateDecoder::new(Packed {
        source,
        offset: member.offset,
        left: member.packed,
    })
}

/// The first bytes of a member, unpacked: `len`, or all where it has fewer.
pub(super) fn head(
    source: &dyn ReadAt,
    member: &Member,
    len: usize,
) -> Result<Vec<u8>, NpzProblem> {
    let mut head = Vec::new();
    decoder(source, member)
        .take(member.size.min(len as u64))
        .read_to_end(&mut head)
        .map_err(damaged)?;
    Ok(head)
}

/// Unpacks members, each to its place in a new file of `len` bytes that has no name and vanishes when it is closed.
pub(super) fn all(
    source: &dyn ReadAt,
    members: &[(u64, Member)],
    len: u64,
) -> Result<File, ParseError> {
    let failed = |source| NpzProblem::Io {
        what: "cannot make a temporary file to unpack it to",
        source,
    };
    let file = tempfile::tempfile().map_err(failed)?;
    file.set_len(len).map_err(failed)?;
    members.par_iter().try_for_each(|(start, member)| {
        one(source, member, &file, *start).map_err(|problem| problem.of(&member.name))
    })?;
    Ok(file)
}

fn one(source: &dyn ReadAt, member: &Member, file: &File, start: u64) -> Result<(), NpzProblem> {
    let mut decoder = decoder(source, member);
    let mut buffer = vec![0; BUFFER];
    let mut crc = Crc::new();
    let mut at = 0_u64;
    loop {
        let read = decoder.read(&mut buffer).map_err(damaged)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        if at + read as u64 > member.size {
            return Err(inflate(format!(
                "it has more than the {} bytes that the archive says",
                member.size
            )));
        }
        file.write_all_at(bytes, start + at)
            .map_err(|source| NpzProblem::Io {
                what: "cannot write the temporary file that it is unpacked to",
                source,
            })?;
        crc.update(bytes);
        at += read as u64;
    }
    if at != member.size {
        return Err(inflate(format!(
            "it has {at} bytes, the archive says {}",
            member.size
        )));
    }
    if crc.sum() != member.crc32 {
        return Err(inflate(format!(
            "its checksum is {:08x}, the archive says {:08x}",
            crc.sum(),
            member.crc32
        )));
    }
    Ok(())
}

fn damaged(error: io::Error) -> NpzProblem {
    inflate(error.to_string())
}

fn inflate(what: String) -> NpzProblem {
    NpzProblem::Inflate { what }
}
