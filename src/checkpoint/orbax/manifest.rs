//! OCDBT's manifest: which node is the root of the newest version.

use std::sync::Arc;

use super::OrbaxProblem;
use super::wire::{Cursor, Kind, MANIFEST, body};

/// The longest path of a data file. Orbax's have about 60 bytes.
const MAX_PATH: usize = 4096;
/// What the paths of one file table may take together.
const MAX_PATHS: usize = 1 << 24;
/// Offset and length of a root that is not there: the database is empty.
const ABSENT: u64 = u64::MAX;

/// What a manifest leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// The root of the newest version; none where the database is empty.
    Root { uuid: [u8; 16], root: Option<Root> },
    /// The newest numbered manifest has the versions.
    Numbered { uuid: [u8; 16] },
}

/// The root node of a version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) node: Pointer,
    pub(super) height: u8,
    /// How many keys the tree has.
    pub(super) keys: u64,
}

/// Where a node or a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) file: FileEntry,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A data file of a file table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileEntry {
    /// The file's path, relative to the manifest's folder.
    pub(super) path: Arc<str>,
    /// What the paths in a node of this file are relative to.
    pub(super) base: Arc<str>,
}

/// Reads a manifest.
pub(super) fn parse(frame: &[u8]) -> Result<Manifest, OrbaxProblem> {
    let body = body(MANIFEST, frame)?;
    let mut cursor = Cursor::new(MANIFEST, &body);
    let uuid = cursor.take(16)?.first_chunk().copied().unwrap_or_default();
    let numbered = match cursor.u8()? {
        0 => false,
        1 => true,
        _ => return Err(cursor.malformed("its kind is neither single nor numbered")),
    };
    // Settings of the writer: the largest inline value and node, and the arity of the tree of
    // versions.
    cursor.varint(u32::MAX.into())?;
    cursor.varint(u32::MAX.into())?;
    cursor.u8()?;
    match cursor.varint(u32::MAX.into())? {
        0 => {}
        1 => {
            cursor.take(4)?;
        }
        _ => return Err(cursor.malformed("its compression is neither none nor zstd")),
    }
    if numbered {
        cursor.end()?;
        return Ok(Manifest::Numbered { uuid });
    }
    let files = file_table(MANIFEST, &mut cursor, "")?;
    let root = newest(&mut cursor, &files)?;
    older(&mut cursor, files.len())?;
    cursor.end()?;
    Ok(Manifest::Root { uuid, root })
}

/// Reads the entries of versions; the last is the newest.
fn newest(cursor: &mut Cursor, files: &[FileEntry]) -> Result<Option<Root>, OrbaxProblem> {
    let count = cursor.count()?;
    cursor.column(count, u64::MAX)?; // generations
    let heights = cursor.take(count)?;
    let ids = cursor.column(count, u64::MAX)?;
    let offsets = cursor.column(count, u64::MAX)?;
    let lengths = cursor.column(count, u64::MAX)?;
    let keys = cursor.column(count, u64::MAX)?;
    cursor.column(count, u64::MAX)?; // bytes of the tree
    cursor.column(count, u64::MAX)?; // bytes of the values beside it
    cursor.take(count.saturating_mul(8))?; // times of the commits
    let last = (|| {
        Some((
            *heights.last()?,
            *ids.last()?,
            *offsets.last()?,
            *lengths.last()?,
            *keys.last()?,
        ))
    })();
    let Some((height, id, offset, len, keys)) = last else {
        return Ok(None);
    };
    if offset == ABSENT && len == ABSENT {
        return Ok(None);
    }
    Ok(Some(Root {
        node: pointer(cursor, files, id, offset, len)?,
        height,
        keys,
    }))
}

/// Passes the entries of nodes with older versions.
fn older(cursor: &mut Cursor, files: usize) -> Result<(), OrbaxProblem> {
    let count = cursor.count()?;
    cursor.column(count, u64::MAX)?; // generations
    let ids = cursor.column(count, u64::MAX)?;
    if ids.iter().any(|id| *id >= files as u64) {
        return Err(cursor.malformed("it refers to a file that its table lacks"));
    }
    for _ in ["offsets", "lengths", "generations below"] {
        cursor.column(count, u64::MAX)?;
    }
    cursor.take(count.saturating_mul(8))?; // times of the commits
    cursor.take(count)?; // heights
    Ok(())
}

