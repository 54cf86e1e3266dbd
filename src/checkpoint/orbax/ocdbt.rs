//! Reads an OCDBT database: walks its B+tree once and notes where each key's value is.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::OrbaxProblem;
use super::folder::{Folder, Region, join};
use super::manifest::{Manifest, Pointer, Root, file_table, parse, pointer};
use super::node::{Value, leaf_values};
use super::problem::{Fault, unreadable};
use super::wire::{Cursor, MAX_BODY, NODE, body};
use crate::checkpoint::positional::ReadAt;

/// The file that a database begins with.
pub(super) const MANIFEST_FILE: &str = "manifest.ocdbt";
/// What the names of numbered manifests begin with; sixteen hexadecimal digits follow.
const NUMBERED: &str = "manifest.";

/// The most keys of a database. A model of a thousand arrays in a hundred chunks each has a tenth
/// of it.
const MAX_KEYS: u64 = 1 << 20;
/// The most bytes of all keys together.
const MAX_KEY_BYTES: usize = 1 << 27;
/// The most bytes of all nodes together, decompressed.
const MAX_NODE_BYTES: usize = 1 << 29;
/// The highest tree: with two entries a node, one of this height has more keys than are read.
const MAX_HEIGHT: u8 = 32;
/// Data files that stay open. The others are opened for each read: systems allow a thousand open
/// files or so.
const OPEN_FILES: usize = 256;

/// The values by key.
pub(super) type Values = BTreeMap<String, Region>;

/// Reads the database in `dir`, a folder of `files`.
pub(super) fn read(files: &Arc<dyn Folder>, dir: &str) -> Result<Values, Fault> {
    let path = join(dir, MANIFEST_FILE);
    let (path, root) = match manifest(files.as_ref(), &path)? {
        Manifest::Root { root, .. } => (path, root),
        Manifest::Numbered { uuid } => newest_numbered(files.as_ref(), dir, &path, uuid)?,
    };
    let Some(root) = root else {
        return Ok(Values::new());
    };
    if root.keys > MAX_KEYS || root.height > MAX_HEIGHT {
        return Err(OrbaxProblem::Malformed {
            kind: "manifest",
            what: "its tree is larger than any that is read",
        }
        .of(&path));
    }
    let mut walk = Walk {
        files,
        dir,
        values: Values::new(),
        last_key: None,
        keys_left: root.keys,
        key_bytes: 0,
        node_bytes: 0,
        opened: BTreeMap::new(),
    };
    walk.tree(root)?;
    if walk.keys_left > 0 {
        let fewer = NODE.malformed("the tree has fewer keys than its manifest states");
        return Err(fewer.of(&path));
    }
    Ok(walk.values)
}

fn manifest(files: &dyn Folder, path: &str) -> Result<Manifest, Fault> {
    let frame = whole_file(files, path, "manifest")?;
    parse(&frame).map_err(|problem| problem.of(path))
}

/// The bytes of a file of at most [`MAX_BODY`] bytes.
fn whole_file(files: &dyn Folder, path: &str, kind: &'static str) -> Result<Vec<u8>, Fault> {
    let limit = MAX_BODY;
    let read = || {
        let source = files.open(path)?;
        let region = Region {
            len: source.size(),
            source,
            file: path.into(),
            offset: 0,
        };
        region.bytes(limit)
    };
    match read() {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(OrbaxProblem::TooLarge { kind, limit }.of(path)),
        Err(source) => Err(unreadable(source).of(path)),
    }
}

