//! Finds a checkpoint's files, opens them, and puts their tensors together.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::element::Unread;
use super::positional::{OpenFile, ReadAt};
use super::tensor::DataFile;
use super::{
    Checkpoint, Error, FLAX_FILE, FLAX_INDEX_FILE, Format, Inner, NPZ_FILES, NameTable, Result,
    SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE, Tensor, contents, index, msgpack, names, npz, orbax,
    safetensors,
};
use crate::input_file::{self, Impostor};
use crate::naming::Naming;

/// What one file contains.
struct Content {
    /// Its tensors, by stored name, in the file's order.
    tensors: Vec<Tensor>,
    unread: Vec<Unread>,
}

type Parse<S> = fn(&Path, S) -> Result<Content>;

/// The tensors of all files.
#[derive(Default)]
struct Collected {
    tensors: BTreeMap<Arc<str>, Tensor>,
    /// The names of those that are not read.
    left_out: Vec<String>,
}

impl Checkpoint {
    /// Opens the weights in a folder, or those in a file, under the names that they are stored by.
    ///
    /// In a folder, it takes the first that exists of [`FLAX_FILE`], [`FLAX_INDEX_FILE`] with its
    /// shards, the [`NPZ_FILES`], [`SAFETENSORS_FILE`], [`SAFETENSORS_INDEX_FILE`] with its shards,
    /// an Orbax checkpoint (the folder itself, the item in it with the parameters, or the newest
    /// step of a training run), and, where the folder has exactly one, an npz file of any name. The
    /// end of a file's name tells its format.
    ///
    /// # Errors
    /// Where there are no weights, where a file cannot be read or is malformed, and where index and
    /// shards disagree.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = path.metadata();
        if metadata.as_ref().is_ok_and(|found| !found.is_dir()) {
            return Self::open_file(path);
        }
        for name in [FLAX_FILE, FLAX_INDEX_FILE]
            .into_iter()
            .chain(NPZ_FILES)
            .chain([SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE])
        {
            let file = path.join(name);
            if exists(&file)? {
                return Self::open_file(&file);
            }
        }
        // A folder that does not exist is reported below, with what was looked for.
        if metadata.is_ok()
            && let Some(opened) = orbax::open(path)?
        {
            return Self::from_opened(opened);
        }
        match only_npz(path) {
            Some(file) => Self::open_npz_file(&file),
            None => Err(Error::NotFound {
                dir: path.to_path_buf(),
                found: contents::describe(path),
                looked_for: format!(
                    "{FLAX_FILE}, {FLAX_INDEX_FILE}, {}, {SAFETENSORS_FILE}, \
                     {SAFETENSORS_INDEX_FILE}, an Orbax checkpoint, a single *.npz",
                    NPZ_FILES.join(", ")
                ),
            }),
        }
    }

    /// Opens a file of the format that its name says.
    fn open_file(file: &Path) -> Result<Self> {
        let name = file
            .file_name()
            .map_or(Default::default(), OsStr::to_string_lossy);
        if name.ends_with(".index.json") {
            Self::open_index_file(file)
        } else if name.ends_with(".msgpack") {
            Self::open_msgpack_file(file)
        } else if name.ends_with(".npz") {
            Self::open_npz_file(file)
        } else if name.ends_with(".safetensors") {
            Self::open_safetensors_file(file)
        } else {
            Err(Error::UnknownFormat {
                file: file.to_path_buf(),
            })
        }
    }

    /// Opens one msgpack file, with nested names or joined ones.
    ///
    /// # Errors
    /// Where the file cannot be read, or is malformed.
    pub fn open_msgpack_file(file: &Path) -> Result<Self> {
        Self::from_msgpack(file, open(file)?)
    }

    /// Opens one npz file. Compressed arrays are unpacked to a temporary file without a name, large
    /// ones when they are first read.
    ///
    /// # Errors
    /// Where the file cannot be read, or is malformed, and where it cannot be unpacked.
    pub fn open_npz_file(file: &Path) -> Result<Self> {
        Self::from_npz(file, open(file)?)
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// Where the file cannot be read, or is malformed.
    pub fn open_safetensors_file(file: &Path) -> Result<Self> {
        Self::from_safetensors(file, open(file)?)
    }

    /// Opens msgpack bytes from any source. `file` is the name that errors and [`Tensor::file`]
    /// give them.
    ///
    /// # Errors
    /// Where the bytes cannot be read, or are malformed.
    pub fn from_msgpack(file: &Path, source: impl ReadAt + 'static) -> Result<Self> {
        Self::single(file, Format::FlaxMsgpack, source, parse_msgpack)
    }

    /// Opens the bytes of an npz file from any source, as [`Checkpoint::from_msgpack`] does.
    ///
    /// # Errors
    /// As [`Checkpoint::open_npz_file`].
    pub fn from_npz(file: &Path, source: impl ReadAt + 'static) -> Result<Self> {
        Self::single(file, Format::Npz, source, parse_npz)
    }

    /// Opens the bytes of a safetensors file from any source, as [`Checkpoint::from_msgpack`] does.
    ///
    /// # Errors
    /// Where the bytes cannot be read, or are malformed.
    pub fn from_safetensors(file: &Path, source: impl ReadAt + 'static) -> Result<Self> {
        Self::single(file, Format::Safetensors, source, parse_safetensors)
    }

    /// Opens an Orbax checkpoint whose files are in memory, by path relative to its folder.
    /// `folder` is the name that errors give that.
    ///
    /// # Errors
    /// Where the files are malformed.
    pub fn from_orbax(folder: &Path, files: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        Self::from_opened(orbax::open_memory(folder, files)?)
    }

    fn from_opened(opened: orbax::Opened) -> Result<Self> {
        match opened {
            orbax::Opened::Msgpack(file) => Self::open_msgpack_file(&file),
            orbax::Opened::Tensors {
                path,
                format,
                files,
                tensors,
                left_out,
            } => {
                let mut collected = Collected {
                    left_out,
                    ..Collected::default()
                };
                for tensor in tensors {
                    names::insert(&mut collected.tensors, tensor)?;
                }
                Self::new(&path, format, files, collected)
            }
        }
    }

    fn single<S: ReadAt>(file: &Path, format: Format, source: S, parse: Parse<S>) -> Result<Self> {
        let mut collected = Collected::default();
        for tensor in collected.accept(file, checked(file, source, parse)?)? {
            names::insert(&mut collected.tensors, tensor)?;
        }
        Self::new(file, format, vec![file.to_path_buf()], collected)
    }

    /// Opens an index file and the shards that it names, which are beside it.
    ///
    /// # Errors
    /// Where a file is missing, cannot be read or is malformed; where the index names a shard by
    /// anything but a plain file name; and where index and shards disagree on a tensor.
    pub fn open_index_file(file: &Path) -> Result<Self> {
        let name = file
            .file_name()
            .map_or(Default::default(), OsStr::to_string_lossy);
        let (format, parse): (_, Parse<OpenFile>) = match name.ends_with("safetensors.index.json") {
            true => (Format::SafetensorsSharded, parse_safetensors),
            false => (Format::FlaxMsgpackSharded, parse_msgpack),
        };
        let dir = file.parent().unwrap_or(Path::new(""));
        let mut files = Vec::new();
        let mut collected = Collected::default();
        let shards = index::read(file)?;
        let indexed: HashSet<&str> = shards.values().flatten().map(String::as_str).collect();
        for (shard, names) in &shards {
            let path = dir.join(shard);
            if !exists(&path)? {
                return Err(Error::MissingShard {
                    file: file.to_path_buf(),
                    tensor: names.first().cloned().unwrap_or_default(),
                    shard: shard.clone(),
                });
            }
            let unread = collected.left_out.len();
            let content = checked(&path, open(&path)?, parse)?;
            let mut found: HashSet<String> = HashSet::new();
            for tensor in collected.accept(&path, content)? {
                let name = tensor.name();
                // The names came out of a sorted map.
                let here = names.binary_search_by(|listed| listed.as_str().cmp(name));
                if here.is_ok() {
                    found.insert(name.to_owned());
                    names::insert(&mut collected.tensors, tensor)?;
                } else if indexed.contains(name) {
                    return Err(Error::NotInIndex {
                        file: file.to_path_buf(),
                        tensor: name.to_owned(),
                        shard: shard.clone(),
                    });
                } else {
                    collected.left_out.push(name.to_owned());
                }
            }
            found.extend(collected.left_out.iter().skip(unread).cloned());
            let mut missing = names.iter().filter(|name| !found.contains(*name));
            if let Some(first) = missing.next() {
                return Err(Error::NotInShard {
                    file: file.to_path_buf(),
                    tensor: first.clone(),
                    shard: shard.clone(),
                    others: missing.count(),
                });
            }
            files.push(path);
        }
        Self::new(file, format, files, collected)
    }

    fn new(path: &Path, format: Format, files: Vec<PathBuf>, collected: Collected) -> Result<Self> {
        Ok(Checkpoint {
            inner: Arc::new(Inner {
                path: path.to_path_buf(),
                format,
                naming: Naming::Unknown,
                names: NameTable::default(),
                files,
                tensors: collected.tensors,
                left_out: collected.left_out,
                other_parts: Vec::new(),
            }),
        })
    }
}

