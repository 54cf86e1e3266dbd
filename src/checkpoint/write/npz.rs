//! npz as `numpy.savez` writes it: npy files, stored, in a zip archive.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use npyz::{WriteOptions, WriterBuilder};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{Item, Output, Progress, WriteError, stream};
use crate::checkpoint::NPZ_FILES;
use crate::dtype::DType;

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
        write_head(&mut archive, item.tensor.shape(), item.dtype).map_err(failed)?;
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

/// The element type as numpy writes it.
fn npy_dtype(dtype: DType) -> io::Result<npyz::DType> {
    let descr = match dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        // As numpy writes the type of `ml_dtypes`, which it does not know.
        DType::BF16 => "|V2",
    };
    let descr = descr.parse().map_err(io::Error::other)?;
    Ok(npyz::DType::new_scalar(descr))
}

fn write_head(to: &mut impl Write, shape: &[usize], dtype: DType) -> io::Result<()> {
    let shape: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
    WriteOptions::new_header_only()
        .dtype(npy_dtype(dtype)?)
        .shape(&shape)
        .writer(to)
        .write_header_only()?;
    Ok(())
}
