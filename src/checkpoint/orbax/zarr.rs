//! An array's metadata: `.zarray` of zarr 2 and `zarr.json` of zarr 3, as far as Orbax writes them.

use serde::Deserialize;
use serde_json::Value;

use super::OrbaxProblem;
use crate::checkpoint::element::Element;
use crate::checkpoint::tensor::byte_len;
use crate::dtype::DType;

/// The most bytes of an array's metadata.
pub(super) const MAX_METADATA: u64 = 1 << 20;
/// The most dimensions of an array, as in TensorStore.
const MAX_RANK: usize = 32;

/// What an array is, and how its chunks are stored.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Metadata {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// The shape of a chunk; where chunks are gathered in shards, of one within a shard.
    pub(super) chunk: Vec<usize>,
    /// How many chunks a shard has along each dimension; absent where each chunk has a key of its
    /// own.
    pub(super) shard: Option<Shard>,
    pub(super) codecs: Codecs,
    /// What each element of a missing chunk is, as its bytes.
    pub(super) fill: [u8; 4],
    /// What stands before a chunk's indices in its key, and between them.
    pub(super) key_prefix: &'static str,
    pub(super) key_separator: char,
}

/// Shards: chunks gathered in one value, with an index.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shard {
    /// How many chunks along each dimension.
    pub(super) counts: Vec<usize>,
    /// Whether the index has a checksum.
    pub(super) checksum: bool,
    /// Whether the index is at the end, or at the beginning.
    pub(super) index_at_end: bool,
}

/// What was done to a chunk's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Codecs {
    pub(super) zstd: bool,
    /// A CRC-32C follows what is stored.
    pub(super) checksum: bool,
}

/// An array's metadata, or the name of its dtype where that is none of those that parameters have.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed {
    Array(Box<Metadata>),
    OtherDType(String),
}

fn malformed(what: impl Into<String>) -> OrbaxProblem {
    OrbaxProblem::Metadata { what: what.into() }
}

fn unsupported(what: &'static str, found: impl Into<String>, known: &'static str) -> OrbaxProblem {
    let found: String = found.into();
    OrbaxProblem::Unsupported {
        what,
        found: found.chars().take(64).collect(),
        known,
    }
}

fn json<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, OrbaxProblem> {
    serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))
}

#[derive(Deserialize)]
struct Zarr2 {
    zarr_format: u64,
    shape: Vec<u64>,
    chunks: Vec<u64>,
    dtype: Value,
    compressor: Option<Named>,
    #[serde(default)]
    fill_value: Value,
    filters: Option<Vec<Named>>,
    order: String,
    dimension_separator: Option<char>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(alias = "name")]
    id: String,
    #[serde(default)]
    configuration: Value,
}

/// Reads the metadata of zarr 2.
pub(super) fn parse_zarr2(text: &[u8]) -> Result<Parsed, OrbaxProblem> {
    let zarr: Zarr2 = json(text)?;
    if zarr.zarr_format != 2 {
        return Err(malformed("zarr_format is not 2"));
    }
    let dtype = match zarr.dtype.as_str() {
        Some("<f4") => DType::F32,
        Some("<f2") => DType::F16,
        Some("bfloat16") => DType::BF16,
        Some(other) => return Ok(Parsed::OtherDType(other.chars().take(64).collect())),
        None => return Ok(Parsed::OtherDType("a structure".to_owned())),
    };
    let zstd = match zarr.compressor {
        None => false,
        Some(codec) if codec.id == "zstd" => true,
        Some(codec) => return Err(unsupported("compressor", codec.id, "zstd, none")),
    };
    if let Some(filter) = zarr.filters.unwrap_or_default().into_iter().next() {
        return Err(unsupported("filter", filter.id, "none"));
    }
    if zarr.order != "C" {
        return Err(unsupported("order", zarr.order, "C"));
    }
    let key_separator = match zarr.dimension_separator {
        None => '.',
        Some(separator @ ('.' | '/')) => separator,
        Some(other) => return Err(unsupported("dimension_separator", other, ". and /")),
    };
    let (shape, chunk) = (sizes(&zarr.shape)?, sizes(&zarr.chunks)?);
    check_sizes(dtype, &shape, &chunk)?;
    Ok(Parsed::Array(Box::new(Metadata {
        dtype,
        shape,
        chunk,
        shard: None,
        codecs: Codecs {
            zstd,
            checksum: false,
        },
        fill: fill(dtype, &zarr.fill_value)?,
        key_prefix: "",
        key_separator,
    })))
}