impl Collected {
    /// Records a file's tensors that are not read, and returns the others.
    fn accept(&mut self, file: &Path, content: Content) -> Result<Vec<Tensor>> {
        let Content { tensors, unread } = content;
        for name in tensors
            .iter()
            .map(Tensor::name)
            .chain(unread.iter().map(|unread| &*unread.name))
        {
            if matches!(name.split(['/', '.']).next(), Some("opt_state")) || name == "step" {
                return Err(Error::TrainingState {
                    file: file.to_path_buf(),
                    tensor: name.to_owned(),
                });
            }
        }
        if let Some(quantised) = unread.iter().find(|unread| unread.is_quantised()) {
            return Err(Error::Quantised {
                file: file.to_path_buf(),
                tensor: quantised.name.to_string(),
                dtype: quantised.element,
                shape: quantised.shape.clone(),
            });
        }
        match tensors.iter().filter(|tensor| tensor.is_float64()).count() {
            0 => {}
            1 => tracing::warn!("{}: 1 tensor is float64, read as float32", file.display()),
            count => tracing::warn!(
                "{}: {count} tensors are float64, read as float32",
                file.display()
            ),
        }
        let (buffers, tensors) = tensors
            .into_iter()
            .partition(|tensor: &Tensor| is_buffer(tensor.name()));
        let buffers: Vec<Tensor> = buffers;
        self.left_out
            .extend(unread.iter().map(|unread| unread.name.to_string()));
        self.left_out
            .extend(buffers.iter().map(|buffer| buffer.name().to_owned()));
        Ok(tensors)
    }
}

