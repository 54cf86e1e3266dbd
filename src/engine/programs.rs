//! The programs that generation and comparison need, by their shapes, and how each is compiled.

use super::buckets::{cache_bucket, prompt_bucket, prompt_chunk};
use crate::executables::SavedProgram;
use crate::model::ModelSpec;
use crate::model::programs::{self, DecodeShape, ExtendShape, PrefillShape};
use crate::pjrt::{CompileOptions, OptionValue};

/// Steps that one call of the decode program can run. Between calls the host looks at the tokens, and notices an interruption.
pub(super) const CHUNK: usize = 32;

/// The shapes, on one device, of the programs that a batch runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPrograms {
    /// Runs the prompts, or the first part of long ones.
    pub prefill: PrefillShape,
    /// Runs a further part of long prompts.
    pub extend: ExtendShape,
    /// How many further parts there are.
    pub extensions: usize,
    /// Runs the steps after them.
    pub decode: DecodeShape,
}

impl BatchPrograms {
    /// The programs for `batch` prompts over the whole mesh, the longest of `prompt_tokens` tokens, and up to `new_tokens` after
    /// each.
    pub fn new(spec: &ModelSpec, batch: usize, prompt_tokens: usize, new_tokens: usize) -> Self {
        let batch = batch.div_ceil(spec.geometry.mesh.data);
        let rows = spec.decode_rows(batch);
        // The first part takes what is over, so that the others are whole.
        let chunk = prompt_chunk(batch);
        let extensions = prompt_tokens.saturating_sub(1) / chunk;
        let prompt = prompt_bucket(prompt_tokens - extensions * chunk);
        let cache = cache_bucket(prompt + extensions * chunk + new_tokens);
        Self {
            prefill: PrefillShape {
                batch,
                prompt,
                rows,
                cache,
            },
            extend: ExtendShape {
                batch,
                chunk,
                rows,
                cache,
            },
            extensions,
            decode: DecodeShape {
                rows,
                cache,
                chunk: CHUNK,
            },
        }
    }

    /// The programs that are run, in the order of their first runs.
    pub fn keys(&self) -> impl Iterator<Item = ProgramKey> + use<> {
        let extend = (self.extensions > 0).then_some(ProgramKey::Extend(self.extend));
        std::iter::once(ProgramKey::Prefill(self.prefill))
            .chain(extend)
            .chain([ProgramKey::Decode(self.decode)])
    }

    /// Tokens of a prompt in all its parts, padding included.
    pub fn prompt(&self) -> usize {
        self.prefill.prompt + self.extensions * self.extend.chunk
    }
}

/// A program, by what it does and its shapes (those of one device).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgramKey {
    /// [`programs::prefill`].
    Prefill(PrefillShape),
    /// [`programs::extend`].
    Extend(ExtendShape),
    /// [`programs::decode`].
    Decode(DecodeShape),
    /// [`programs::forward`].
    Forward {
        /// Rows.
        batch: usize,
        /// Tokens a row.
        length: usize,
    },
}

impl ProgramKey {
    /// Lowers the program.
    ///
    /// # Errors
    /// Shapes that do not fit each other, which a checked configuration cannot make.
    pub fn lower(self, spec: &ModelSpec) -> hlo::Result<hlo::Module> {
        match self {
            ProgramKey::Prefill(shape) => programs::prefill(spec, shape),
            ProgramKey::Extend(shape) => programs::extend(spec, shape),
            ProgramKey::Decode(shape) => programs::decode(spec, shape),
            ProgramKey::Forward { batch, length } => programs::forward(spec, batch, length),
        }
    }

    /// What a manifest of executables says of the program: its name and shapes, and the hash of what is compiled.
    pub(crate) fn manifest_entry(self, program_hash: String) -> SavedProgram {
        let (program, shapes) = match self {
            ProgramKey::Prefill(shape) => (
                "prefill",
                vec![
                    ("batch", shape.batch),
                    ("prompt", shape.prompt),
                    ("rows", shape.rows),
                    ("cache", shape.cache),
                ],
            ),
            ProgramKey::Extend(shape) => (
                "extend",
                vec![
                    ("batch", shape.batch),
                    ("chunk", shape.chunk),
                    ("rows", shape.rows),
                    ("cache", shape.cache),
                ],
            ),
            ProgramKey::Decode(shape) => (
                "decode",
                vec![
                    ("rows", shape.rows),
                    ("cache", shape.cache),
                    ("chunk", shape.chunk),
                ],
            ),
            ProgramKey::Forward { batch, length } => {
                ("forward", vec![("batch", batch), ("length", length)])
            }
        };
        SavedProgram {
            program: program.to_owned(),
            shapes: shapes
                .into_iter()
                .map(|(name, size)| (name.to_owned(), size))
                .collect(),
            program_hash,
            file: String::new(),
            sha256: String::new(),
            bytes: 0,
        }
    }

    /// Positions that the program's rotation tables have.
    pub fn positions(self) -> usize {
        match self {
            ProgramKey::Prefill(shape) => shape.cache,
            ProgramKey::Extend(shape) => shape.cache,
            ProgramKey::Decode(shape) => shape.cache,
            ProgramKey::Forward { length, .. } => length,
        }
    }

    /// How it is compiled, for devices with these ids, one a replica.
    ///
    /// XLA may drop a rounding to 16 bits between two operations that it fuses ("excess precision", on by default).
    /// Flax's `generate` compiles its decode loop, and so drops them as ours does; the prompt and a plain call of the model it
    /// runs operation by operation, rounding each time. So the prefill and the compared pass round each time too: that makes
    /// them equal to Flax's to the bit, where dropping differs by a hundredth (`1 + weight` of a bfloat16 norm alone).
    pub fn compile_options(self, devices: &[i64]) -> CompileOptions {
        let overrides = match self {
            ProgramKey::Decode(_) => Vec::new(),
            ProgramKey::Prefill(_) | ProgramKey::Extend(_) | ProgramKey::Forward { .. } => vec![(
                "xla_allow_excess_precision".to_owned(),
                OptionValue::Bool(false),
            )],
        };
        CompileOptions {
            overrides,
            device_assignment: Some(devices.to_vec()),
            ..CompileOptions::with_replicas(devices.len())
        }
    }
}
