//! What the targets for forms of weights share.

use std::collections::BTreeMap;
use std::sync::Once;

use gemma_xla::checkpoint::{Checkpoint, Error};

/// The name that the bytes go by.
pub const FILE: &str = "fuzzed";

/// The most bytes that a tensor of a fuzzed file is read with.
const MAX_READ: usize = 1 << 16;

/// Whatever the bytes were: tensors are whole and read alike in both ways, and errors are one line
/// that names the file.
pub fn holds(opened: Result<Checkpoint, Error>) {
    match opened {
        Ok(checkpoint) => {
            for tensor in checkpoint.tensors() {
                let elements: usize = tensor.shape().iter().product();
                assert_eq!(tensor.byte_len(), elements * tensor.dtype().size());
                if tensor.byte_len() > MAX_READ {
                    continue;
                }
                let mut whole = vec![0; tensor.byte_len()];
                let mut ranges = vec![0; tensor.byte_len()];
                tensor
                    .read_into(tensor.dtype(), &mut whole)
                    .expect("its bytes are there");
                let (first, second) = ranges.split_at_mut(tensor.byte_len() / 3);
                tensor.read_at(0, first).expect("its bytes are there");
                tensor
                    .read_at(first.len(), second)
                    .expect("its bytes are there");
                assert_eq!(whole, ranges);
            }
        }
        Err(error) => one_line(&error),
    }
}

/// An error's message is one line that names the file.
pub fn one_line(error: &dyn std::error::Error) {
    let message = error.to_string();
    assert!(
        message.contains(FILE) && !message.contains('\n'),
        "{message}"
    );
}

/// Lets panics of a tokenizer library pass that become errors. libFuzzer's panic hook ends the
/// process at every panic, caught or not.
pub fn leave_caught_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !gemma_xla::tokenizer::is_catching_panics() {
                report(panic);
            }
        }));
    });
}

/// The files that the bytes hold: each the length of its name, the name, the length of its content
/// in two bytes, the content. Checksums of OCDBT, which a change never gets right, are made right.
pub fn files(mut bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    while let Some((name, rest)) = split(bytes, 1)
        && let Some((content, rest)) = split(rest, 2)
    {
        files.insert(
            String::from_utf8_lossy(name).into_owned(),
            sealed(content.to_vec()),
        );
        bytes = rest;
    }
    files
}

/// What a length of so many bytes stands before, and what follows that.
fn split(bytes: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(width)?;
    let length = length
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | usize::from(*byte));
    rest.split_at_checked(length.min(rest.len()))
}

/// What manifests and nodes of OCDBT begin with.
const MAGIC: [[u8; 4]; 2] = [[0x0c, 0xdb, 0x3a, 0x2a], [0x0c, 0xdb, 0x20, 0xde]];
/// Magic, length, version, compression and checksum.
const MIN_FRAME: usize = 18;

/// The bytes with the checksum of each frame in them made right, and the length of one that begins
/// the file.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let is_frame = |bytes: &[u8]| MAGIC.iter().any(|magic| bytes.starts_with(magic));
    if bytes.len() >= MIN_FRAME && bytes.starts_with(&MAGIC[0]) {
        let len = bytes.len() as u64;
        bytes[4..12].copy_from_slice(&len.to_le_bytes());
    }
    for at in 0..bytes.len().saturating_sub(MIN_FRAME - 1) {
        if !is_frame(&bytes[at..]) {
            continue;
        }
        let len = bytes[at + 4..]
            .first_chunk()
            .map_or(0, |len| u64::from_le_bytes(*len));
        if len >= MIN_FRAME as u64 && len <= (bytes.len() - at) as u64 {
            let end = at + len as usize - 4;
            let crc = crc32c::crc32c(&bytes[at..end]);
            bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    bytes
}

/// Whatever chunks hold: a tensor that can be read whole is read alike in parts, and errors are one
/// line that names the file.
pub fn reads_agree(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors() {
        let elements: usize = tensor.shape().iter().product();
        assert_eq!(tensor.byte_len(), elements * tensor.dtype().size());
        if tensor.byte_len() > MAX_READ {
            continue;
        }
        let mut whole = vec![0; tensor.byte_len()];
        if let Err(error) = tensor.read_into(tensor.dtype(), &mut whole) {
            one_line(&error);
            continue;
        }
        let mut ranges = vec![0; tensor.byte_len()];
        let (first, second) = ranges.split_at_mut(tensor.byte_len() / 3);
        tensor.read_at(0, first).expect("its chunks are whole");
        tensor
            .read_at(first.len(), second)
            .expect("its chunks are whole");
        assert_eq!(whole, ranges);
        // It may decode more of a chunk than the tensor needs, and find damage there.
        let transposed = tensor.transposed();
        if let Err(error) = transposed.read_into(tensor.dtype(), &mut ranges) {
            one_line(&error);
        }
    }
}