/// Whether PyTorch's models keep something of this name beside their parameters, which is computed
/// here from the configuration.
fn is_buffer(name: &str) -> bool {
    let last = name.rsplit(['/', '.']).next().unwrap_or_default();
    matches!(last, "inv_freq" | "original_inv_freq" | "position_ids")
}

fn open(file: &Path) -> Result<OpenFile> {
    exists(file)?;
    OpenFile::open(file).map_err(|source| Error::Open {
        file: file.to_path_buf(),
        source,
    })
}

/// Whether there is a file of this name.
fn exists(file: &Path) -> Result<bool> {
    input_file::exists(file).map_err(|source| Error::Open {
        file: file.to_path_buf(),
        source,
    })
}

/// Parses a file, unless it is one that is often found in place of weights.
fn checked<S: ReadAt>(file: &Path, source: S, parse: Parse<S>) -> Result<Content> {
    let mut head = vec![0; source.size().min(input_file::HEAD as u64) as usize];
    let read = source.read_exact_at(&mut head, 0);
    if let (Ok(()), Some(found)) = (read, Impostor::of(&head)) {
        return Err(Error::Impostor {
            file: file.to_path_buf(),
            found,
        });
    }
    parse(file, source)
}

/// The npz file in a folder, if there is exactly one.
fn only_npz(dir: &Path) -> Option<PathBuf> {
    let mut found = dir
        .read_dir()
        .ok()?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension() == Some(OsStr::new("npz")));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn parse_msgpack<S: ReadAt + 'static>(file: &Path, source: S) -> Result<Content> {
    let parsed = msgpack::parse(&source).map_err(|error| Error::Msgpack {
        file: file.to_path_buf(),
        tensor: error.tensor,
        offset: error.offset,
        problem: error.problem,
    })?;
    let data = data_file(file, source);
    let tensor = |stored| Tensor::new(Arc::clone(&data), stored);
    Ok(Content {
        tensors: parsed.stored.into_iter().map(tensor).collect(),
        unread: parsed.unread,
    })
}

fn parse_safetensors<S: ReadAt + 'static>(file: &Path, source: S) -> Result<Content> {
    let parsed = safetensors::parse(&source).map_err(|error| Error::Safetensors {
        file: file.to_path_buf(),
        tensor: error.tensor,
        problem: error.problem,
    })?;
    let data = data_file(file, source);
    let tensor = |stored| Tensor::new(Arc::clone(&data), stored);
    Ok(Content {
        tensors: parsed.stored.into_iter().map(tensor).collect(),
        unread: parsed.unread,
    })
}

fn parse_npz<S: ReadAt + 'static>(file: &Path, source: S) -> Result<Content> {
    let parsed = npz::parse(&source).map_err(|error| Error::Npz {
        file: file.to_path_buf(),
        tensor: error.tensor,
        problem: error.problem,
    })?;
    let archive = data_file(file, source);
    let unpacked = match (parsed.unpacked, parsed.packed) {
        (Some((unpacked, size)), _) => data_file(file, OpenFile::new(unpacked, size)),
        (None, Some(packed)) => {
            let unpacked = npz::Unpacked::new(Arc::clone(&archive), packed);
            data_file(file, unpacked)
        }
        (None, None) => Arc::clone(&archive),
    };
    let tensor = |array: npz::Array| {
        let data = if array.unpacked { &unpacked } else { &archive };
        let tensor = Tensor::new(Arc::clone(data), array.stored);
        if array.fortran_order {
            tensor.transposed()
        } else {
            tensor
        }
    };
    Ok(Content {
        tensors: parsed.arrays.into_iter().map(tensor).collect(),
        unread: parsed.unread,
    })
}

fn data_file(file: &Path, source: impl ReadAt + 'static) -> Arc<DataFile> {
    Arc::new(DataFile {
        path: file.to_path_buf(),
        source: Box::new(source),
    })
}
