//! Whether a model fits on a slice of TPUs and what a step would cost there, found by compiling the very programs that `generate`
//! would run, on a machine that need not have a TPU.

mod chips;
mod compile;
mod error;
mod measure;
mod optimized;
mod report;
mod roofline;
mod source;
mod topologies;

pub use chips::{CHIPS, Chip};
pub use compile::TooLarge;
pub use error::{Error, Result};
pub use optimized::{Collective, Executed};
pub use report::{Largest, Memory, ParameterTotals, PerProgram, Report, Roofline};
pub use source::Source;
pub use topologies::Slice;

use crate::dtype::DType;
use crate::engine::{BatchPrograms, ProgramKey};
use crate::model::{DeviceTraits, Distribution, ModelSpec};
use crate::pjrt::Plugin;
use crate::plugin;
use crate::sharding::Mesh;
use compile::Target;
use measure::{Measured, measure};

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
    let spec = request
        .source
        .spec(request.dtype, DeviceTraits::TPU, mesh)?;
    let prompt_tokens = request.checked_prompt_tokens(&spec)?;
    let new_tokens = request.max_length - prompt_tokens;
    let programs = BatchPrograms::new(&spec, request.batch_size, prompt_tokens, new_tokens);

    let plugin = Plugin::load(&plugin::locate("tpu")?.path)?;
    let target = Target::new(&plugin, slice)?;
    let (prefill, decode) = measure_both(&target, &spec, &programs)?;
    let both = PerProgram {
        prefill: prefill.fits(),
        decode: decode.fits(),
    };
    let cycles = both.cycles();
    let roofline = Roofline::of(&spec, &programs, slice.chip);
    let distribution = Distribution::of(&spec);
    let listed = request.instructions;
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
        fits: both.prefill.is_some() && both.decode.is_some(),
        too_large: [&prefill, &decode]
            .into_iter()
            .filter_map(Measured::too_large)
            .collect(),
        memory_limit: target.memory_limit(),
        bytes_per_device: prefill.bytes().max(decode.bytes()),
        parameter_bytes_per_device: distribution.bytes_per_device,
        cache_bytes_per_device: roofline::cache_bytes(&spec, &programs),
        memory: both.map(|cost| cost.memory),
        parameters: ParameterTotals::of(distribution, mesh.data),
        estimated_seconds: PerProgram {
            prefill: cycles.prefill.map(|cycles| slice.chip.seconds(cycles)),
            decode: cycles.decode.map(|cycles| slice.chip.seconds(cycles)),
        },
        roofline_ratio: cycles
            .decode
            .map(|cycles| cycles as f64 / roofline.cycles as f64),
        estimated_cycles: cycles,
        bytes_accessed: both.of_executed(optimized::memory_bytes),
        compiler_bytes_accessed: both.map(|cost| cost.compiler_bytes_accessed),
        collectives: both.of_executed(Collective::by_kind),
        roofline,
        largest: None,
        instructions: (listed > 0)
            .then(|| both.of_executed(|executed| optimized::costliest(executed, listed))),
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
            None => {
                let half = self.max_length / 2;
                Ok(1 << half.ilog2())
            }
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

/// Compiles both programs at the same time: the compiler works on one thread each.
fn measure_both(
    target: &Target,
    spec: &ModelSpec,
    programs: &BatchPrograms,
) -> Result<(Measured, Measured)> {
    std::thread::scope(|scope| {
        let prefill = ProgramKey::Prefill(programs.prefill);
        let prefill = scope.spawn(move || measure(target, spec, prefill));
        let decode = measure(target, spec, ProgramKey::Decode(programs.decode))?;
        let prefill = prefill
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((prefill, decode))
    })
}