/// The numbered manifest of the greatest generation, and the root that it has.
fn newest_numbered(
    files: &dyn Folder,
    dir: &str,
    path: &str,
    uuid: [u8; 16],
) -> Result<(String, Option<Root>), Fault> {
    let is_numbered = |name: &str| {
        name.strip_prefix(NUMBERED).is_some_and(|digits| {
            digits.len() == 16
                && digits
                    .bytes()
                    .all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    // All have the same number of digits: the last by name has the greatest number.
    let newest = files
        .children(dir)
        .map_err(|source| unreadable(source).of(path))?
        .into_iter()
        .map(|child| child.name)
        .rfind(|name| is_numbered(name));
    let malformed = |what| OrbaxProblem::Malformed {
        kind: "manifest",
        what,
    };
    let Some(newest) = newest else {
        return Err(malformed("it refers to numbered manifests, and there are none").of(path));
    };
    let newest = join(dir, &newest);
    match manifest(files, &newest)? {
        Manifest::Root { uuid: found, root } if found == uuid => Ok((newest, root)),
        _ => Err(malformed("it does not belong to manifest.ocdbt").of(&newest)),
    }
}

/// A node that is still to be read.
struct Pending {
    node: Pointer,
    height: u8,
    /// What its keys begin with.
    prefix: Arc<[u8]>,
    /// No key in it is less than this.
    first_key: Vec<u8>,
}

/// A walk over a tree, in the order of its keys.
struct Walk<'a> {
    files: &'a Arc<dyn Folder>,
    dir: &'a str,
    values: Values,
    last_key: Option<Vec<u8>>,
    /// How many keys may still come: the manifest states their number.
    keys_left: u64,
    key_bytes: usize,
    node_bytes: usize,
    /// Files that were opened to learn their sizes.
    opened: BTreeMap<Arc<str>, Region>,
}

impl Walk<'_> {
    fn tree(&mut self, root: Root) -> Result<(), Fault> {
        let mut stack = vec![Pending {
            node: root.node,
            height: root.height,
            prefix: [].into(),
            first_key: Vec::new(),
        }];
        while let Some(pending) = stack.pop() {
            let file = join(self.dir, &pending.node.file.path);
            let children = self.node(&file, &pending)?;
            stack.extend(children.into_iter().rev());
        }
        Ok(())
    }

    /// Reads a node: the values of a leaf are noted, the children of another are given.
    fn node(&mut self, file: &str, pending: &Pending) -> Result<Vec<Pending>, Fault> {
        let failed = |problem: OrbaxProblem| problem.of(file);
        let region = self.region(&pending.node)?;
        let frame = region
            .bytes(MAX_BODY)
            .map_err(|source| failed(unreadable(source)))?
            .ok_or_else(|| {
                failed(OrbaxProblem::TooLarge {
                    kind: NODE.name,
                    limit: MAX_BODY,
                })
            })?;
        let body = body(NODE, &frame).map_err(failed)?;
        drop(frame);
        self.node_bytes += body.len();
        if self.node_bytes > MAX_NODE_BYTES {
            return Err(failed(OrbaxProblem::TooLarge {
                kind: "tree of nodes",
                limit: MAX_NODE_BYTES as u64,
            }));
        }
        let mut cursor = Cursor::new(NODE, &body);
        self.parse_node(file, &mut cursor, pending)
    }

    fn parse_node(
        &mut self,
        file: &str,
        cursor: &mut Cursor,
        pending: &Pending,
    ) -> Result<Vec<Pending>, Fault> {
        let failed = |problem: OrbaxProblem| problem.of(file);
        let height = cursor.u8().map_err(failed)?;
        if height != pending.height {
            return Err(failed(
                cursor.malformed("its height is not the expected one"),
            ));
        }
        let files = file_table(NODE, cursor, &pending.node.file.base).map_err(failed)?;
        let (keys, common) = self
            .keys(cursor, &pending.prefix, height > 0)
            .map_err(failed)?;
        if keys.first().is_some_and(|key| *key < pending.first_key) {
            return Err(failed(
                cursor.malformed("its first key lies before its range"),
            ));
        }
        let count = keys.len();
        if height == 0 {
            let values = leaf_values(cursor, &files, count).map_err(failed)?;
            for (key, value) in keys.into_iter().zip(values) {
                self.insert(file, key, value)?;
            }
            return Ok(Vec::new());
        }
        let column = |cursor: &mut Cursor| cursor.column(count, u64::MAX).map_err(failed);
        let (ids, offsets, lengths) = (column(cursor)?, column(cursor)?, column(cursor)?);
        for _ in ["keys", "bytes of the tree", "bytes of the values"] {
            column(cursor)?;
        }
        cursor.end().map_err(failed)?;
        let mut children = Vec::new();
        let entries = keys
            .into_iter()
            .zip(common)
            .zip(ids)
            .zip(offsets.into_iter().zip(lengths));
        for (((key, common), id), (offset, len)) in entries {
            children.push(Pending {
                node: pointer(cursor, &files, id, offset, len).map_err(failed)?,
                height: height - 1,
                prefix: key.get(..common).unwrap_or_default().into(),
                first_key: key,
            });
        }
        Ok(children)
    }

    /// Reads the keys of a node, whole, and for each how much of it all keys below it begin with.
    fn keys(
        &mut self,
        cursor: &mut Cursor,
        prefix: &[u8],
        interior: bool,
    ) -> Result<(Vec<Vec<u8>>, Vec<usize>), OrbaxProblem> {
        let count = cursor.count()?;
        if count == 0 || count as u64 > self.keys_left {
            return Err(cursor.malformed("it has no entries, or more than the manifest states"));
        }
        let mut shared = vec![0];
        shared.extend(cursor.lengths(count - 1)?);
        let suffixes = cursor.lengths(count)?;
        let common = match interior {
            true => cursor.lengths(count)?,
            false => vec![0; count],
        };
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for (index, (shared, suffix)) in shared.into_iter().zip(suffixes).enumerate() {
            let before = keys.last().map_or(prefix, Vec::as_slice);
            let whole = match index {
                0 => before,
                _ => before
                    .get(..prefix.len() + shared)
                    .ok_or_else(|| cursor.malformed("a key shares more than the one before has"))?,
            };
            let mut key = whole.to_vec();
            key.extend(cursor.take(suffix)?);
            if keys.last().is_some_and(|before| *before >= key) {
                return Err(cursor.malformed("its keys do not ascend"));
            }
            self.key_bytes += key.len();
            if self.key_bytes > MAX_KEY_BYTES {
                return Err(cursor.malformed("its keys are too long"));
            }
            keys.push(key);
        }
        let mut whole = Vec::new();
        for (key, common) in keys.iter().zip(common) {
            let common = prefix.len() + common;
            if interior && common > key.len() {
                return Err(cursor.malformed("a common prefix is longer than its key"));
            }
            whole.push(common);
        }
        Ok((keys, whole))
    }

    /// Notes a value.
    fn insert(&mut self, file: &str, key: Vec<u8>, value: Value) -> Result<(), Fault> {
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(NODE.malformed("the tree's keys do not ascend").of(file));
        }
        let Some(left) = self.keys_left.checked_sub(1) else {
            let more = NODE.malformed("the tree has more keys than its manifest states");
            return Err(more.of(file));
        };
        self.keys_left = left;
        let Ok(text) = String::from_utf8(key.clone()) else {
            return Err(NODE.malformed("a key is not UTF-8").of(file));
        };
        let region = match value {
            Value::Inline(bytes) => Region {
                len: bytes.len() as u64,
                source: Arc::new(bytes),
                file: file.into(),
                offset: 0,
            },
            Value::Stored(pointer) => self.region(&pointer)?,
        };
        self.last_key = Some(key);
        self.values.insert(text, region);
        Ok(())
    }

    /// The bytes that a pointer leads to, once its file is found to have them.
    fn region(&mut self, pointer: &Pointer) -> Result<Region, Fault> {
        let (offset, len) = (pointer.offset, pointer.len);
        let file = match self.opened.get(&pointer.file.path) {
            Some(file) => file.clone(),
            None => {
                let path = join(self.dir, &pointer.file.path);
                let source = self
                    .files
                    .open(&path)
                    .map_err(|source| unreadable(source).of(&path))?;
                let len = source.size();
                let file = Region {
                    source: match self.opened.len() {
                        0..OPEN_FILES => source,
                        _ => Arc::new(Reopened {
                            files: Arc::clone(self.files),
                            path: path.clone(),
                            size: len,
                        }),
                    },
                    len,
                    file: path.into(),
                    offset: 0,
                };
                self.opened
                    .insert(Arc::clone(&pointer.file.path), file.clone());
                file
            }
        };
        file.part(offset, len).ok_or_else(|| {
            OrbaxProblem::OutOfFile {
                offset,
                len,
                file_len: file.len,
            }
            .of(&file.file)
        })
    }
}

/// A file that is opened for each read.
struct Reopened {
    files: Arc<dyn Folder>,
    path: String,
    size: u64,
}

impl ReadAt for Reopened {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.files.open(&self.path)?.read_exact_at(buf, offset)
    }
}
