//! How a model is loaded.

use std::path::PathBuf;

use super::generation::GenerateOptions;
use super::session_options::SessionOptions;
use crate::compile_cache::CompileCache;
use crate::dtype::DType;
use crate::sharding::Mesh;

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
