//! The zip archive: its members, and their bytes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rayon::prelude::*;
use zip::read::{ArchiveOffset, Config, ZipArchiveMetadata, ZipFile, ZipReadOptions};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::limits::MAX_RATIO;
use super::{NpzProblem, ParseError};
use crate::checkpoint::positional::ReadAt;

/// The longest name of a member, in bytes.
pub(super) const MAX_NAME: usize = 512;
/// The fixed part of a member's local header, and of its record in the directory, in bytes.
const LOCAL_LEN: u64 = 30;
const RECORD_LEN: usize = 46;
/// Bytes that are unpacked at a time.
const BUFFER: usize = 1 << 16;

/// Reads a source from a position of its own, as `zip` needs it.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    source: &'a dyn ReadAt,
    at: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.source.size().saturating_sub(self.at);
        let (now, _) = buf.split_at_mut(left.min(buf.len() as u64) as usize);
        self.source.read_exact_at(now, self.at)?;
        self.at += now.len() as u64;
        Ok(now.len())
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.source.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// An opened archive.
pub(super) struct Archive<'a> {
    source: &'a dyn ReadAt,
    metadata: Arc<ZipArchiveMetadata>,
    directory: u64,
}

/// A member of the archive. Its packed bytes lie within the file.
pub(super) struct Member {
    index: usize,
    pub(super) name: String,
    pub(super) deflated: bool,
    /// Where its packed bytes begin.
    pub(super) offset: u64,
    /// Its unpacked bytes.
    pub(super) size: u64,
}

impl<'a> Archive<'a> {
    /// Reads the archive's directory.
    pub(super) fn open(source: &'a dyn ReadAt) -> Result<Self, NpzProblem> {
        let config = Config {
            // numpy puts nothing before the archive; a search for its start reads all of the file.
            archive_offset: ArchiveOffset::Known(0),
        };
        // The directory is read in many small parts.
        let cursor = BufReader::new(Cursor { source, at: 0 });
        let archive = ZipArchive::with_config(config, cursor).map_err(unreadable)?;
        Ok(Archive {
            source,
            metadata: archive.metadata(),
            directory: archive.central_directory_start(),
        })
    }

    /// The members, in the directory's order. No name occurs twice, and no two share bytes.
    pub(super) fn members(&self) -> Result<Vec<Member>, ParseError> {
        if self.metadata.has_duplicate_names() {
            let name = self.repeated_name().unwrap_or_default();
            return Err(NpzProblem::DuplicateName.of(&name));
        }
        let mut members = Vec::new();
        let mut taken = Vec::new();
        for index in 0..self.metadata.len() {
            let entry = self.metadata.entry(index).map_err(unreadable)?;
            let name = checked_name(entry.name_raw())?;
            let (member, bytes) = self.member(index, &name).map_err(|p| p.of(&name))?;
            members.push(member);
            taken.push(bytes);
        }
        taken.sort_unstable();
        // Members that share bytes are how a small archive unpacks to a large one.
        let overlap = |pair: &[(u64, u64)]| matches!(pair, [a, b] if a.1 > b.0);
        if taken.windows(2).any(overlap) {
            return Err(not_zip("two members overlap").into());
        }
        Ok(members)
    }

    /// One member, and where its bytes begin and end.
    fn member(&self, index: usize, name: &str) -> Result<(Member, (u64, u64)), NpzProblem> {
        let entry = self.metadata.entry(index).map_err(unreadable)?;
        if entry.is_symlink() {
            return Err(member("the member is a link"));
        }
        if entry.encrypted() {
            return Err(member("the member is encrypted"));
        }
        let deflated = match entry.compression() {
            CompressionMethod::Stored => false,
            CompressionMethod::Deflated => true,
            // The name is deprecated for choosing a method; for this there is no other.
            #[allow(deprecated)]
            CompressionMethod::Unsupported(method) => {
                return Err(NpzProblem::Compression { method });
            }
            other => {
                let what = format!("compression method {other} is not supported");
                return Err(NpzProblem::Member { what: what.into() });
            }
        };
        let (packed, size) = (entry.compressed_size(), entry.size());
        self.within(entry.header_start(), LOCAL_LEN)?;
        let offset = self
            .reader(index, &mut self.cursor())?
            .data_start()
            .ok_or(not_zip("a member has no data"))?;
        self.within(offset, packed)?;
        if !deflated && packed != size {
            return Err(not_zip("a stored member has two different sizes"));
        }
        if deflated && size / MAX_RATIO > packed {
            return Err(NpzProblem::Bomb {
                compressed: packed,
                size,
            });
        }
        let member = Member {
            index,
            name: name.to_owned(),
            deflated,
            offset,
            size,
        };
        Ok((member, (offset, offset + packed)))
    }