/// Where something is in the file with this number.
pub(super) fn pointer(
    cursor: &Cursor,
    files: &[FileEntry],
    id: u64,
    offset: u64,
    len: u64,
) -> Result<Pointer, OrbaxProblem> {
    let file = usize::try_from(id)
        .ok()
        .and_then(|id| files.get(id))
        .ok_or_else(|| cursor.malformed("it refers to a file that its table lacks"))?;
    if offset.checked_add(len).is_none() {
        return Err(cursor.malformed("it refers to bytes beyond any file"));
    }
    Ok(Pointer {
        file: file.clone(),
        offset,
        len,
    })
}

/// Reads a table of data files, whose paths are relative to `base`.
pub(super) fn file_table(
    kind: Kind,
    cursor: &mut Cursor,
    base: &str,
) -> Result<Vec<FileEntry>, OrbaxProblem> {
    let count = cursor.count()?;
    let mut prefixes = vec![0];
    prefixes.extend(cursor.lengths(count.saturating_sub(1))?);
    let suffixes = cursor.lengths(count)?;
    let bases = cursor.lengths(count)?;
    let mut files = Vec::new();
    let mut previous = Vec::new();
    let mut total = 0_usize;
    for ((prefix, suffix), base_len) in prefixes.into_iter().zip(suffixes).zip(bases) {
        let mut path: Vec<u8> = previous
            .get(..prefix)
            .ok_or_else(|| kind.malformed("a path shares more bytes than the one before has"))?
            .to_vec();
        path.extend(cursor.take(suffix)?);
        total += path.len() + 2 * base.len();
        if path.len() + base.len() > MAX_PATH || total > MAX_PATHS {
            return Err(kind.malformed("the paths of its data files are too long"));
        }
        let text = std::str::from_utf8(&path).ok();
        let (whole, inner) = text
            .and_then(|text| Some((text, text.get(..base_len)?)))
            .ok_or_else(|| kind.malformed("the path of a data file is not UTF-8"))?;
        let entry = FileEntry {
            path: format!("{base}{whole}").into(),
            base: format!("{base}{inner}").into(),
        };
        if !is_below(&entry.path) {
            return Err(kind.malformed("the path of a data file leads out of the checkpoint"));
        }
        files.push(entry);
        previous = path;
    }
    Ok(files)
}

/// Whether a path stays below the folder that it is relative to.
fn is_below(path: &str) -> bool {
    !path.starts_with('/')
        && !path.contains(char::is_control)
        && path.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::super::wire::NODE;
    use super::*;

    /// A file table: for each path the bytes shared with the one before, the rest, and the base's
    /// length.
    fn table(entries: &[(u8, &str, u8)]) -> Vec<u8> {
        let mut bytes = vec![entries.len() as u8];
        bytes.extend(entries.iter().skip(1).map(|entry| entry.0));
        bytes.extend(entries.iter().map(|entry| entry.1.len() as u8));
        bytes.extend(entries.iter().map(|entry| entry.2));
        bytes.extend(entries.iter().flat_map(|entry| entry.1.bytes()));
        bytes
    }

    fn read(entries: &[(u8, &str, u8)]) -> Result<Vec<(String, String)>, OrbaxProblem> {
        let bytes = table(entries);
        let files = file_table(NODE, &mut Cursor::new(NODE, &bytes), "top/")?;
        let texts = |file: FileEntry| (file.path.to_string(), file.base.to_string());
        Ok(files.into_iter().map(texts).collect())
    }

    #[test]
    fn paths_share_what_the_one_before_begins_with() {
        let found = read(&[
            (0, "ocdbt.process_0/d/ab", 16),
            (18, "cd", 0),
            (0, "d/x", 0),
        ]);
        let expected = [
            ("top/ocdbt.process_0/d/ab", "top/ocdbt.process_0/"),
            ("top/ocdbt.process_0/d/cd", "top/"),
            ("top/d/x", "top/"),
        ];
        let expected = expected.map(|(path, base)| (path.to_owned(), base.to_owned()));
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["../x", "d/../../x", "d\0x", "d/.."] {
            assert!(read(&[(0, path, 0)]).is_err(), "{path:?}");
        }
        assert!(read(&[(0, "d", 2)]).is_err(), "a base beyond the path");
        assert!(
            read(&[(0, "d", 0), (2, "x", 0)]).is_err(),
            "more than shared"
        );
        let absolute = table(&[(0, "/etc/x", 0)]);
        assert!(file_table(NODE, &mut Cursor::new(NODE, &absolute), "").is_err());
    }
}
