//! The values in a leaf of OCDBT's B+tree.

use super::OrbaxProblem;
use super::manifest::{FileEntry, Pointer, pointer};
use super::wire::Cursor;

/// The longest value within a node. Orbax's writers allow 1024 bytes.
const MAX_INLINE: u64 = 1 << 20;

/// A value of a leaf.
pub(super) enum Value {
    Inline(Vec<u8>),
    Stored(Pointer),
}

/// Reads the values of a leaf of `count` keys, which are all that is left of it.
pub(super) fn leaf_values(
    cursor: &mut Cursor,
    files: &[FileEntry],
    count: usize,
) -> Result<Vec<Value>, OrbaxProblem> {
    let lengths = cursor.column(count, u64::MAX)?;
    let kinds = cursor.take(count)?;
    if kinds.iter().any(|kind| *kind > 1) {
        return Err(cursor.malformed("a value is neither inline nor stored elsewhere"));
    }
    let elsewhere = kinds.iter().filter(|kind| **kind == 1).count();
    let mut ids = cursor.column(elsewhere, u64::MAX)?.into_iter();
    let mut offsets = cursor.column(elsewhere, u64::MAX)?.into_iter();
    let mut values = Vec::new();
    for (kind, len) in kinds.iter().zip(lengths) {
        if *kind == 0 {
            if len > MAX_INLINE {
                return Err(cursor.malformed("an inline value is too large"));
            }
            values.push(Value::Inline(cursor.take(len as usize)?.to_vec()));
        } else if let (Some(id), Some(offset)) = (ids.next(), offsets.next()) {
            values.push(Value::Stored(pointer(cursor, files, id, offset, len)?));
        }
    }
    cursor.end()?;
    Ok(values)
}
