//! A stored array: where its chunks are, and how views of it are read.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::OrbaxProblem;
use super::chunk::ChunkReader;
use super::folder::{Region, join};
use super::gather::Target;
use super::grid::Grid;
use super::ocdbt::MANIFEST_FILE;
use super::problem::{Fault, unreadable};
use super::store::Store;
use super::zarr::{Metadata, Shard};
use crate::checkpoint::Result;
use crate::checkpoint::layout::{Axis, c_order};
use crate::dtype::DType;

/// Bytes of a chunk that are decoded at a time.
const BLOCK: usize = 1 << 20;
/// Bytes that are read at a time where the needed elements are apart in an uncompressed chunk.
const STORED_BLOCK: usize = 1 << 16;
/// The chunks of a shard: for each the first byte and the number of bytes; nothing where it is
/// missing.
type ShardIndex = Vec<Option<(u64, u64)>>;

/// A stored array.
pub(in crate::checkpoint) struct Array {
    store: Arc<Store>,
    /// What its keys begin with.
    key: String,
    /// Its name in the tree, for messages.
    name: String,
    /// The file that stands for it in messages, relative to the item's folder.
    file: String,
    metadata: Metadata,
    /// Whether a chunk that is not stored is an error, and not made of fill values.
    complete: bool,
    /// The shard that was read last, by its key.
    shard: Mutex<Option<(String, Arc<ShardIndex>)>>,
}

impl Array {
    pub(super) fn new(
        store: Arc<Store>,
        key: String,
        name: String,
        metadata: Metadata,
        complete: bool,
    ) -> Self {
        let file = match store.values {
            Some(_) => MANIFEST_FILE.to_owned(),
            None => key.clone(),
        };
        Array {
            store,
            key,
            name,
            file,
            metadata,
            complete,
            shard: Mutex::default(),
        }
    }

    pub(in crate::checkpoint) fn dtype(&self) -> DType {
        self.metadata.dtype
    }

    pub(in crate::checkpoint) fn shape(&self) -> &[usize] {
        &self.metadata.shape
    }

    /// The file that stands for it: the manifest, or the array's own folder.
    pub(in crate::checkpoint) fn file(&self) -> PathBuf {
        self.store.dir.join(&self.file)
    }

    /// Reads several views of this array, each stored element once.
    pub(in crate::checkpoint) fn read(&self, targets: &mut [Target]) -> Result<()> {
        let grid = Grid::new(&self.metadata.shape, &self.metadata.chunk);
        let extents: Vec<_> = targets.iter().filter_map(Target::extent).collect();
        let boxes = extents
            .iter()
            .map(|(first, axes)| grid.covered(*first, axes));
        // The place after the last element that is needed.
        let last = |(first, axes): &(usize, Vec<Axis>)| {
            let steps = axes.iter().map(|axis| (axis.size - 1) * axis.stride);
            first + steps.sum::<usize>() + 1
        };
        let limit = extents.iter().map(last).max().unwrap_or_default();
        let mut block = Vec::new();
        for chunk in grid.chunks(boxes.collect()) {
            self.read_chunk(&grid, &chunk, limit, targets, &mut block)
                .map_err(|fault| self.store.error(*fault))?;
            for target in &mut *targets {
                target.flush();
            }
        }
        Ok(())
    }

    /// Checks that every chunk is stored, where the checkpoint says so.
    pub(super) fn check_complete(&self) -> std::result::Result<(), Box<Fault>> {
        if !self.complete {
            return Ok(());
        }
        let grid = Grid::new(&self.metadata.shape, &self.metadata.chunk);
        for chunk in grid.chunks(grid.all().into_iter().collect()) {
            // Within a shard a missing chunk shows when the shard is read.
            let (key, _) = self.chunk_key(&chunk);
            let value = self.store.value(&key);
            let value = value.map_err(|source| self.fault(&key, unreadable(source)))?;
            if value.is_none() {
                return Err(self.missing(&key));
            }
        }
        Ok(())
    }

