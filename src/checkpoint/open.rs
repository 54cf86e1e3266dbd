//! Finds a checkpoint's files, opens them, and puts their tensors together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::orbax::maxtext::{self, Sizes};
use super::source::{OpenFile, ReadAt};
use super::tensor::DataFile;
use super::{
    Checkpoint, Error, FLAX_FILE, FLAX_INDEX_FILE, Format, Inner, NPZ_FILES, Naming, Result,
    SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE, Tensor, foreign, index, msgpack, npz, orbax,
    safetensors,
};

/// Flax's name of the embedding.
const EMBEDDING: &str = "model/embed_tokens/embedding";

/// The tensors of one file, by stored name, in the file's order.
type Parse<S> = fn(&Path, S) -> Result<Vec<Tensor>>;

impl Checkpoint {
    /// Opens the weights in a folder, or those in a file.
    ///
    /// In a folder it is the first that is there of [`FLAX_FILE`], [`FLAX_INDEX_FILE`] with its shards, the [`NPZ_FILES`],
    /// [`SAFETENSORS_FILE`], [`SAFETENSORS_INDEX_FILE`] with its shards, and, where the folder has exactly one, an npz file of
    /// any name. Before that it is an Orbax checkpoint: the folder itself, the item in it that has the parameters, or the newest
    /// step of a training run. What a file is shows in the end of its name.
    ///
    /// # Errors
    /// Where there is none, where a file cannot be read or is malformed, and where index and shards disagree.
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
        if let Some(opened) = orbax::open(path)? {
            return Self::from_opened(opened);
        }
        match only_npz(path) {
            Some(file) => Self::open_npz_file(&file),
            None => Err(Error::NotFound {
                dir: path.to_path_buf(),
                looked_for: format!(
                    "{FLAX_FILE}, {FLAX_INDEX_FILE}, {}, {SAFETENSORS_FILE}, {SAFETENSORS_INDEX_FILE}, an Orbax checkpoint, a single *.npz",
                    NPZ_FILES.join(", ")
                ),
            }),
        }
    }

    /// Opens a file of the form that its name says.
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
            Err(Error::UnknownForm {
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

    /// Opens one npz file. Compressed arrays are unpacked to a temporary file without a name.
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

    /// Opens msgpack bytes that lie anywhere. `file` is the name that errors and [`Tensor::file`] give them.
    ///
    /// # Errors
    /// Where the bytes cannot be read, or are malformed.
    pub fn from_msgpack(file: &Path, source: impl ReadAt + 'static) -> Result<Self> {
        Self::single(file, Format::FlaxMsgpack, source, parse_msgpack)
    }

    /// Opens the bytes of an npz file that lie anywhere, as [`Checkpoint::from_msgpack`] does.
    ///
    /// # Errors
    /// As [`Checkpoint::open_npz_file`].
    pub fn from_npz(file: &Path, source: impl ReadAt + 'static) -> Result<Self> {
        Self::single(file, Format::Npz, source, parse_npz)
    }

    /// Opens the bytes of a safetensors file that lie anywhere, as [`Checkpoint::from_msgpack`] does.
    ///
    /// # Errors
    /// Where the bytes cannot be read, or are malformed.
    pub fn from_safetensors(file: &Path, source: impl ReadAt + 'static) -> Result<Self> {
        Self::single(file, Format::Safetensors, source, parse_safetensors)
    }

    /// Opens an Orbax checkpoint whose files lie in memory, by path relative to its folder. `folder` is the name that errors
    /// give that.
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
                tensors: found,
            } => {
                let mut tensors = BTreeMap::new();
                for tensor in found {
                    foreign::insert(&mut tensors, tensor)?;
                }
                Self::new(&path, format, files, tensors)
            }
        }
    }

    fn single<S>(file: &Path, format: Format, source: S, parse: Parse<S>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for tensor in parse(file, source)? {
            foreign::insert(&mut tensors, tensor)?;
        }
        Self::new(file, format, vec![file.to_path_buf()], tensors)
    }

    /// Opens an index file and the shards that it names, which lie beside it.
    ///
    /// # Errors
    /// Where a file is missing, cannot be read or is malformed; where the index names a shard by anything but a plain file
    /// name; and where index and shards disagree on a tensor.
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
        let mut tensors = BTreeMap::new();
        for (shard, names) in index::read(file)? {
            let path = dir.join(&shard);
            let source = OpenFile::open(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::MissingShard {
                    file: file.to_path_buf(),
                    tensor: names.first().cloned().unwrap_or_default(),
                    shard: shard.clone(),
                },
                _ => Error::Open {
                    file: path.clone(),
                    source,
                },
            })?;
            let mut found = 0;
            for tensor in parse(&path, source)? {
                // The names came out of a sorted map.
                if names
                    .binary_search_by(|name| name.as_str().cmp(tensor.name()))
                    .is_err()
                {
                    return Err(Error::NotInIndex {
                        file: file.to_path_buf(),
                        tensor: tensor.name().to_owned(),
                        shard,
                    });
                }
                foreign::insert(&mut tensors, tensor)?;
                found += 1;
            }
            if found < names.len() {
                let missing = names
                    .into_iter()
                    .find(|name| !tensors.contains_key(name.as_str()));
                return Err(Error::NotInShard {
                    file: file.to_path_buf(),
                    tensor: missing.unwrap_or_default(),
                    shard,
                });
            }
            files.push(path);
        }
        Self::new(file, format, files, tensors)
    }

    /// The same checkpoint for a model of so many tokens. DeepMind's and MaxText's embeddings of Gemma 1 and 2 have up to 128
    /// rows more, which are left out.
    pub fn for_vocabulary(&self, tokens: usize) -> Self {
        let inner = &self.inner;
        let mut tensors = inner.tensors.clone();
        let sizes = Sizes {
            vocabulary: Some(tokens),
        };
        let padded = matches!(inner.naming, Naming::DeepMind | Naming::MaxText);
        if !padded || cut_embedding(&mut tensors, sizes).is_err() {
            return self.clone();
        }
        Checkpoint {
            inner: Arc::new(Inner {
                path: inner.path.clone(),
                format: inner.format,
                naming: inner.naming,
                files: inner.files.clone(),
                tensors,
            }),
        }
    }

    fn new(
        path: &Path,
        format: Format,
        files: Vec<PathBuf>,
        stored: BTreeMap<Arc<str>, Tensor>,
    ) -> Result<Self> {
        let (mut tensors, naming) = match maxtext::canonical(&stored, Sizes::default())? {
            Some(tensors) => (tensors, Naming::MaxText),
            None => foreign::canonical(stored)?,
        };
        cut_embedding(&mut tensors, Sizes::default())?;
        Ok(Checkpoint {
            inner: Arc::new(Inner {
                path: path.to_path_buf(),
                format,
                naming,
                files,
                tensors,
            }),
        })
    }
}

