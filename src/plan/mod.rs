//! Whether a model fits on a slice of TPUs and what a step would cost there, found by compiling the very programs that
//! `generate` would run, on a machine that need not have a TPU.

mod chips;
mod compile;
mod error;
mod measure;
mod optimized;
mod report;
mod roofline;
mod save;
mod search;
mod source;
mod topologies;

pub use chips::{CHIPS, Chip};
pub use compile::TooLarge;
pub use error::{Error, Result};
pub use optimized::{Collective, Executed};
pub use report::{Bounds, Largest, Memory, ParameterTotals, PerProgram, Report, Roofline};
pub use source::Source;
pub use topologies::Slice;

use std::path::PathBuf;
use std::time::Duration;

use crate::dtype::DType;
use crate::engine::BatchPrograms;
use crate::model::{Distribution, ModelSpec, Xla};
use crate::pjrt::Plugin;
use crate::plugin;
use crate::sharding::Mesh;
use compile::Target;
use measure::Measures;
use search::Search;

/// What to plan for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model.
    pub source: Source,
    /// The dtype to compute in; the model's own where none is given.
    pub dtype: Option<DType>,
    /// The name of a slice.
    pub topology: String,
    /// The devices of it that the model is split over.
    pub mesh: Mesh,
    /// Prompts in a batch, over the whole mesh.
    pub batch_size: usize,
    /// Tokens of a row at most, prompt and continuation.
    pub max_length: usize,
    /// Tokens of the longest prompt; where none is given, the largest power of two in half of the length.
    pub prompt_tokens: Option<usize>,
    /// Within this time compiles for other batches and lengths are begun, to find the largest that fit. None where it is zero.
    pub search: Duration,
    /// A folder to save the compiled programs in.
    pub save: Option<PathBuf>,
    /// How many of the costliest instructions of each program to list.
    pub instructions: usize,
}

/// Compiles the programs of the request and reports.
///
/// libtpu reads its environment when it is loaded, so what [`plugin::TPU_COMPILE_VARIABLES`] names has to be set before.
///
/// # Errors
/// A request that cannot be met, libtpu that is not there, and what the compiler says, but for want of memory: that is an answer.
pub fn plan(request: &Request) -> Result<Report> {
    let slice = Slice::named(&request.topology)?;
    let mesh = request.mesh;
    if mesh.devices() > slice.chips {
        return Err(Error::MeshTooLarge {
            mesh,
            topology: slice.name,
            devices: slice.chips,
        });
    }
    let spec = request.source.spec(request.dtype, Xla::TPU, mesh)?;
    let prompt_tokens = request.checked_prompt_tokens(&spec)?;
    let new_tokens = request.max_length - prompt_tokens;
    let programs = BatchPrograms::new(&spec, request.batch_size, prompt_tokens, new_tokens);

    let plugin = Plugin::load(&plugin::locate("tpu")?.path)?;
    let target = Target::new(&plugin, slice)?;
    let measures = Measures::of(&target, &spec, &programs)?;
    let saved = match &request.save {
        Some(folder) => Some(save::save(folder, &target, &spec, &measures)?),
        None => None,
    };
    let executed = measures.executed();
    let cycles = executed.map(|executed| optimized::cycles(executed));
    let roofline = Roofline::of(&spec, &programs, slice.chip);
    let distribution = Distribution::of(&spec);
    Ok(Report {
        model: request.source.to_string(),
        dtype: spec.compute.numpy_name(),
        topology: slice.name,
        mesh: mesh.to_string(),
        devices: mesh.devices(),
        topology_devices: target.devices(),
        topology_hosts: target.hosts(),
        compiler: target.compiler(),
        batch_size: request.batch_size,
        prompt_tokens,
        max_length: request.max_length,
        cache_length: programs.decode.cache,
        fits: measures.fits(),
        too_large: measures
            .parts()
            .iter()
            .filter_map(|part| part.measured.too_large().cloned())
            .collect(),
        memory_limit: target.memory_limit(),
        bytes_per_device: measures.bytes(),
        parameter_bytes_per_device: distribution.bytes_per_device,
        cache_bytes_per_device: roofline::cache_bytes(&spec, &programs),
        memory: measures.memory(),
        parameters: ParameterTotals::of(distribution, mesh.data),
        estimated_seconds: cycles.map(|&cycles| slice.chip.seconds(cycles)),
        roofline_ratio: cycles
            .decode
            .map(|cycles| cycles as f64 / roofline.cycles as f64),
        estimated_cycles: cycles,
        bytes_accessed: executed.map(|executed| optimized::memory_bytes(executed)),
        compiler_bytes_accessed: measures.compiler_bytes_accessed(),
        collectives: executed.map(|executed| Collective::by_kind(executed)),
        roofline,
        largest: Search::new(&target, &spec, request).run()?,
        saved,
        instructions: (request.instructions > 0)
            .then(|| executed.map(|all| optimized::costliest(all, request.instructions))),
    })
}

impl Request {
    /// The tokens of the longest prompt, and that the sizes asked for can be.
    fn checked_prompt_tokens(&self, spec: &ModelSpec) -> Result<usize> {
        let wrong = |option, problem| Err(Error::Option { option, problem });
        let positions = spec.config.max_position_embeddings;
        if self.batch_size == 0 || i32::try_from(self.batch_size).is_err() {
            let problem = format!("{} is not between 1 and {}", self.batch_size, i32::MAX);
            return wrong("--batch-size", problem);
        }
        if self.max_length < 2 || self.max_length > positions {
            let problem = format!(
                "{} is not between 2 (a token and one after it) and {positions} (max_position_embeddings)",
                self.max_length
            );
            return wrong("--max-length", problem);
        }
        match self.prompt_tokens {
            None => Ok(default_prompt_tokens(self.max_length)),
            Some(tokens) if tokens == 0 || tokens >= self.max_length => wrong(
                "--prompt-tokens",
                format!(
                    "{tokens} is not between 1 and {} (one less than --max-length)",
                    self.max_length - 1
                ),
            ),
            Some(tokens) => Ok(tokens),
        }
    }
}

/// The largest power of two in half of a length of at least 2: what remains is as long or longer, and the caches are no longer than
/// the length needs.
fn default_prompt_tokens(max_length: usize) -> usize {
    1 << (max_length / 2).max(1).ilog2()
}
