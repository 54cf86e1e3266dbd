//! msgpack's heads, read through a small window so that payloads are skipped and not read.

use rmp::Marker;

use super::MsgpackProblem;
use crate::checkpoint::positional::ReadAt;

/// How much of the file is read at once. A head with a name is far smaller.
const WINDOW: usize = 4096;

/// A problem, and where in the file it is.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) offset: u64,
    pub(super) problem: MsgpackProblem,
}

/// A value's head: its kind, and the length of what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Nil,
    Bool(bool),
    Uint(u64),
    Negative,
    Float,
    Str(u32),
    Bin(u32),
    Array(u32),
    Map(u32),
    Ext { code: i8, len: u32 },
    Reserved,
}

impl Head {
    /// The kind, in the words of a message.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Head::Nil => "nil",
            Head::Bool(_) => "a boolean",
            Head::Uint(_) => "a whole number",
            Head::Negative => "a negative number",
            Head::Float => "a floating-point number",
            Head::Str(_) => "a string",
            Head::Bin(_) => "bytes",
            Head::Array(_) => "an array",
            Head::Map(_) => "a map",
            Head::Ext { .. } => "an extension",
            Head::Reserved => "a byte that msgpack does not use",
        }
    }
}

/// Reads heads one after the other, from a position that can be set.
pub(super) struct Reader<'a> {
    source: &'a dyn ReadAt,
    /// Nothing is read from here on: the end of the file, or of the extension that is being read.
    end: u64,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Self {
        Reader {
            source,
            end: source.size(),
            position: 0,
            window: Vec::new(),
            window_start: 0,
        }
    }

    /// Where the next value begins, in bytes from the start of the file.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Goes back to where a value began.
    pub(super) fn rewind(&mut self, position: u64) {
        self.position = position.min(self.position);
    }

    /// How many bytes are left before the end.
    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// Confines reading to the next `len` bytes. Returns the previous end, for [`Reader::widen`].
    pub(super) fn narrow(&mut self, len: u32) -> Result<u64, Fault> {
        let end = self.position_after(len.into())?;
        Ok(std::mem::replace(&mut self.end, end))
    }

    /// Restores the previous end.
    pub(super) fn widen(&mut self, end: u64) {
        self.end = end;
    }

    /// Skips `len` bytes without reading them.
    pub(super) fn skip(&mut self, len: u32) -> Result<(), Fault> {
        self.position = self.position_after(len.into())?;
        Ok(())
    }

    /// Reads the next value's head.
    pub(super) fn head(&mut self) -> Result<Head, Fault> {
        let [byte] = self.array()?;
        Ok(match Marker::from_u8(byte) {
            Marker::Null => Head::Nil,
            Marker::True => Head::Bool(true),
            Marker::False => Head::Bool(false),
            Marker::FixPos(value) => Head::Uint(value.into()),
            Marker::U8 => Head::Uint(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => Head::Uint(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => Head::Uint(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => Head::Uint(u64::from_be_bytes(self.array()?)),
            Marker::FixNeg(_) => Head::Negative,
            Marker::I8 => signed(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => signed(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => signed(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => signed(i64::from_be_bytes(self.array()?)),
            Marker::F32 | Marker::F64 => Head::Float,
            Marker::FixStr(len) => Head::Str(len.into()),
            Marker::Str8 => Head::Str(self.len8()?),
            Marker::Str16 => Head::Str(self.len16()?),
            Marker::Str32 => Head::Str(self.len32()?),
            Marker::Bin8 => Head::Bin(self.len8()?),
            Marker::Bin16 => Head::Bin(self.len16()?),
            Marker::Bin32 => Head::Bin(self.len32()?),
            Marker::FixArray(len) => Head::Array(len.into()),
            Marker::Array16 => Head::Array(self.len16()?),
            Marker::Array32 => Head::Array(self.len32()?),
            Marker::FixMap(len) => Head::Map(len.into()),
            Marker::Map16 => Head::Map(self.len16()?),
            Marker::Map32 => Head::Map(self.len32()?),
            Marker::FixExt1 => self.ext(1)?,
            Marker::FixExt2 => self.ext(2)?,
            Marker::FixExt4 => self.ext(4)?,
            Marker::FixExt8 => self.ext(8)?,
            Marker::FixExt16 => self.ext(16)?,
            Marker::Ext8 => {
                let len = self.len8()?;
                self.ext(len)?
            }
            Marker::Ext16 => {
                let len = self.len16()?;
                self.ext(len)?
            }
            Marker::Ext32 => {
                let len = self.len32()?;
                self.ext(len)?
            }
            Marker::Reserved => Head::Reserved,
        })
    }

    /// The next `len` bytes, which callers keep well below the window's size.
    pub(super) fn bytes(&mut self, len: usize) -> Result<&[u8], Fault> {
        let start = self.position;
        let end = self.position_after(len as u64)?;
        let window_end = self.window_start + self.window.len() as u64;
        if start < self.window_start || end > window_end {
            self.fill(start, len)?;
        }
        self.position = end;
        let from = (start - self.window_start) as usize;
        self.window.get(from..from + len).ok_or(Fault {
            offset: start,
            problem: MsgpackProblem::Truncated {
                needed: len as u64,
                left: 0,
            },
        })
    }

    /// Refills the window, from `start` on, `len` bytes at least.
    fn fill(&mut self, start: u64, len: usize) -> Result<(), Fault> {
        let left = self.source.size().saturating_sub(start);
        let size = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(WINDOW.max(len));
        self.window.resize(size, 0);
        self.window_start = start;
        self.source
            .read_exact_at(&mut self.window, start)
            .map_err(|error| {
                // The window's content is not the file's any more.
                self.window.clear();
                Fault {
                    offset: start,
                    problem: MsgpackProblem::Io(error),
                }
            })
    }

    fn position_after(&self, len: u64) -> Result<u64, Fault> {
        self.position
            .checked_add(len)
            .filter(|end| *end <= self.end)
            .ok_or(Fault {
                offset: self.position,
                problem: MsgpackProblem::Truncated {
                    needed: len,
                    left: self.left(),
                },
            })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn len8(&mut self) -> Result<u32, Fault> {
        Ok(u8::from_be_bytes(self.array()?).into())
    }

    fn len16(&mut self) -> Result<u32, Fault> {
        Ok(u16::from_be_bytes(self.array()?).into())
    }

    fn len32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn ext(&mut self, len: u32) -> Result<Head, Fault> {
        let code = i8::from_be_bytes(self.array()?);
        Ok(Head::Ext { code, len })
    }
}

fn signed(value: i64) -> Head {
    u64::try_from(value).map_or(Head::Negative, Head::Uint)
}
