//! Reads a reference: an npz file of what another implementation computed.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};

use npyz::{DType as NpyDType, NpyFile, Order, TypeChar};
use zip::ZipArchive;

use crate::input_file::{self, Impostor};

/// A reference that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[error("{}: {problem}", path.display())]
pub struct ReferenceError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and in which array.
    pub problem: String,
}

/// What another implementation computed on a batch of B rows of S tokens.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// The file that it was read from.
    pub file: PathBuf,
    /// B.
    pub batch: usize,
    /// S.
    pub length: usize,
    /// Token ids, [B, S].
    pub input_ids: Vec<i32>,
    /// 1 for a token and 0 for padding, [B, S].
    pub attention_mask: Vec<i32>,
    /// [B, S, V], with V.
    pub logits: Option<(usize, Vec<f32>)>,
    /// L + 1 arrays [B, S, H], with H.
    pub hidden_states: Option<(usize, Vec<Vec<f32>>)>,
    /// Prompts and what was generated after them, [B, S + N], with S + N.
    pub sequences: Option<(usize, Vec<i32>)>,
    /// How it was made.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

impl Reference {
    /// Reads `path`.
    ///
    /// # Errors
    /// A file that is no npz, lacks `input_ids` or `attention_mask`, or whose arrays do not fit
    /// each other.
    pub fn read(path: &Path) -> Result<Self, ReferenceError> {
        let failed = |problem: String| ReferenceError {
            path: path.to_owned(),
            problem,
        };
        let mut file = input_file::open(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => failed("no such file".to_owned()),
            _ => failed(e.to_string()),
        })?;
        let mut head = Vec::new();
        file.by_ref()
            .take(input_file::HEAD as u64)
            .read_to_end(&mut head)
            .and_then(|_| file.rewind())
            .map_err(|e| failed(e.to_string()))?;
        if let Some(impostor) = Impostor::of(&head) {
            return Err(failed(impostor.to_string()));
        }
        let archive = ZipArchive::new(file).map_err(|e| failed(format!("not an npz file: {e}")))?;
        let read = Arrays { archive }.read().map_err(failed)?;
        Ok(Self {
            file: path.to_owned(),
            ..read
        })
    }

    /// The dtype that the reference was computed in, where its metadata says.
    pub fn dtype(&self) -> Option<crate::dtype::DType> {
        self.metadata.get("dtype")?.as_str()?.parse().ok()
    }

    /// The prompt of a row: its ids without padding.
    pub fn prompt(&self, row: usize) -> Vec<u32> {
        let range = row * self.length..(row + 1) * self.length;
        self.input_ids[range.clone()]
            .iter()
            .zip(&self.attention_mask[range])
            .filter(|&(_, &mask)| mask != 0)
            .map(|(&id, _)| id as u32)
            .collect()
    }
}

struct Arrays {
    archive: ZipArchive<File>,
}

type Parsed<T> = Option<(Vec<usize>, Vec<T>)>;

impl Arrays {
    fn read(mut self) -> Result<Reference, String> {
        let (dims, input_ids) = self.integers("input_ids")?.ok_or("has no input_ids")?;
        let [batch, length] = dims[..] else {
            return Err(format!("input_ids has shape {dims:?}, expected [B, S]"));
        };
        if batch == 0 || length == 0 {
            return Err(format!("input_ids has shape {dims:?}, which is empty"));
        }
        let (mask_dims, attention_mask) = self
            .integers("attention_mask")?
            .ok_or("has no attention_mask")?;
        if mask_dims != dims {
            return Err(format!(
                "attention_mask has shape {mask_dims:?}, expected {dims:?} as input_ids"
            ));
        }
        let logits = match self.floats("logits")? {
            None => None,
            Some((found, values)) => match found[..] {
                [b, s, vocab] if [b, s] == [batch, length] && vocab > 0 => Some((vocab, values)),
                _ => {
                    return Err(format!(
                        "logits has shape {found:?}, expected [{batch}, {length}, V]"
                    ));
                }
            },
        };
        let hidden_states = match self.floats("hidden_states")? {
            None => None,
            Some((found, values)) => match found[..] {
                [_, b, s, hidden] if [b, s] == [batch, length] && hidden > 0 => {
                    let layers = values.chunks_exact(batch * length * hidden);
                    Some((hidden, layers.map(<[f32]>::to_vec).collect()))
                }
                _ => {
                    return Err(format!(
                        "hidden_states has shape {found:?}, expected [L+1, {batch}, {length}, H]"
                    ));
                }
            },
        };
        let sequences = match self.integers("sequences")? {
            None => None,
            Some((found, values)) => match found[..] {
                [b, total] if b == batch && total >= length => Some((total, values)),
                _ => {
                    return Err(format!(
                        "sequences has shape {found:?}, expected [{batch}, {length} + N]"
                    ));
                }
            },
        };
        Ok(Reference {
            file: PathBuf::new(),
            batch,
            length,
            input_ids,
            attention_mask,
            logits,
            hidden_states,
            sequences,
            metadata: self.metadata()?,
        })
    }

