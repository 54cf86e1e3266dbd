//! An item's values by key, and the chunks that are half decoded.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::chunk::ChunkReader;
use super::folder::{Folder, Region};
use super::ocdbt::Values;
use super::problem::Fault;
use crate::checkpoint::Error;

/// How many chunks stay half decoded, in case that a later read begins where an earlier one ended.
/// Each has a window of a megabyte or so.
const PARKED: usize = 4;

/// Where an item's values are found.
pub(super) struct Store {
    pub(super) files: Arc<dyn Folder>,
    /// The item's folder.
    pub(super) dir: PathBuf,
    /// The values of an OCDBT database; absent where each value is a file.
    pub(super) values: Option<Values>,
    parked: Mutex<Vec<Parked>>,
}

/// A chunk that is decoded up to some element.
struct Parked {
    array: String,
    chunk: usize,
    reader: ChunkReader,
}

impl Store {
    pub(super) fn new(files: Arc<dyn Folder>, dir: PathBuf, values: Option<Values>) -> Self {
        Store {
            files,
            dir,
            values,
            parked: Mutex::default(),
        }
    }

    /// The value of a key, if there is one.
    pub(super) fn value(&self, key: &str) -> io::Result<Option<Region>> {
        if let Some(values) = &self.values {
            return Ok(values.get(key).cloned());
        }
        match self.files.open(key) {
            Ok(source) => Ok(Some(Region {
                len: source.size(),
                source,
                file: key.into(),
                offset: 0,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An error of the checkpoint as a whole.
    pub(super) fn error(&self, fault: Fault) -> Error {
        Error::Orbax {
            file: self.dir.join(fault.file),
            array: fault.array,
            problem: fault.problem,
        }
    }

    /// Takes a chunk that was decoded up to `at` or less.
    pub(super) fn unpark(&self, array: &str, chunk: usize, at: usize) -> Option<ChunkReader> {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |p: &Parked| p.chunk == chunk && p.array == array && p.reader.at() <= at;
        let found = parked.iter().position(fits)?;
        Some(parked.remove(found).reader)
    }

    pub(super) fn park(&self, array: &str, chunk: usize, reader: ChunkReader) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        if parked.len() == PARKED {
            parked.remove(0);
        }
        parked.push(Parked {
            array: array.to_owned(),
            chunk,
            reader,
        });
    }
}