    /// The first bytes of a member, unpacked: `len`, or all where it has fewer.
    pub(super) fn head(&self, member: &Member, len: usize) -> Result<Vec<u8>, NpzProblem> {
        let mut head = Vec::new();
        let mut cursor = self.cursor();
        let reader = self.reader(member.index, &mut cursor)?;
        let read = reader.take(len as u64).read_to_end(&mut head);
        read.map_err(damaged)?;
        Ok(head)
    }

    /// Unpacks members, each to its place in a new file of `len` bytes that has no name and is
    /// removed when it is closed.
    pub(super) fn unpack(&self, members: &[(u64, Member)], len: u64) -> Result<File, ParseError> {
        let failed = |source| NpzProblem::Io {
            what: "cannot create a temporary file to unpack it to",
            source,
        };
        let file = tempfile::tempfile().map_err(failed)?;
        file.set_len(len).map_err(failed)?;
        members.par_iter().try_for_each(|(start, member)| {
            self.unpack_one(member, &file, *start)
                .map_err(|problem| problem.of(&member.name))
        })?;
        Ok(file)
    }

    fn unpack_one(&self, member: &Member, file: &File, start: u64) -> Result<(), NpzProblem> {
        let mut cursor = self.cursor();
        let mut reader = self.reader(member.index, &mut cursor)?;
        let mut buffer = vec![0; BUFFER];
        let mut at = 0_u64;
        loop {
            // It fails where size or checksum are not those of the directory.
            let read = reader.read(&mut buffer).map_err(damaged)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            file.write_all_at(bytes, start + at)
                .map_err(|source| NpzProblem::Io {
                    what: "cannot write the temporary file that it is unpacked to",
                    source,
                })?;
            at += read as u64;
        }
        if at != member.size {
            let size = member.size;
            return Err(damaged(format!(
                "it has {at} bytes, the archive says {size}"
            )));
        }
        Ok(())
    }

    fn cursor(&self) -> Cursor<'a> {
        Cursor {
            source: self.source,
            at: 0,
        }
    }

    fn reader<'c>(
        &'c self,
        index: usize,
        cursor: &'c mut Cursor<'a>,
    ) -> Result<ZipFile<'c, Cursor<'a>>, NpzProblem> {
        let entry = self.metadata.entry(index).map_err(unreadable)?;
        let reader = entry.with_reader(cursor, ZipReadOptions::new());
        reader.map_err(unreadable)
    }

    fn within(&self, offset: u64, len: u64) -> Result<(), NpzProblem> {
        let file_len = self.source.size();
        match offset.checked_add(len) {
            Some(end) if end <= file_len => Ok(()),
            _ => Err(NpzProblem::OutOfFile {
                offset,
                len,
                file_len,
            }),
        }
    }

    /// The first name that the directory has twice, which `zip` counts and does not name.
    fn repeated_name(&self) -> Option<String> {
        let mut cursor = BufReader::new(Cursor {
            source: self.source,
            at: self.directory,
        });
        let mut names = HashSet::new();
        loop {
            let mut record = [0; RECORD_LEN];
            cursor.read_exact(&mut record).ok()?;
            let length = |at: usize| Some(u16::from_le_bytes(*record.get(at..)?.first_chunk()?));
            let mut name = vec![0; length(28)?.into()];
            cursor.read_exact(&mut name).ok()?;
            let rest = i64::from(length(30)?) + i64::from(length(32)?);
            cursor.seek_relative(rest).ok()?;
            let name = String::from_utf8_lossy(&name).into_owned();
            if !names.insert(name.clone()) {
                return Some(name);
            }
        }
    }
}

/// A member's name. No file is ever made by it, but numpy writes none that leaves its folder.
fn checked_name(bytes: &[u8]) -> Result<String, ParseError> {
    let name =
        std::str::from_utf8(bytes).map_err(|_| member("a member's name is not valid UTF-8"))?;
    if name.len() > MAX_NAME {
        return Err(member(format!("a member's name is longer than {MAX_NAME} bytes")).into());
    }
    let climbs = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.split('/').any(climbs)
        || name.contains(|c: char| c == '\\' || c == ':' || c.is_control())
    {
        return Err(member("the member's name is not a plain relative path").of(name));
    }
    Ok(name.to_owned())
}

fn unreadable(error: ZipError) -> NpzProblem {
    let ends_early = |error: &io::Error| {
        let kind = error.kind();
        matches!(
            kind,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
        )
    };
    match error {
        ZipError::Io(error) if ends_early(&error) => not_zip("it is cut short"),
        ZipError::Io(source) => NpzProblem::Io {
            what: "cannot be read",
            source,
        },
        ZipError::InvalidArchive(what) => not_zip(what),
        other => not_zip(other.to_string()),
    }
}

fn not_zip(what: impl Into<Cow<'static, str>>) -> NpzProblem {
    NpzProblem::NotZip { what: what.into() }
}

fn member(what: impl Into<Cow<'static, str>>) -> NpzProblem {
    NpzProblem::Member { what: what.into() }
}

fn damaged(what: impl ToString) -> NpzProblem {
    NpzProblem::Inflate {
        what: what.to_string(),
    }
}