#[derive(Deserialize)]
struct Zarr3 {
    zarr_format: u64,
    node_type: String,
    shape: Vec<u64>,
    data_type: Value,
    chunk_grid: Named,
    chunk_key_encoding: Named,
    codecs: Vec<Named>,
    #[serde(default)]
    fill_value: Value,
    #[serde(default)]
    storage_transformers: Vec<Named>,
}

#[derive(Deserialize)]
struct ChunkShape {
    chunk_shape: Vec<u64>,
}

#[derive(Deserialize)]
struct Sharding {
    chunk_shape: Vec<u64>,
    codecs: Vec<Named>,
    index_codecs: Vec<Named>,
    index_location: Option<String>,
}

/// Reads the metadata of zarr 3; nothing where it is that of a group.
pub(super) fn parse_zarr3(text: &[u8]) -> Result<Option<Parsed>, OrbaxProblem> {
    #[derive(Deserialize)]
    struct Kind {
        node_type: String,
    }
    if json::<Kind>(text)?.node_type == "group" {
        return Ok(None);
    }
    let zarr: Zarr3 = json(text)?;
    if zarr.zarr_format != 3 || zarr.node_type != "array" {
        return Err(malformed("zarr_format is not 3, or node_type not array"));
    }
    let dtype = match zarr.data_type.as_str() {
        Some("float32") => DType::F32,
        Some("float16") => DType::F16,
        Some("bfloat16") => DType::BF16,
        Some(other) => {
            let name = other.chars().take(64).collect();
            return Ok(Some(Parsed::OtherDType(name)));
        }
        None => return Ok(Some(Parsed::OtherDType("a structure".to_owned()))),
    };
    if let Some(other) = zarr.storage_transformers.into_iter().next() {
        return Err(unsupported("storage transformer", other.id, "none"));
    }
    if zarr.chunk_grid.id != "regular" {
        return Err(unsupported("chunk grid", zarr.chunk_grid.id, "regular"));
    }
    let grid: ChunkShape = configuration(zarr.chunk_grid.configuration)?;
    let outer = sizes(&grid.chunk_shape)?;
    let shape = sizes(&zarr.shape)?;
    check_sizes(dtype, &shape, &outer)?;
    let separator = zarr.chunk_key_encoding.configuration.get("separator");
    let separator = match separator.map(Value::as_str) {
        None => None,
        Some(Some("/")) => Some('/'),
        Some(Some(".")) => Some('.'),
        Some(_) => return Err(malformed("the separator of chunk keys is neither . nor /")),
    };
    let (key_prefix, key_separator) = match zarr.chunk_key_encoding.id.as_str() {
        "default" => ("c", separator.unwrap_or('/')),
        "v2" => ("", separator.unwrap_or('.')),
        other => return Err(unsupported("chunk key encoding", other, "default, v2")),
    };
    let mut metadata = Metadata {
        dtype,
        shape,
        chunk: outer.clone(),
        shard: None,
        codecs: Codecs::default(),
        fill: fill(dtype, &zarr.fill_value)?,
        key_prefix,
        key_separator,
    };
    match <[Named; 1]>::try_from(zarr.codecs) {
        Ok([only]) if only.id == "sharding_indexed" => {
            let sharding: Sharding = configuration(only.configuration)?;
            let inner = sizes(&sharding.chunk_shape)?;
            check_sizes(dtype, &metadata.shape, &inner)?;
            metadata.shard = Some(shard(&outer, &inner, &sharding)?);
            metadata.codecs = codecs(sharding.codecs)?;
            metadata.chunk = inner;
        }
        Ok([only]) => metadata.codecs = codecs(vec![only])?,
        Err(several) => metadata.codecs = codecs(several)?,
    }
    Ok(Some(Parsed::Array(Box::new(metadata))))
}

