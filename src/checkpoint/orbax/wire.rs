//! The outermost layer of OCDBT's manifests and nodes (magic, length, compression, checksum), and
//! the varints and columns within.
//!
//! The format is specified at <https://google.github.io/tensorstore/kvstore/ocdbt/>, "Storage
//! format".

use std::io::Read;

use super::OrbaxProblem;

/// The most bytes that a manifest or node takes once it is decompressed.
pub(super) const MAX_BODY: u64 = 1 << 28;
/// Magic, total length, version, compression method and checksum.
const MIN_FRAME: usize = 4 + 8 + 1 + 1 + CRC_BYTES;
const CRC_BYTES: usize = 4;

/// A kind of structure.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    magic: [u8; 4],
    pub(super) name: &'static str,
}

pub(super) const MANIFEST: Kind = Kind {
    magic: [0x0c, 0xdb, 0x3a, 0x2a],
    name: "manifest",
};
pub(super) const NODE: Kind = Kind {
    magic: [0x0c, 0xdb, 0x20, 0xde],
    name: "B+tree node",
};

impl Kind {
    pub(super) fn malformed(self, what: &'static str) -> OrbaxProblem {
        OrbaxProblem::Malformed {
            kind: self.name,
            what,
        }
    }
}

/// The body of a manifest or node: checked against its checksum and decompressed.
pub(super) fn body(kind: Kind, frame: &[u8]) -> Result<Vec<u8>, OrbaxProblem> {
    if frame.len() < MIN_FRAME {
        return Err(kind.malformed("it is cut short"));
    }
    let (checked, crc) = frame.split_at(frame.len() - CRC_BYTES);
    let mut cursor = Cursor::new(kind, checked);
    if cursor.take(4)? != kind.magic {
        return Err(kind.malformed("it does not begin with the magic number"));
    }
    if cursor.u64()? != frame.len() as u64 {
        return Err(kind.malformed("its length is not the one that it states"));
    }
    let stored = crc
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let found = crc32c::crc32c(checked);
    if stored != found {
        return Err(OrbaxProblem::Checksum {
            kind: kind.name,
            found,
            stored,
        });
    }
    if cursor.varint(u32::MAX.into())? != 0 {
        return Err(kind.malformed("its version is not 0"));
    }
    let method = cursor.varint(u32::MAX.into())?;
    let packed = cursor.rest();
    match method {
        0 => Ok(packed.to_vec()),
        1 => inflate(kind, packed),
        _ => Err(kind.malformed("its compression is neither none nor zstd")),
    }
}

fn inflate(kind: Kind, packed: &[u8]) -> Result<Vec<u8>, OrbaxProblem> {
    let mut body = Vec::new();
    let read = zstd::stream::read::Decoder::with_buffer(packed)
        .and_then(|decoder| decoder.take(MAX_BODY + 1).read_to_end(&mut body));
    match read {
        Err(_) => Err(kind.malformed("its body cannot be decompressed")),
        Ok(_) if body.len() as u64 > MAX_BODY => Err(OrbaxProblem::TooLarge {
            kind: kind.name,
            limit: MAX_BODY,
        }),
        Ok(_) => Ok(body),
    }
}

/// Reads a body from its beginning to its end.
pub(super) struct Cursor<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(kind: Kind, bytes: &'a [u8]) -> Self {
        Cursor { kind, rest: bytes }
    }

    pub(super) fn malformed(&self, what: &'static str) -> OrbaxProblem {
        self.kind.malformed(what)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], OrbaxProblem> {
        let (now, later) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.malformed("it ends too early"))?;
        self.rest = later;
        Ok(now)
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn end(&self) -> Result<(), OrbaxProblem> {
        match self.rest {
            [] => Ok(()),
            _ => Err(self.malformed("bytes follow its end")),
        }
    }

    pub(super) fn u8(&mut self) -> Result<u8, OrbaxProblem> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    pub(super) fn u64(&mut self) -> Result<u64, OrbaxProblem> {
        let bytes = self.take(8)?;
        Ok(bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)))
    }

    /// An unsigned LEB128 number of at most `max`.
    pub(super) fn varint(&mut self, max: u64) -> Result<u64, OrbaxProblem> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return match value <= max {
                    true => Ok(value),
                    false => Err(self.malformed("a number is too large")),
                };
            }
        }
        Err(self.malformed("a number does not fit its type"))
    }

    /// The number of entries of what follows, each of which takes a byte or more.
    pub(super) fn count(&mut self) -> Result<usize, OrbaxProblem> {
        let count = self.varint(u64::MAX)?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or_else(|| self.malformed("it states more entries than it has bytes"))
    }

    /// A column of `count` varints of at most `max` each.
    pub(super) fn column(&mut self, count: usize, max: u64) -> Result<Vec<u64>, OrbaxProblem> {
        if count > self.rest.len() {
            return Err(self.malformed("a column ends too early"));
        }
        (0..count).map(|_| self.varint(max)).collect()
    }

    /// A column of 16-bit lengths, as varints.
    pub(super) fn lengths(&mut self, count: usize) -> Result<Vec<usize>, OrbaxProblem> {
        let column = self.column(count, u16::MAX.into())?;
        Ok(column.into_iter().map(|length| length as usize).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_read_up_to_their_limit() {
        let read = |bytes: &[u8], max| Cursor::new(NODE, bytes).varint(max).ok();
        assert_eq!(read(&[0x7f], u64::MAX), Some(127));
        assert_eq!(read(&[0xe5, 0x8e, 0x26], u64::MAX), Some(624_485));
        assert_eq!(read(&[0x80, 0x80, 0x04], u16::MAX.into()), None);
        let mut largest = [0xff; 10];
        largest[9] = 1;
        assert_eq!(read(&largest, u64::MAX), Some(u64::MAX));
        largest[9] = 2;
        assert_eq!(read(&largest, u64::MAX), None);
        assert_eq!(read(&[0x80], u64::MAX), None);
    }

    #[test]
    fn a_frame_is_checked_before_its_body_is_used() {
        let mut frame = NODE.magic.to_vec();
        frame.extend(21_u64.to_le_bytes());
        frame.extend([0, 0, 7, 8, 9]);
        frame.extend(crc32c::crc32c(&frame).to_le_bytes());
        assert_eq!(body(NODE, &frame).unwrap(), [7, 8, 9]);
        assert!(body(MANIFEST, &frame).is_err());
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 0x10;
            assert!(body(NODE, &changed).is_err(), "byte {at}");
            assert!(body(NODE, &frame[..at]).is_err(), "cut at {at}");
        }
    }
}
