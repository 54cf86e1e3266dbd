//! msgpack as `flax.serialization` writes it: nested maps, arrays as extensions of type 1, large
//! ones in chunks.

use std::path::{Path, PathBuf};

use rmp::encode;

use super::shards::{Names, write_all};
use super::{Item, Output, Progress, WriteError, stream};
use crate::checkpoint::FLAX_INDEX_FILE;
use crate::dtype::DType;

const NAMES: Names = Names {
    stem: "flax_model",
    extension: "msgpack",
    index: FLAX_INDEX_FILE,
};
/// The most bytes of an array that is written as one chunk.
const MAX_CHUNK: u64 = 1 << 30;
/// The extension type of an array.
const ARRAY: i8 = 1;

/// Writes the tensors, which are sorted by path, as Flax's `save_pretrained` does.
pub(super) fn write(
    dir: &Path,
    items: &[Item],
    max_shard_bytes: u64,
    progress: Progress,
) -> Result<Vec<PathBuf>, WriteError> {
    write_chunked(dir, items, max_shard_bytes, MAX_CHUNK, progress)
}

fn write_chunked(
    dir: &Path,
    items: &[Item],
    max_shard_bytes: u64,
    max_chunk: u64,
    progress: Progress,
) -> Result<Vec<PathBuf>, WriteError> {
    write_all(dir, &NAMES, items, max_shard_bytes, |output, shard| {
        let mut writer = Writer {
            output,
            progress: &mut *progress,
            max_chunk,
        };
        writer.map(shard, 0)?;
        writer.output.finish()
    })
}

struct Writer<'a> {
    output: Output,
    progress: Progress<'a>,
    max_chunk: u64,
}

impl Writer<'_> {
    /// Writes tensors whose names agree before part `depth` as a map of what the parts there name.
    fn map(&mut self, items: &[Item], depth: usize) -> Result<(), WriteError> {
        let same = |a: &Item, b: &Item| a.path().nth(depth) == b.path().nth(depth);
        let groups: Vec<&[Item]> = items.chunk_by(same).collect();
        let mut head = Vec::new();
        map_len(&mut head, groups.len());
        self.output.put(&head)?;
        for group in groups {
            let Some((first, others)) = group.split_first() else {
                continue;
            };
            let mut key = Vec::new();
            string(&mut key, first.path().nth(depth).unwrap_or_default());
            self.output.put(&key)?;
            let is_leaf = first.path().nth(depth + 1).is_none();
            if is_leaf && !others.is_empty() {
                return Err(WriteError::Conflict {
                    file: self.output.path.clone(),
                    name: first.name.clone(),
                });
            }
            match is_leaf {
                true => self.leaf(first)?,
                false => self.map(group, depth + 1)?,
            }
        }
        Ok(())
    }

    fn leaf(&mut self, item: &Item) -> Result<(), WriteError> {
        let Writer {
            output,
            progress,
            max_chunk,
        } = self;
        if item.byte_len() <= *max_chunk {
            output.put(&array_head(item.tensor.shape(), item.dtype))?;
            return stream(item, progress, |bytes| output.put(bytes));
        }

        let mut head = Vec::new();
        map_len(&mut head, 3);
        string(&mut head, "__msgpack_chunked_array__");
        head.push(rmp::Marker::True.to_u8());
        string(&mut head, "shape");
        map_len(&mut head, item.tensor.shape().len());
        for (axis, size) in item.tensor.shape().iter().enumerate() {
            string(&mut head, &axis.to_string());
            number(&mut head, *size);
        }
        string(&mut head, "chunks");
        let size = item.dtype.size();
        let (bytes, chunk_len) = (item.byte_len() as usize, *max_chunk as usize / size * size);
        map_len(&mut head, bytes.div_ceil(chunk_len));
        output.put(&head)?;

        // The parts that arrive do not end where chunks do.
        let mut at = 0;
        stream(item, progress, |mut part| {
            while !part.is_empty() {
                let within = at % chunk_len;
                if within == 0 {
                    let elements = chunk_len.min(bytes - at) / size;
                    let mut head = Vec::new();
                    string(&mut head, &(at / chunk_len).to_string());
                    head.extend(array_head(&[elements], item.dtype));
                    output.put(&head)?;
                }
                let (now, later) = part.split_at(part.len().min(chunk_len - within));
                output.put(now)?;
                at += now.len();
                part = later;
            }
            Ok(())
        })
    }
}

