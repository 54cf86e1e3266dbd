//! What a plan keeps of a compiled program: the compiler's answers, in a form that goes to disk.
//!
//! Without a device libtpu cannot load a serialized executable to ask it again, so the answers
//! themselves are cached.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use super::report::Memory;
use super::too_large::TooLarge;
use crate::pjrt::ProgramCode;

/// The outcome of compiling a program.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Compiled {
    /// It fits.
    Fits(Box<CompiledRecord>),
    /// It does not.
    TooLarge(TooLarge),
}

/// A program that fits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CompiledRecord {
    pub memory: Memory,
    /// "bytes accessed" of the compiler's own cost analysis.
    pub compiler_bytes_accessed: u64,
    /// The optimized program.
    pub optimized: ProgramCode,
    /// The serialized executable, where it is to be saved.
    pub executable: Option<Vec<u8>>,
}

/// What stands before the bytes.
#[derive(Serialize, Deserialize)]
enum Header {
    Fits {
        memory: Memory,
        compiler_bytes_accessed: u64,
        format: String,
        optimized_bytes: u64,
        executable_bytes: Option<u64>,
    },
    TooLarge(TooLarge),
}

impl Compiled {
    /// Bytes from which [`from_bytes`](Self::from_bytes) makes an equal value. They have a
    /// checksum.
    ///
    /// # Errors
    /// None that is known; the encoders' signatures have them.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let header = match self {
            Compiled::TooLarge(why) => Header::TooLarge(why.clone()),
            Compiled::Fits(record) => Header::Fits {
                memory: record.memory,
                compiler_bytes_accessed: record.compiler_bytes_accessed,
                format: record.optimized.format.clone(),
                optimized_bytes: record.optimized.code.len() as u64,
                executable_bytes: record.executable.as_ref().map(|bytes| bytes.len() as u64),
            },
        };
        let header = serde_json::to_vec(&header)?;
        let mut out = ZlibEncoder::new(Vec::new(), Compression::fast());
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        if let Compiled::Fits(record) = self {
            out.write_all(&record.optimized.code)?;
            out.write_all(record.executable.as_deref().unwrap_or_default())?;
        }
        out.finish()
    }

    /// # Errors
    /// Bytes that [`to_bytes`](Self::to_bytes) did not write.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut input = ZlibDecoder::new(bytes);
        let mut length = [0; 8];
        input.read_exact(&mut length)?;
        let header = read(&mut input, u64::from_le_bytes(length))?;
        let found = match serde_json::from_slice(&header)? {
            Header::TooLarge(why) => Compiled::TooLarge(why),
            Header::Fits {
                memory,
                compiler_bytes_accessed,
                format,
                optimized_bytes,
                executable_bytes,
            } => Compiled::Fits(Box::new(CompiledRecord {
                memory,
                compiler_bytes_accessed,
                optimized: ProgramCode {
                    format,
                    code: read(&mut input, optimized_bytes)?,
                },
                executable: executable_bytes
                    .map(|length| read(&mut input, length))
                    .transpose()?,
            })),
        };
        // The checksum is compared when the end is reached.
        if input.read(&mut [0])? != 0 {
            return Err(io::Error::other("longer than its header says"));
        }
        Ok(found)
    }
}

/// Reads `length` bytes, without trusting that there are as many.
fn read(from: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> [Compiled; 3] {
        let record = CompiledRecord {
            memory: Memory {
                arguments: 1,
                outputs: 2,
                aliased: 3,
                temporaries: 4,
                code: 5,
                total: 6,
            },
            compiler_bytes_accessed: 7,
            optimized: ProgramCode {
                format: "hlo".into(),
                code: b"some program".to_vec(),
            },
            executable: Some(b"machine code".to_vec()),
        };
        let without = CompiledRecord {
            executable: None,
            ..record.clone()
        };
        [
            Compiled::Fits(Box::new(record)),
            Compiled::Fits(Box::new(without)),
            Compiled::TooLarge(TooLarge {
                message: "out of memory".into(),
                needed_bytes: Some(8),
                available_bytes: None,
            }),
        ]
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for sample in samples() {
            let bytes = sample.to_bytes().expect("encoded");
            assert_eq!(Compiled::from_bytes(&bytes).expect("decoded"), sample);
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        for sample in samples() {
            let whole = sample.to_bytes().expect("encoded");
            for length in 0..whole.len() {
                assert!(Compiled::from_bytes(&whole[..length]).is_err());
            }
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x10;
                // A few bits of the stream's header carry nothing.
                if let Ok(read) = Compiled::from_bytes(&damaged) {
                    assert_eq!(read, sample, "byte {at}");
                }
            }
        }
    }
}
