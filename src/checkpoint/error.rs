//! What can be wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

use super::msgpack::MsgpackProblem;
use super::npz::NpzProblem;
use super::orbax::OrbaxProblem;
use super::safetensors::SafetensorsProblem;
use crate::input_file::Impostor;

/// Why a checkpoint could not be opened or read. Each message is one line that names the file and,
/// where there is one, the tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder has no file that weights can be read from.
    #[error("{}: no weights found (looked for {looked_for}); {found}", dir.display())]
    NotFound {
        /// The folder.
        dir: PathBuf,
        /// What it contains, and what that looks like.
        found: String,
        /// The names that were looked for, comma separated.
        looked_for: String,
    },
    /// A file of the checkpoint cannot be opened, or its size is unknown.
    #[error("cannot open {}", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A tensor's bytes cannot be read, for instance because the file was cut short after it was
    /// opened.
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
    /// A part of a dimension was requested that is not a view of the tensor.
    #[error(
        "{}: tensor {tensor:?} of shape {shape:?} has no part {start}..{end} of dimension {dim}",
        file.display()
    )]
    Slice {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The dimension.
        dim: usize,
        /// The first index requested.
        start: usize,
        /// The index after the last one requested.
        end: usize,
    },
    /// A range of bytes was requested that is not within the tensor.
    #[error(
        "{}: tensor {tensor:?} has {byte_len} bytes, {len} from {start} on were requested",
        file.display()
    )]
    OutOfRange {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first byte requested.
        start: usize,
        /// How many bytes were requested.
        len: usize,
        /// How many bytes the tensor has.
        byte_len: usize,
    },
    /// A file is not weights but something that is often found in their place.
    #[error("{}: {found}", file.display())]
    Impostor {
        /// The file.
        file: PathBuf,
        /// What it is.
        found: Impostor,
    },
    /// A file has an optimiser's state beside the parameters.
    #[error(
        "{}: tensor {tensor:?} belongs to a training state, not to a model; \
         save its parameters alone",
        file.display()
    )]
    TrainingState {
        /// The file.
        file: PathBuf,
        /// The tensor by which it was recognised.
        tensor: String,
    },
    /// A tensor has quantised weights.
    #[error(
        "{}: tensor {tensor:?} of shape {shape:?} is {dtype}: a quantised checkpoint, \
         which is not supported; take the one that is not quantised",
        file.display()
    )]
    Quantised {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// numpy's name of its element type.
        dtype: &'static str,
        /// Its stored shape.
        shape: Vec<usize>,
    },
    /// A msgpack file is not what Flax writes.
    #[error("{}: {}byte {offset}: {problem}", file.display(), in_tensor(tensor))]
    Msgpack {
        /// The file.
        file: PathBuf,
        /// The name, as far as it was read, of the tensor or group that is wrong; empty before the
        /// first name.
        tensor: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong.
        problem: MsgpackProblem,
    },
    /// A safetensors file is malformed, or its content is not supported.
    #[error("{}: {}{problem}", file.display(), in_tensor(tensor))]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// The tensor that is wrong; empty where the problem is the file as a whole.
        tensor: String,
        /// What is wrong.
        problem: SafetensorsProblem,
    },
    /// An npz file is malformed, or its content is not supported.
    #[error("{}: {}{problem}", file.display(), in_member(tensor))]
    Npz {
        /// The file.
        file: PathBuf,
        /// The member that is wrong; empty where the problem is the archive as a whole.
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
    /// A file's name does not say which format it has.
    #[error(
        "{}: unknown format of weights (known: .msgpack, .npz, .safetensors, .index.json)",
        file.display()
    )]
    UnknownFormat {
        /// The file.
        file: PathBuf,
    },
    /// A tensor has a known name, and a shape that does not match it.
    #[error(
        "{}: tensor {tensor:?} has shape {found:?}, expected axes [{expected}]",
        file.display()
    )]
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
    /// An index file is larger than any real one.
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
        /// Where and how it differs.
        #[source]
        source: serde_json::Error,
    },
    /// An index names no tensors.
    #[error("{}: its weight_map is empty", file.display())]
    EmptyIndex {
        /// The index file.
        file: PathBuf,
    },
    /// An index names a shard by something other than the name of a file beside it.
    #[error(
        "{}: tensor {tensor:?} is in {shard:?}, which is not a plain file name",
        file.display()
    )]
    ShardName {
        /// The index file.
        file: PathBuf,
        /// The tensor that would be in the shard.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// An index names a shard that does not exist.
    #[error(
        "{}: names shard {shard:?} for tensor {tensor:?}, but there is no such file",
        file.display()
    )]
    MissingShard {
        /// The index file.
        file: PathBuf,
        /// The first tensor that would be in the shard.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// A shard lacks a tensor that the index says it has.
    #[error(
        "{}: tensor {tensor:?} should be in {shard:?}, which has no such tensor{}",
        file.display(),
        and_others(*others, "missing")
    )]
    NotInShard {
        /// The index file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's name.
        shard: String,
        /// How many more of its tensors are missing.
        others: usize,
    },
    /// A shard has a tensor that the index has in another shard.
    #[error(
        "{}: tensor {tensor:?} is in {shard:?}, but the index names another shard for it",
        file.display()
    )]
    NotInIndex {
        /// The index file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// The model needs tensors that the checkpoint lacks.
    #[error(
        "{}: {}",
        file.display(),
        counted(*others, tensor, shape, names, "missing")
    )]
    MissingTensor {
        /// The checkpoint: its file, or the index of its shards.
        file: PathBuf,
        /// The first tensor that is missing.
        tensor: String,
        /// The shape that it should have.
        shape: Vec<usize>,
        /// How many more are missing.
        others: usize,
        /// The first few of all that are missing.
        names: Vec<String>,
    },
    /// The checkpoint has tensors that look like weights and that the model does not have.
    #[error(
        "{}: {}",
        file.display(),
        counted(*others, tensor, shape, names, "left over")
    )]
    LeftOver {
        /// The file with the tensor.
        file: PathBuf,
        /// The first tensor, by name, that is left over.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many more are left over.
        others: usize,
        /// The first few of all that are left over.
        names: Vec<String>,
    },
    /// The checkpoint has a head that differs from the embedding, which the configuration uses in
    /// its place.
    #[error(
        "{}: tensor {tensor:?} differs from the embedding, but config.json says that the two \
         are tied (tie_word_embeddings is true, or absent, which means true)",
        file.display()
    )]
    UntiedHead {
        /// The file with the head.
        file: PathBuf,
        /// The head, by its stored name.
        tensor: String,
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

/// `tensor "a" of shape [2] is missing`, or all of them counted and the first few named.
fn counted(others: usize, tensor: &str, shape: &[usize], names: &[String], what: &str) -> String {
    if others == 0 {
        return format!("tensor {tensor:?} of shape {shape:?} is {what}");
    }
    let more = (others + 1).saturating_sub(names.len());
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{} tensors are {what}: {}{more} (the first has shape {shape:?})",
        others + 1,
        names.join(", ")
    )
}