    fn read_chunk(
        &self,
        grid: &Grid,
        chunk: &[usize],
        limit: usize,
        targets: &mut [Target],
        block: &mut Vec<u8>,
    ) -> std::result::Result<(), Box<Fault>> {
        let size = self.metadata.dtype.size();
        let number = grid.number(chunk);
        let mut reader: Option<ChunkReader> = None;
        let mut missing = false;
        let mut file: Arc<str> = self.file.as_str().into();
        let (key, _) = self.chunk_key(chunk);
        for run in grid.runs(chunk) {
            let mut place = run.place;
            let end = limit.min(run.place + run.len);
            while let Some(wanted) = next(targets, place).filter(|next| next.start < end) {
                place = wanted.start;
                let at = (run.at + place - run.place) * size;
                if reader.is_none() && !missing {
                    match self.store.unpark(&self.key, number, at) {
                        Some(parked) => reader = Some(parked),
                        None => match self.locate(chunk)? {
                            Some(region) => {
                                file = Arc::clone(&region.file);
                                reader = Some(self.open(region, grid, &key)?);
                            }
                            None if self.complete => return Err(self.missing(&key)),
                            None => missing = true,
                        },
                    }
                }
                let most = match &reader {
                    Some(reader) if reader.is_stored() => {
                        (wanted.end - place).clamp(STORED_BLOCK / size, BLOCK / size)
                    }
                    _ => BLOCK / size,
                };
                let until = targets.iter().fold(end.min(place + most), |until, target| {
                    target.cut(place, until)
                });
                let Some(reader) = &mut reader else {
                    block.clear();
                    for _ in place..until {
                        block.extend(self.metadata.fill.iter().take(size));
                    }
                    for target in &mut *targets {
                        target.take(place, block);
                    }
                    place = until;
                    continue;
                };
                let damaged = |error: io::Error| self.damaged(&file, &key, error);
                if let [only] = &mut *targets
                    && let Some(out) = only.direct(place, end - place)
                    && !out.is_empty()
                {
                    reader.read(at, out).map_err(damaged)?;
                    place += out.len() / size;
                    continue;
                }
                block.resize((until - place) * size, 0);
                reader.read(at, block).map_err(damaged)?;
                for target in &mut *targets {
                    target.take(place, block);
                }
                place = until;
            }
        }
        match reader {
            Some(mut reader) if reader.is_done() => reader
                .finish()
                .map_err(|error| self.damaged(&file, &key, error)),
            Some(reader) if !reader.is_stored() => {
                self.store.park(&self.key, number, reader);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(
        &self,
        region: Region,
        grid: &Grid,
        key: &str,
    ) -> std::result::Result<ChunkReader, Box<Fault>> {
        let len = grid.chunk_elements() * self.metadata.dtype.size();
        let file = Arc::clone(&region.file);
        ChunkReader::new(region, self.metadata.codecs, len)
            .map_err(|error| self.damaged(&file, key, error))
    }

    /// The key of the value that has a chunk, and the chunk's indices within it where it is a
    /// shard.
    fn chunk_key(&self, chunk: &[usize]) -> (String, Vec<usize>) {
        let metadata = &self.metadata;
        let (outer, inner): (Vec<usize>, Vec<usize>) = match &metadata.shard {
            None => (chunk.to_vec(), Vec::new()),
            Some(shard) => chunk
                .iter()
                .zip(&shard.counts)
                .map(|(at, count)| (at / count, at % count))
                .unzip(),
        };
        let mut name = metadata.key_prefix.to_owned();
        for index in outer {
            if !name.is_empty() {
                name.push(metadata.key_separator);
            }
            name.push_str(&index.to_string());
        }
        if name.is_empty() {
            name.push('0');
        }
        (join(&self.key, &name), inner)
    }

    /// Where a chunk is; nothing where it is not stored.
    fn locate(&self, chunk: &[usize]) -> std::result::Result<Option<Region>, Box<Fault>> {
        let (key, within) = self.chunk_key(chunk);
        let value = self
            .store
            .value(&key)
            .map_err(|source| self.fault(&key, unreadable(source)))?;
        let (Some(value), Some(shard)) = (value.clone(), &self.metadata.shard) else {
            return Ok(value);
        };
        let index = self.shard_index(&key, &value, shard)?;
        let number: usize = within
            .iter()
            .zip(c_order(&shard.counts))
            .map(|(at, axis)| at * axis.stride)
            .sum();
        let Some((offset, len)) = index.get(number).copied().flatten() else {
            return Ok(None);
        };
        match value.part(offset, len) {
            Some(region) => Ok(Some(region)),
            None => Err(self.damaged_chunk(
                &value.file,
                &key,
                "its shard's index leads out of the shard".to_owned(),
            )),
        }
    }

    fn shard_index(
        &self,
        key: &str,
        value: &Region,
        shard: &Shard,
    ) -> std::result::Result<Arc<ShardIndex>, Box<Fault>> {
        let mut last = self.shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, index)) = &*last
            && of == key
        {
            return Ok(Arc::clone(index));
        }
        let damaged = |what: &str| self.damaged_chunk(&value.file, key, what.to_owned());
        let count: usize = shard.counts.iter().product();
        let checksum = if shard.checksum { 4 } else { 0 };
        let len = count
            .checked_mul(16)
            .map(|bytes| (bytes + checksum) as u64)
            .filter(|len| *len <= value.len)
            .ok_or_else(|| damaged("it is shorter than its shard's index"))?;
        let offset = if shard.index_at_end {
            value.len - len
        } else {
            0
        };
        let mut bytes = vec![0; len as usize];
        value
            .read(offset, &mut bytes)
            .map_err(|source| self.fault(&value.file, unreadable(source)))?;
        let (entries, crc) = bytes.split_at(count * 16);
        if shard.checksum && crc != crc32c::crc32c(entries).to_le_bytes() {
            return Err(damaged("the checksum of its shard's index does not fit"));
        }
        let entry = |entry: &[u8; 16]| {
            let [offset, len] = [0, 8].map(|at| {
                let bytes = entry[at..].first_chunk();
                bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
            });
            (offset != u64::MAX || len != u64::MAX).then_some((offset, len))
        };
        let index: Arc<ShardIndex> = Arc::new(entries.as_chunks().0.iter().map(entry).collect());
        *last = Some((key.to_owned(), Arc::clone(&index)));
        Ok(index)
    }

    fn fault(&self, file: &str, problem: OrbaxProblem) -> Box<Fault> {
        Box::new(problem.of_array(file, &self.name))
    }

    fn missing(&self, key: &str) -> Box<Fault> {
        let chunk = self.short_key(key);
        self.fault(&self.file, OrbaxProblem::MissingChunk { chunk })
    }

    fn damaged(&self, file: &str, key: &str, error: io::Error) -> Box<Fault> {
        self.damaged_chunk(file, key, error.to_string())
    }

    fn damaged_chunk(&self, file: &str, key: &str, what: String) -> Box<Fault> {
        let chunk = self.short_key(key);
        self.fault(file, OrbaxProblem::Chunk { chunk, what })
    }

    /// A chunk's key without the array's.
    fn short_key(&self, key: &str) -> String {
        key.strip_prefix(&self.key)
            .map_or(key, |rest| rest.trim_start_matches('/'))
            .to_owned()
    }
}

/// The next stored elements from `place` on that any view needs.
fn next(targets: &[Target], place: usize) -> Option<std::ops::Range<usize>> {
    let next = targets.iter().filter_map(|target| target.next(place));
    next.min_by_key(|range| range.start)
}
