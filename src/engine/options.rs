//! How a model is loaded.

use std::path::PathBuf;

use crate::compile_cache::CompileCache;
use crate::dtype::DType;
use crate::sharding::Mesh;

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
            ignore_eos: false,
        }
    }
}