    /// The array `name`, unless there is none: its header checked, its elements still to be read.
    fn open(&mut self, name: &str) -> Result<Option<NpyFile<impl Read>>, String> {
        let member = format!("{name}.npy");
        if self.archive.index_for_name(&member).is_none() {
            return Ok(None);
        }
        let problem = |e: &dyn std::fmt::Display| format!("{name}: {e}");
        let entry = self.archive.by_name(&member).map_err(|e| problem(&e))?;
        let size = entry.size();
        let array = NpyFile::new(entry).map_err(|e| problem(&e))?;
        if array.order() != Order::C {
            return Err(format!("{name} is in Fortran order, expected C order"));
        }
        // A header may claim any shape: hold it against the bytes that there are.
        let bytes = array
            .shape()
            .iter()
            .try_fold(1_u64, |n, &d| n.checked_mul(d))
            .zip(array.dtype().num_bytes())
            .and_then(|(n, width)| n.checked_mul(width as u64));
        if bytes.is_none_or(|bytes| bytes > size) {
            return Err(format!(
                "{name} has shape {:?}, but only {size} bytes",
                array.shape()
            ));
        }
        Ok(Some(array))
    }

    fn integers(&mut self, name: &str) -> Result<Parsed<i32>, String> {
        let Some(array) = self.open(name)? else {
            return Ok(None);
        };
        let dims = array.shape().iter().map(|&d| d as usize).collect();
        let problem = |e: std::io::Error| format!("{name}: {e}");
        let values = match scalar_type(&array.dtype()) {
            Some((TypeChar::Int, 4)) => array.into_vec::<i32>().map_err(problem)?,
            Some((TypeChar::Int, 8)) => array
                .into_vec::<i64>()
                .map_err(problem)?
                .into_iter()
                .map(|x| i32::try_from(x).map_err(|_| format!("{name} has {x}, which is no int32")))
                .collect::<Result<_, _>>()?,
            _ => {
                return Err(format!(
                    "{name} has dtype {}, expected int32",
                    array.dtype().descr()
                ));
            }
        };
        Ok(Some((dims, values)))
    }

    fn floats(&mut self, name: &str) -> Result<Parsed<f32>, String> {
        let Some(array) = self.open(name)? else {
            return Ok(None);
        };
        let dims = array.shape().iter().map(|&d| d as usize).collect();
        let problem = |e: std::io::Error| format!("{name}: {e}");
        let values = match scalar_type(&array.dtype()) {
            Some((TypeChar::Float, 4)) => array.into_vec::<f32>().map_err(problem)?,
            Some((TypeChar::Float, 8)) => array
                .into_vec::<f64>()
                .map_err(problem)?
                .into_iter()
                .map(|x| x as f32)
                .collect(),
            Some((TypeChar::Float, 2)) => array
                .into_vec::<half::f16>()
                .map_err(problem)?
                .into_iter()
                .map(half::f16::to_f32)
                .collect(),
            _ => {
                return Err(format!(
                    "{name} has dtype {}, expected float32",
                    array.dtype().descr()
                ));
            }
        };
        Ok(Some((dims, values)))
    }

    fn metadata(&mut self) -> Result<serde_json::Map<String, serde_json::Value>, String> {
        let Some(array) = self.open("metadata")? else {
            return Ok(serde_json::Map::new());
        };
        let problem = |e: &dyn std::fmt::Display| format!("metadata: {e}");
        let strings = array.into_vec::<String>().map_err(|e| problem(&e))?;
        let text = strings.first().ok_or("metadata is empty")?;
        serde_json::from_str(text).map_err(|e| problem(&e))
    }
}

/// Kind and size of the elements of a plain dtype.
fn scalar_type(dtype: &NpyDType) -> Option<(TypeChar, u64)> {
    match dtype {
        NpyDType::Plain(plain) => Some((plain.type_char(), plain.size_field())),
        _ => None,
    }
}