/// Leaves out the rows of the embedding that only pad it.
fn cut_embedding(tensors: &mut BTreeMap<Arc<str>, Tensor>, sizes: Sizes) -> Result<()> {
    if let Some(embedding) = tensors.get_mut(EMBEDDING) {
        *embedding = maxtext::without_padding(embedding, sizes)?;
    }
    Ok(())
}

fn open(file: &Path) -> Result<OpenFile> {
    OpenFile::open(file).map_err(|source| Error::Open {
        file: file.to_path_buf(),
        source,
    })
}

/// Whether there is a file of this name. A folder that cannot be looked into is an error, not an absence.
fn exists(file: &Path) -> Result<bool> {
    file.try_exists().map_err(|source| Error::Open {
        file: file.to_path_buf(),
        source,
    })
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

fn parse_msgpack<S: ReadAt + 'static>(file: &Path, source: S) -> Result<Vec<Tensor>> {
    let entries = msgpack::parse(&source).map_err(|error| Error::Msgpack {
        file: file.to_path_buf(),
        tensor: error.tensor,
        offset: error.offset,
        problem: error.problem,
    })?;
    let data = data_file(file, source);
    let tensor = |entry| Tensor::new(Arc::clone(&data), entry);
    Ok(entries.into_iter().map(tensor).collect())
}

fn parse_safetensors<S: ReadAt + 'static>(file: &Path, source: S) -> Result<Vec<Tensor>> {
    let entries = safetensors::parse(&source).map_err(|error| Error::Safetensors {
        file: file.to_path_buf(),
        tensor: error.tensor,
        problem: error.problem,
    })?;
    let data = data_file(file, source);
    let tensor = |entry| Tensor::new(Arc::clone(&data), entry);
    Ok(entries.into_iter().map(tensor).collect())
}

fn parse_npz<S: ReadAt + 'static>(file: &Path, source: S) -> Result<Vec<Tensor>> {
    let parsed = npz::parse(&source).map_err(|error| Error::Npz {
        file: file.to_path_buf(),
        tensor: error.tensor,
        problem: error.problem,
    })?;
    let archive = data_file(file, source);
    let unpacked = match parsed.unpacked {
        Some((unpacked, size)) => data_file(file, OpenFile::new(unpacked, size)),
        None => Arc::clone(&archive),
    };
    let tensor = |array: npz::Array| {
        let data = if array.unpacked { &unpacked } else { &archive };
        let tensor = Tensor::new(Arc::clone(data), array.entry);
        if array.fortran_order {
            tensor.transposed()
        } else {
            tensor
        }
    };
    Ok(parsed.arrays.into_iter().map(tensor).collect())
}

fn data_file(file: &Path, source: impl ReadAt + 'static) -> Arc<DataFile> {
    Arc::new(DataFile {
        path: file.to_path_buf(),
        source: Box::new(source),
    })
}