/// What precedes the bytes of an array: the extension, and in it shape, dtype and the bytes'
/// length.
fn array_head(shape: &[usize], dtype: DType) -> Vec<u8> {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    let mut content = Vec::new();
    array_len(&mut content, 3);
    array_len(&mut content, shape.len());
    for size in shape {
        number(&mut content, *size);
    }
    string(&mut content, dtype.numpy_name());
    infallible(encode::write_bin_len(&mut content, short(bytes)));
    let mut head = Vec::new();
    let len = short(content.len() + bytes);
    infallible(encode::write_ext_meta(&mut head, len, ARRAY));
    head.extend(content);
    head
}

fn map_len(out: &mut Vec<u8>, len: usize) {
    infallible(encode::write_map_len(out, short(len)));
}

fn array_len(out: &mut Vec<u8>, len: usize) {
    infallible(encode::write_array_len(out, short(len)));
}

fn string(out: &mut Vec<u8>, text: &str) {
    infallible(encode::write_str(out, text));
}

fn number(out: &mut Vec<u8>, value: usize) {
    infallible(encode::write_uint(out, value as u64));
}

/// A length that chunks, the bound on names and the number of tensors keep within 32 bits.
fn short(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Writing into memory does not fail.
fn infallible<T, E>(result: Result<T, E>) {
    debug_assert!(result.is_ok());
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::ControlFlow;

    use super::*;
    use crate::checkpoint::Checkpoint;

    /// The items of a checkpoint of tests/data, as they are, and what Flax wrote.
    fn fixture(name: &str) -> (Vec<Item>, Vec<u8>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(name);
        let items = Checkpoint::open(&folder)
            .unwrap()
            .tensors()
            .map(|tensor| Item {
                name: tensor.name().to_owned(),
                tensor: tensor.clone(),
                dtype: tensor.dtype(),
                overflowed: Cell::new(0),
            })
            .collect();
        (
            items,
            std::fs::read(folder.join("flax_model.msgpack")).unwrap(),
        )
    }

    #[test]
    fn chunks_are_those_that_flax_writes() {
        let (items, expected) = fixture("random-chunked");
        let dir = tempfile::tempdir().unwrap();
        // The limit that Flax wrote it with.
        let files = write_chunked(dir.path(), &items, u64::MAX, 7000, &mut |_| {
            ControlFlow::Continue(())
        });
        let [file] = &files.unwrap()[..] else {
            panic!("more than one file")
        };
        assert!(std::fs::read(file).unwrap() == expected);
    }

    #[test]
    fn it_stops_when_it_is_told_to() {
        let (items, _) = fixture("random-chunked");
        let dir = tempfile::tempdir().unwrap();
        let mut told = 0;
        let result = write(dir.path(), &items, u64::MAX, &mut |_| {
            told += 1;
            match told {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert!(matches!(result, Err(WriteError::Interrupted)));
        assert_eq!(told, 3);
    }

    #[test]
    fn a_name_that_is_a_group_as_well_is_refused() {
        let (mut items, _) = fixture("random-chunked");
        items.truncate(2);
        for (item, name) in items.iter_mut().zip(["a", "a/b"]) {
            item.name = name.to_owned();
        }
        let dir = tempfile::tempdir().unwrap();
        let result = write(dir.path(), &items, u64::MAX, &mut |_| {
            ControlFlow::Continue(())
        });
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("\"a\"") && error.contains("flax_model.msgpack"),
            "{error}"
        );
    }
}
