//! The elements of one chunk, read from the first to the last. A compressed chunk is decompressed
//! as a stream: one can have as many bytes as a whole embedding.

use std::io::{self, BufReader, Read};

use zstd::stream::read::Decoder;

use super::folder::{Region, RegionReader};
use super::zarr::Codecs;

/// Bytes of a file that are read at once, and of a chunk that are passed over at once.
const BUFFER: usize = 1 << 17;
const CRC_BYTES: u64 = 4;
/// The window that every frame may ask for, of 8 MiB, as RFC 8878 recommends: a writer that does not
/// know a chunk's size asks for the window of its compression level, which may be more than the
/// chunk has.
const MIN_WINDOW_LOG: u32 = 23;
/// The largest window, of 128 MiB: libzstd's own limit.
const MAX_WINDOW_LOG: u32 = 27;

/// A chunk that is being read.
pub(super) struct ChunkReader {
    bytes: Bytes,
    /// How many bytes have been read or passed over.
    at: usize,
    /// How many there are.
    len: usize,
}

enum Bytes {
    Stored(Region),
    Zstd(Box<Decoder<'static, BufReader<RegionReader>>>),
}

impl ChunkReader {
    /// Begins to read a chunk of `len` bytes.
    pub(super) fn new(region: Region, codecs: Codecs, len: usize) -> io::Result<Self> {
        let region = match codecs.checksum {
            true => checked(&region)?,
            false => region,
        };
        let bytes = if codecs.zstd {
            let buffer = region.len.clamp(1, BUFFER as u64) as usize;
            let reader = BufReader::with_capacity(buffer, RegionReader::new(region));
            let mut decoder = Decoder::with_buffer(reader)?.single_frame();
            // Beyond that, a frame needs no larger window than its content.
            let window = len.max(1).ilog2() + 1;
            decoder.window_log_max(window.clamp(MIN_WINDOW_LOG, MAX_WINDOW_LOG))?;
            Bytes::Zstd(Box::new(decoder))
        } else if region.len == len as u64 {
            Bytes::Stored(region)
        } else {
            return Err(invalid(format!(
                "it has {} bytes, its elements need {len}",
                region.len
            )));
        };
        Ok(ChunkReader { bytes, at: 0, len })
    }

    /// How many bytes have been read or passed over.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Whether any part can be read without what comes before it.
    pub(super) fn is_stored(&self) -> bool {
        matches!(self.bytes, Bytes::Stored(_))
    }

    pub(super) fn is_done(&self) -> bool {
        self.at == self.len
    }

    /// Fills `out` with the bytes from `at` on, which are not before those that were read.
    pub(super) fn read(&mut self, at: usize, out: &mut [u8]) -> io::Result<()> {
        match &mut self.bytes {
            Bytes::Stored(region) => region.read(at as u64, out)?,
            Bytes::Zstd(decoder) => {
                let skip = at.saturating_sub(self.at) as u64;
                let passed = io::copy(&mut decoder.take(skip), &mut io::sink())?;
                if passed < skip {
                    return Err(short(self.at + passed as usize, self.len));
                }
                decoder
                    .read_exact(out)
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::UnexpectedEof => short(at, self.len),
                        _ => error,
                    })?;
            }
        }
        self.at = at + out.len();
        Ok(())
    }

    /// Checks, once all bytes were read, that the chunk ends there.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let Bytes::Zstd(decoder) = &mut self.bytes else {
            return Ok(());
        };
        if decoder.read(&mut [0])? > 0 {
            return Err(invalid(format!(
                "it decompresses to more than the {} bytes of its elements",
                self.len
            )));
        }
        let reader = decoder.get_ref();
        if !reader.buffer().is_empty() || reader.get_ref().left() > 0 {
            return Err(invalid("bytes follow its zstd frame".to_owned()));
        }
        Ok(())
    }
}

/// What is left of a region without its checksum, which is that of all before.
fn checked(region: &Region) -> io::Result<Region> {
    let part = |offset, len| {
        region
            .part(offset, len)
            .ok_or_else(|| invalid("it is shorter than its checksum".to_owned()))
    };
    let len = region.len.checked_sub(CRC_BYTES).unwrap_or(u64::MAX);
    let body = part(0, len)?;
    let mut stored = [0; CRC_BYTES as usize];
    part(len, CRC_BYTES)?.read(0, &mut stored)?;
    let mut reader = RegionReader::new(body.clone());
    let mut buffer = vec![0; BUFFER];
    let mut found = 0;
    loop {
        let read = reader.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        found = crc32c::crc32c_append(found, bytes);
    }
    let stored = u32::from_le_bytes(stored);
    match found == stored {
        true => Ok(body),
        false => Err(invalid(format!(
            "its CRC-32C is {found:08x}, the file says {stored:08x}"
        ))),
    }
}

fn short(found: usize, len: usize) -> io::Error {
    invalid(format!(
        "it ends after {found} or more of the {len} bytes of its elements"
    ))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
