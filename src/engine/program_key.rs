//! The programs that generation and comparison need, by their shapes, and how each is compiled.

use super::buckets::{cache_bucket, prompt_bucket, prompt_chunk};
use super::choice::Chooser;
use crate::executables::SavedProgram;
use crate::model::programs::{
    self, Admit, AdmitScored, Decode, Extend, Forward, Prefill, Program, Score, Step,
};
use crate::model::{Choice, ModelSpec};
use crate::pjrt::{CompileOptions, OptionValue};
use crate::sampling::SamplingOptions;

/// Steps that one call of the decode program can run. Between calls the host looks at the tokens,
/// and notices an interruption.
pub(super) const CHUNK: usize = 32;

/// The shapes, on one device, of the programs that a batch runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPrograms {
    /// Runs the prompts, or the first part of long ones.
    pub prefill: Prefill,
    /// Runs a further part of long prompts.
    pub extend: Extend,
    /// How many further parts there are.
    pub extensions: usize,
    /// Runs the steps after them.
    pub decode: Decode,
}

impl BatchPrograms {
    /// The programs for `batch` prompts over the whole mesh, the longest of `prompt_tokens` tokens,
    /// and up to `new_tokens` after each.
    pub fn new(spec: &ModelSpec, batch: usize, prompt_tokens: usize, new_tokens: usize) -> Self {
        let batch = batch.div_ceil(spec.mesh.data);
        let rows = spec.decode_rows(batch);
        // The first part takes what is over, so that the others are whole.
        let chunk = prompt_chunk(batch);
        let extensions = prompt_tokens.saturating_sub(1) / chunk;
        let prompt = prompt_bucket(prompt_tokens - extensions * chunk);
        let columns = prompt + extensions * chunk;
        let cache = cache_bucket(columns + new_tokens);
        Self {
            prefill: Prefill {
                batch,
                prompt,
                rows,
                cache,
                choice: Choice::GREEDY,
            },
            extend: Extend {
                batch,
                chunk,
                rows,
                cache,
                reach: prompt_bucket(columns).min(cache),
                choice: Choice::GREEDY,
            },
            extensions,
            decode: Decode {
                rows,
                cache,
                chunk: CHUNK,
                choice: Choice::GREEDY,
            },
        }
    }

    /// The same with another way to choose tokens.
    pub fn choosing(mut self, choice: Choice) -> Self {
        self.prefill.choice = choice;
        self.extend.choice = choice;
        self.decode.choice = choice;
        self
    }

    /// The same with the choice of tokens that these options need, which must have been
    /// [validated](SamplingOptions::validate).
    pub fn sampling(self, spec: &ModelSpec, options: &SamplingOptions) -> Self {
        self.choosing(Chooser::new(spec, options).choice())
    }

    /// The programs that are run, in the order of their first runs.
    pub fn keys(&self) -> impl Iterator<Item = ProgramKey> + use<> {
        let extend = (self.extensions > 0).then_some(self.extend.into());
        std::iter::once(self.prefill.into())
            .chain(extend)
            .chain([self.decode.into()])
    }

    /// Tokens of a prompt in all its parts, padding included.
    pub fn prompt(&self) -> usize {
        self.prefill.prompt + self.extensions * self.extend.chunk
    }
}

/// Declares the key and passes each of its questions to the program.
macro_rules! program_keys {
    ($($name:ident,)*) => {
        /// A program, by what it does and its shapes (those of one device).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProgramKey {
            $(
                #[doc = concat!("[`programs::", stringify!($name), "`].")]
                $name($name),
            )*
        }

        $(
            impl From<$name> for ProgramKey {
                fn from(program: $name) -> Self {
                    Self::$name(program)
                }
            }
        )*

        impl ProgramKey {
            /// Lowers the program.
            ///
            /// # Errors
            /// Shapes that do not fit each other, which a checked configuration cannot make.
            pub fn lower(self, spec: &ModelSpec) -> hlo::Result<hlo::Module> {
                match self {
                    $(Self::$name(program) => programs::module(&program, spec),)*
                }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name(_) => $name::NAME,)*
                }
            }

            /// Its sizes by name.
            pub fn sizes(self) -> Vec<(&'static str, usize)> {
                match self {
                    $(Self::$name(program) => program.sizes(),)*
                }
            }

            /// Positions that the tables of its rotary embeddings have.
            pub fn positions(self) -> usize {
                match self {
                    $(Self::$name(program) => program.positions(),)*
                }
            }

            /// Which caches it takes and gives.
            pub(super) fn caches(self) -> programs::Caches {
                match self {
                    $(Self::$name(program) => program.caches(),)*
                }
            }

            fn excess_precision(self) -> bool {
                match self {
                    $(Self::$name(program) => program.excess_precision(),)*
                }
            }
        }
    };
}

program_keys! {
    Prefill,
    Extend,
    Decode,
    Forward,
    Admit,
    AdmitScored,
    Step,
    Score,
}

impl ProgramKey {
    /// What a manifest of executables says of the program: its name and shapes, and the hash of
    /// what is compiled.
    pub(crate) fn manifest_entry(self, program_hash: String) -> SavedProgram {
        let sizes = self.sizes().into_iter();
        SavedProgram {
            program: self.name().to_owned(),
            shapes: sizes.map(|(name, size)| (name.to_owned(), size)).collect(),
            program_hash,
            file: String::new(),
            sha256: String::new(),
            bytes: 0,
        }
    }

    /// How it is compiled, for devices with these ids, one a replica.
    pub fn compile_options(self, spec: &ModelSpec, devices: &[i64]) -> CompileOptions {
        let mut overrides = Vec::new();
        let mut add = |options: &[(&str, &str)]| {
            overrides.extend(options.iter().map(|&(name, value)| {
                let value = OptionValue::String(value.to_owned());
                (name.to_owned(), value)
            }));
        };
        add(spec.ops.compile_options());
        if !self.excess_precision() {
            add(spec.ops.rounding_options(spec.compute));
            let name = "xla_allow_excess_precision".to_owned();
            overrides.push((name, OptionValue::Bool(false)));
        }
        CompileOptions {
            overrides,
            device_assignment: Some(devices.to_vec()),
            ..CompileOptions::with_replicas(devices.len())
        }
    }
}
