//! How a model is loaded, and how large a session is.

use std::path::PathBuf;

use super::buckets::cache_bucket;
use super::generation::GenerateOptions;
use crate::compile_cache::CompileCache;
use crate::dtype::DType;
use crate::model::ModelSpec;
use crate::sampling::SamplingOptions;
use crate::sharding::Mesh;

/// The shortest part of a prompt that a session's program is compiled for.
pub(super) const SHORTEST_PART: usize = 16;

/// What an engine is loaded for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Workload {
    /// [`Engine::generate`](super::Engine::generate) after prompts of so many tokens each. Where
    /// they fit in one batch, its programs are compiled before the checkpoint is read, and what the
    /// compiler says of their temporaries counts too.
    Prompts(Vec<usize>, GenerateOptions),
    /// [`Engine::generate_jobs`](super::Engine::generate_jobs), the first prompts of so many tokens
    /// each. They run in a session, whose caches count.
    Jobs(Vec<usize>, GenerateOptions),
    /// A session of this size.
    Session(SessionOptions),
}

/// How an [`Engine`](super::Engine) is made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The dtype to compute in; the checkpoint's own where none is given.
    pub dtype: Option<DType>,
    /// `cpu` (the default), `tpu`, `cuda`, or the path of a PJRT plugin.
    pub device: String,
    /// How many devices a CPU client is to have; as many as the mesh needs where none is given.
    pub devices: Option<usize>,
    /// The devices that the model is split over; by default one.
    pub mesh: Mesh,
    /// Where compiled programs are kept between runs; by default where the environment says.
    pub compile_cache: CompileCache,
    /// A folder of executables to load instead of compiling: what `plan --save` or
    /// [`Engine::save_executables`](super::Engine::save_executables) wrote.
    pub executables: Option<PathBuf>,
    /// What will be run, where that is known: what it takes of memory is then held against what
    /// there is before the checkpoint is read.
    pub workload: Option<Workload>,
    /// Whether rows continue past an end-of-sequence token, for measuring: the programs then know
    /// of none.
    pub ignore_eos: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            dtype: None,
            device: "cpu".into(),
            devices: None,
            mesh: Mesh::SINGLE,
            compile_cache: CompileCache::from_environment(),
            executables: None,
            workload: None,
            ignore_eos: false,
        }
    }
}

/// The size of a session, and how it chooses tokens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Rows over the whole mesh, at least 1; rounded up to a multiple of the mesh's data axis. By
    /// default 8.
    pub rows: usize,
    /// Tokens of a row at most, prompt and continuation; by default 1024, or what the model has
    /// positions for.
    pub max_length: usize,
    /// Tokens of a prompt that are run at once, at most; by default 64.
    pub prefill_chunk: usize,
    /// How tokens are chosen where an admission does not say; greedily by default. Its stop texts
    /// and number of replies are for whoever admits prompts.
    pub sampling: SamplingOptions,
    /// Whether admissions may have sampling options, scores and sets of allowed tokens of their
    /// own, which takes more programs. Not by default.
    pub own_sampling: bool,
    /// Whether a prompt gets the free row that has most of its beginning, which is then not run
    /// again. Not by default: a prompt's keys and values are then rounded as those of the reply
    /// that computed them, so that in 16 bits its tokens can depend on what came before.
    pub reuse_prefixes: bool,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            rows: 8,
            max_length: 1024,
            prefill_chunk: 64,
            sampling: SamplingOptions::default(),
            own_sampling: false,
            reuse_prefixes: false,
        }
    }
}

/// What a session has on each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub rows_on_device: usize,
    pub max_length: usize,
    pub chunk: usize,
    pub cache: usize,
}

impl SessionOptions {
    pub(super) fn size(&self, spec: &ModelSpec) -> Size {
        let max_length = self.max_length.min(spec.config.max_position_embeddings());
        let chunk = self.prefill_chunk.next_power_of_two().clamp(
            SHORTEST_PART,
            max_length.next_power_of_two().max(SHORTEST_PART),
        );
        Size {
            rows_on_device: spec.decode_rows(self.rows.div_ceil(spec.mesh.data)),
            max_length,
            chunk,
            cache: cache_bucket(max_length + chunk),
        }
    }
}
