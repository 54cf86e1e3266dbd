//! safetensors files: eight bytes with the length of a JSON header, the header, and the tensors' bytes without gaps.
//!
//! Only the header is read. Its length is held against the file's own before anything is allocated.

mod header;
mod problem;

pub(super) use header::METADATA;
pub use problem::SafetensorsProblem;

use super::source::ReadAt;
use super::tensor::{Entry, byte_len};
use crate::dtype::DType;

/// The most bytes of a header, as in the format's own library.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// The longest name, in bytes. Gemma's have about 60.
pub(super) const MAX_NAME: usize = 512;
/// The most dimensions of a tensor, as in numpy.
pub(super) const MAX_RANK: usize = 64;

/// The bytes that say how long the header is.
pub(super) const LENGTH_BYTES: u64 = 8;
/// What a Git LFS pointer begins with.
const LFS_POINTER: &[u8; 8] = b"version ";

/// What is wrong, and with which tensor; the name is empty where it is the file itself.
#[derive(Debug)]
pub(super) struct ParseError {
    pub(super) tensor: String,
    pub(super) problem: SafetensorsProblem,
}

impl From<SafetensorsProblem> for ParseError {
    fn from(problem: SafetensorsProblem) -> Self {
        ParseError {
            tensor: String::new(),
            problem,
        }
    }
}

/// The format's name of a dtype.
pub(super) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
    }
}

/// Finds every tensor in the file, in the order of their bytes. No name occurs twice.
pub(super) fn parse(source: &dyn ReadAt) -> Result<Vec<Entry>, ParseError> {
    let size = source.size();
    let text = header_text(source)?;
    let data = LENGTH_BYTES + text.len() as u64;
    let available = size.saturating_sub(data);

    let mut tensors = header::parse(&text)?;
    tensors.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    let mut at = 0;
    let mut entries = Vec::new();
    for tensor in tensors {
        let entry = checked(&tensor, at, data, available).map_err(|problem| ParseError {
            tensor: tensor.name.clone(),
            problem,
        })?;
        at = tensor.end;
        entries.push(entry);
    }
    match available - at {
        0 => Ok(entries),
        count => Err(SafetensorsProblem::TrailingBytes { count }.into()),
    }
}

/// The header's bytes, which the file is found to have before they are allocated.
fn header_text(source: &dyn ReadAt) -> Result<Vec<u8>, SafetensorsProblem> {
    let found = source.size();
    if found < LENGTH_BYTES {
        return Err(SafetensorsProblem::Truncated {
            needed: LENGTH_BYTES,
            found,
        });
    }
    let mut length = [0; LENGTH_BYTES as usize];
    source
        .read_exact_at(&mut length, 0)
        .map_err(SafetensorsProblem::Io)?;
    if length == *LFS_POINTER {
        return Err(SafetensorsProblem::LfsPointer);
    }
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(SafetensorsProblem::HeaderTooLarge { found: length });
    }
    let needed = LENGTH_BYTES + length;
    if needed > found {
        return Err(SafetensorsProblem::Truncated { needed, found });
    }
    let mut text = vec![0; length as usize];
    source
        .read_exact_at(&mut text, LENGTH_BYTES)
        .map_err(SafetensorsProblem::Io)?;
    Ok(text)
}

/// Holds one tensor of the header against the `available` bytes from `data` on, of which those before `at` are taken.
fn checked(
    tensor: &header::Tensor,
    at: u64,
    data: u64,
    available: u64,
) -> Result<Entry, SafetensorsProblem> {
    let header::Tensor {
        name, begin, end, ..
    } = tensor;
    let (begin, end) = (*begin, *end);
    if name.len() > MAX_NAME {
        return Err(SafetensorsProblem::NameTooLong);
    }
    if tensor.shape.len() > MAX_RANK {
        return Err(SafetensorsProblem::TooManyDimensions {
            found: tensor.shape.len(),
        });
    }
    let dtype = match tensor.dtype.as_str() {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        other => {
            return Err(SafetensorsProblem::UnknownDType {
                found: other.chars().take(64).collect(),
            });
        }
    };
    if begin > end || end > available {
        return Err(SafetensorsProblem::OutOfFile {
            begin,
            end,
            available,
        });
    }
    let shape = || tensor.shape.clone();
    let needed = byte_len(&tensor.shape, dtype)
        .ok_or_else(|| SafetensorsProblem::ShapeTooLarge { shape: shape() })?;
    if needed as u64 != end - begin {
        return Err(SafetensorsProblem::WrongLength {
            shape: shape(),
            dtype: dtype_name(dtype),
            expected: needed as u64,
            found: end - begin,
        });
    }
    if begin != at {
        return Err(SafetensorsProblem::NotAdjacent {
            expected: at,
            found: begin,
        });
    }
    Ok(Entry::contiguous(
        name,
        dtype,
        shape(),
        data + begin,
        needed,
    ))
}
