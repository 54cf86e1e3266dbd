//! npz as `numpy.savez` writes it: npy files, stored, in a zip archive.

use std::io::Write;
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{Item, Output, Progress, WriteError, stream};
use crate::checkpoint::NPZ_FILES;
use crate::dtype::DType;

/// What an npy file's head is padded to, in bytes.
const ALIGNMENT: usize = 64;

/// Writes the tensors into one file: npz has no shards.
pub(super) fn write(
    dir: &Path,
    items: &[Item],
    progress: Progress,
) -> Result<Vec<PathBuf>, WriteError> {
    let [name, ..] = NPZ_FILES;
    let Output { path, file } = Output::create(dir, name)?;
    let failed = |source| WriteError::Write {
        file: path.clone(),
        source,
    };
    // Each member is begun as one that may be larger than 4 GiB, as numpy does.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .large_file(true);
    let mut archive = ZipWriter::new(file);
    for item in items {
        archive
            .start_file(format!("{}.npy", item.name), options)
            .map_err(|error| failed(error.into()))?;
        archive
            .write_all(&head(item.tensor.shape(), item.dtype))
            .map_err(failed)?;
        stream(item, progress, |bytes| {
            archive.write_all(bytes).map_err(failed)
        })?;
    }
    let file = archive.finish().map_err(|error| failed(error.into()))?;
    Ok(vec![
        Output {
            path: path.clone(),
            file,
        }
        .finish()?,
    ])
}

/// The head of an npy file of version 1.0.
fn head(shape: &[usize], dtype: DType) -> Vec<u8> {
    let descr = match dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        // As numpy writes the type of `ml_dtypes`, which it does not know.
        DType::BF16 => "|V2",
    };
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let tuple = match sizes.as_slice() {
        [one] => format!("({one},)"),
        sizes => format!("({})", sizes.join(", ")),
    };
    let dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple}, }}");
    // Magic, version, length and the newline at the end.
    let used = 6 + 2 + 2 + dictionary.len() + 1;
    let padding = used.next_multiple_of(ALIGNMENT) - used;
    let len = (dictionary.len() + padding + 1) as u16;
    let mut head = b"\x93NUMPY\x01\x00".to_vec();
    head.extend(len.to_le_bytes());
    head.extend(dictionary.bytes());
    head.extend(std::iter::repeat_n(b' ', padding));
    head.push(b'\n');
    head
}