fn configuration<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, OrbaxProblem> {
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

fn shard(outer: &[usize], inner: &[usize], sharding: &Sharding) -> Result<Shard, OrbaxProblem> {
    let divide =
        |(outer, inner): (&usize, &usize)| outer.is_multiple_of(*inner).then(|| outer / inner);
    let counts: Option<Vec<usize>> = outer.iter().zip(inner).map(divide).collect();
    let index_at_end = match sharding.index_location.as_deref() {
        None | Some("end") => true,
        Some("start") => false,
        Some(other) => return Err(unsupported("index location", other, "start, end")),
    };
    let names: Vec<&str> = sharding
        .index_codecs
        .iter()
        .map(|c| c.id.as_str())
        .collect();
    let checksum = match names.as_slice() {
        ["bytes"] => false,
        ["bytes", "crc32c"] => true,
        other => {
            let known = "bytes, bytes + crc32c";
            return Err(unsupported("index codecs", other.join(" + "), known));
        }
    };
    check_endian(&sharding.index_codecs)?;
    match counts {
        Some(counts) if outer.len() == inner.len() => Ok(Shard {
            counts,
            checksum,
            index_at_end,
        }),
        _ => Err(malformed("the chunks of a shard do not divide it")),
    }
}

/// Reads a chain of codecs that begins with the elements' bytes.
fn codecs(chain: Vec<Named>) -> Result<Codecs, OrbaxProblem> {
    check_endian(&chain)?;
    let names: Vec<&str> = chain.iter().map(|codec| codec.id.as_str()).collect();
    let (zstd, checksum) = match names.as_slice() {
        ["bytes"] => (false, false),
        ["bytes", "zstd"] => (true, false),
        ["bytes", "crc32c"] => (false, true),
        ["bytes", "zstd", "crc32c"] => (true, true),
        other => {
            let known = "bytes, then zstd, then crc32c";
            return Err(unsupported("codecs", other.join(" + "), known));
        }
    };
    Ok(Codecs { zstd, checksum })
}

fn check_endian(chain: &[Named]) -> Result<(), OrbaxProblem> {
    for codec in chain.iter().filter(|codec| codec.id == "bytes") {
        match codec.configuration.get("endian").map(Value::as_str) {
            None | Some(Some("little")) => {}
            Some(other) => {
                return Err(unsupported("endian", other.unwrap_or_default(), "little"));
            }
        }
    }
    Ok(())
}

fn sizes(sizes: &[u64]) -> Result<Vec<usize>, OrbaxProblem> {
    if sizes.len() > MAX_RANK {
        return Err(malformed(format!(
            "{} dimensions, more than {MAX_RANK}",
            sizes.len()
        )));
    }
    let size = |size: &u64| usize::try_from(*size).ok();
    let counted: Option<Vec<usize>> = sizes.iter().map(size).collect();
    counted.ok_or_else(|| malformed("a size is too large"))
}

/// Checks that whatever is computed of these sizes later does not overflow.
fn check_sizes(dtype: DType, shape: &[usize], chunk: &[usize]) -> Result<(), OrbaxProblem> {
    if shape.len() != chunk.len() || chunk.contains(&0) {
        return Err(malformed(
            "the shape of chunks does not belong to that of the array",
        ));
    }
    let reach: Vec<usize> = shape
        .iter()
        .zip(chunk)
        .map(|(size, chunk)| size.max(chunk).checked_mul(2).unwrap_or(usize::MAX))
        .collect();
    match byte_len(&reach, Element::Float(dtype)) {
        Some(_) => Ok(()),
        None => Err(OrbaxProblem::ShapeTooLarge {
            shape: shape.to_vec(),
        }),
    }
}

/// The bytes of a fill value, of which an element of `dtype` takes as many as it has.
fn fill(dtype: DType, value: &Value) -> Result<[u8; 4], OrbaxProblem> {
    let number = match value {
        Value::Null => 0.0,
        Value::Number(number) => number.as_f64().unwrap_or_default(),
        Value::String(name) => match name.as_str() {
            "NaN" => f64::NAN,
            "Infinity" => f64::INFINITY,
            "-Infinity" => f64::NEG_INFINITY,
            other => return Err(unsupported("fill value", other, "a number, NaN, Infinity")),
        },
        other => {
            let known = "a number, NaN, Infinity";
            return Err(unsupported("fill value", other.to_string(), known));
        }
    };
    let mut bytes = [0; 4];
    match dtype {
        DType::F32 => bytes = (number as f32).to_le_bytes(),
        DType::F16 => bytes[..2].copy_from_slice(&half::f16::from_f64(number).to_le_bytes()),
        DType::BF16 => bytes[..2].copy_from_slice(&half::bf16::from_f64(number).to_le_bytes()),
    }
    Ok(bytes)
}
