//! What can be wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

use super::msgpack::Problem;
use super::npz::NpzProblem;
use super::orbax::OrbaxProblem;
use super::safetensors::SafetensorsProblem;

/// Why a checkpoint could not be opened or read. Each message is one line that names the file and, where there is one, the
/// tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder holds no file that this program reads weights from.
    #[error("{}: no weights found (looked for {looked_for})", dir.display())]
    NotFound {
        /// The folder.
        dir: PathBuf,
        /// The names that were looked for, comma separated.
        looked_for: String,
    },
    /// A file of the checkpoint cannot be opened or its size not be known.
    #[error("cannot open {}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A tensor's bytes cannot be read, for instance because the file was cut short after it was opened.
    #[error("{}: cannot read tensor {tensor:?} at byte {offset}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A part of a dimension was asked for that the tensor does not have as a view.
    #[error("{}: tensor {tensor:?} of shape {shape:?} has no part {start}..{end} of dimension {dim}", file.display())]
    Slice {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The dimension.
        dim: usize,
        /// The first index asked for.
        start: usize,
        /// The index after the last one asked for.
        end: usize,
    },
    /// A range of bytes was asked for that is not within the tensor.
    #[error("{}: tensor {tensor:?} has {byte_len} bytes, asked for {len} from {start} on", file.display())]
    OutOfRange {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first byte asked for.
        start: usize,
        /// How many bytes were asked for.
        len: usize,
        /// How many bytes the tensor has.
        byte_len: usize,
    },
    /// A msgpack file is not what Flax writes.
    #[error("{}: {}byte {offset}: {problem}", file.display(), in_tensor(tensor))]
    Msgpack {
        /// The file.
        file: PathBuf,
        /// The name, as far as it was read, of the tensor or group where it is wrong; empty before the first name.
        tensor: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// A safetensors file is malformed, or has what is not supported.
    #[error("{}: {}{problem}", file.display(), in_tensor(tensor))]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// The tensor that is wrong; empty where it is the file as a whole.
        tensor: String,
        /// What is wrong.
        problem: SafetensorsProblem,
    },
    /// An npz file is malformed, or has what is not supported.
    #[error("{}: {}{problem}", file.display(), in_member(tensor))]
    Npz {
        /// The file.
        file: PathBuf,
        /// The member that is wrong; empty where it is the archive as a whole.
        tensor: String,
        /// What is wrong.
        problem: NpzProblem,
    },
    /// An Orbax checkpoint is malformed, unfinished, or has what is not supported.
    #[error("{}: {}{problem}", file.display(), in_array(array))]
    Orbax {
        /// The file or folder that is wrong.
        file: PathBuf,
        /// The array that is wrong, by its name in the tree; empty where it is not one array.
        array: String,
        /// What is wrong.
        problem: OrbaxProblem,
    },
    /// A file's name does not say what form it has.
    #[error("{}: unknown form of weights (known: .msgpack, .npz, .safetensors, .index.json)", file.display())]
    UnknownForm {
        /// The file.
        file: PathBuf,
    },
    /// A tensor has a name that is known, and a shape that does not belong to it.
    #[error("{}: tensor {tensor:?} has shape {found:?}, expected axes [{expected}]", file.display())]
    ForeignShape {
        /// The file.
        file: PathBuf,
        /// The tensor, by its stored name.
        tensor: String,
        /// Its axes: a letter each, or the size that an axis must have.
        expected: &'static str,
        /// Its shape.
        found: Vec<usize>,
    },
    /// Two tensors have the same name.
    #[error("{}: tensor {tensor:?} is also in {}", file.display(), first.display())]
    Duplicate {
        /// The file with the second tensor of this name.
        file: PathBuf,
        /// The name.
        tensor: String,
        /// The file with the first one, which may be the same.
        first: PathBuf,
    },
    /// An index file is larger than an index can be.
    #[error("{}: larger than the {limit} bytes that an index may have", file.display())]
    IndexTooLarge {
        /// The index file.
        file: PathBuf,
        /// The largest size that is read, in bytes.
        limit: u64,
    },
    /// An index file is not JSON with a `weight_map` from names to files.
    #[error("{}: not a valid index", file.display())]
    Index {
        /// The index file.
        file: PathBuf,
        /// Where and how it departs from one.
        #[source]
        source: serde_json::Error,
    },
    /// An index names no tensor at all.
    #[error("{}: its weight_map is empty", file.display())]
    EmptyIndex {
        /// The index file.
        file: PathBuf,
    },
    /// An index names a shard by something else than the name of a file beside it.
    #[error("{}: tensor {tensor:?} is in {shard:?}, which is not a plain file name", file.display())]
    ShardName {
        /// The index file.
        file: PathBuf,
        /// The tensor that would be in the shard.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// An index names a shard that is not there.
    #[error("{}: names shard {shard:?} for tensor {tensor:?}, and there is no such file", file.display())]
    MissingShard {
        /// The index file.
        file: PathBuf,
        /// The first tensor that would be in the shard.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// A shard has not the tensor that the index says it has.
    #[error("{}: tensor {tensor:?} should be in {shard:?}, which has no such tensor", file.display())]
    NotInShard {
        /// The index file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// A shard has a tensor that the index does not have, or has in another shard.
    #[error("{}: tensor {tensor:?} is in {shard:?}, but not so in the index", file.display())]
    NotInIndex {
        /// The index file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// The model needs a tensor that the checkpoint has not.
    #[error("{}: tensor {tensor:?} of shape {shape:?} is missing{}", file.display(), and_others(*others, "missing"))]
    MissingTensor {
        /// The checkpoint: its file, or the index of its shards.
        file: PathBuf,
        /// The first tensor that is missing.
        tensor: String,
        /// The shape that it should have.
        shape: Vec<usize>,
        /// How many more are missing.
        others: usize,
    },
    /// The checkpoint has a tensor that the model has not.
    #[error("{}: tensor {tensor:?} of shape {shape:?} is left over{}", file.display(), and_others(*others, "left over"))]
    LeftOver {
        /// The file with the tensor.
        file: PathBuf,
        /// The first tensor, by name, that is left over.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many more are left over.
        others: usize,
    },
    /// A tensor has another shape than the model needs.
    #[error("{}: tensor {tensor:?} has shape {found:?}, expected {expected:?}", file.display())]
    WrongShape {
        /// The file with the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape in the checkpoint.
        found: Vec<usize>,
    },
}

fn in_tensor(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("tensor {name:?}, ")
    }
}

fn in_array(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("array {name:?}: ")
    }
}

fn in_member(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("member {name:?}: ")
    }
}

fn and_others(count: usize, what: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!(" (1 more is {what})"),
        _ => format!(" ({count} more are {what})"),
    }
}
