//! Whether a model fits on a slice of TPUs and what a step would cost there, found by compiling the
//! very programs that `generate` would run, on a machine that need not have a TPU.

mod bound;
mod chips;
mod compile;
mod error;
mod measure;
mod mesh_search;
mod model_source;
mod optimized;
mod per_program;
mod record;
mod report;
mod save;
mod search;
mod throughput;
mod too_large;
mod topologies;

pub use bound::{Bound, CallBound, Limit, Roofline};
pub use chips::{CHIPS, Chip};
pub use compile::CompileEvent;
pub use error::{Error, Result};
pub use model_source::ModelSource;
pub use optimized::{Collective, Executed, ScopeCost};
pub use per_program::PerProgram;
pub use report::{
    Bounds, CacheCopy, DrawCost, Largest, Memory, ParameterTotals, Report, SmallestMesh,
};
pub use throughput::{Cost, Throughput};
pub use too_large::TooLarge;
pub use topologies::TpuSlice;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::compile_cache::CompileCache;
use crate::dtype::DType;
use crate::engine::{self, BatchPrograms};
use crate::model::{Distribution, ModelSpec};
use crate::pjrt::Plugin;
use crate::plugin;
use crate::sampling::SamplingOptions;
use crate::sharding::Mesh;
use compile::Target;
use measure::Measures;
use mesh_search::MeshSearch;
use search::Search;
use throughput::Workload;

/// What to plan for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The model.
    pub source: ModelSource,
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
    /// Tokens of the longest prompt; where none is given, the largest power of two in half of the
    /// length.
    pub prompt_tokens: Option<usize>,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// The price of a chip for an hour, from which costs of tokens are computed.
    pub price: Option<f64>,
    /// Compiles for other batches, lengths and meshes start within this time, to find what
    /// fits. None where it is zero.
    pub search: Duration,
    /// A folder to save the compiled programs in.
    pub save: Option<PathBuf>,
    /// How many of the costliest instructions of each program to list.
    pub instructions: usize,
    /// Where the compiler's answers are kept between plans.
    pub compile_cache: CompileCache,
}

/// Compiles the programs of the request and reports. `progress` is told of each program that the
/// compiler works on; those in the cache need no compiler.
///
/// libtpu reads its environment when it is loaded, so the variables in
/// [`plugin::TPU_COMPILE_VARIABLES`] have to be set before.
///
/// # Errors
/// A request that cannot be met, libtpu that is not there, and what the compiler says, but for want
/// of memory: that is an answer.
pub fn plan(request: &Request, progress: &(dyn Fn(CompileEvent<'_>) + Sync)) -> Result<Report> {
    let slice = TpuSlice::named(&request.topology)?;
    let mesh = request.mesh;
    if mesh.devices() > slice.chips {
        return Err(Error::MeshTooLarge {
            mesh,
            topology: slice.name,
            devices: slice.chips,
        });
    }
    let spec = request.source.spec(request.dtype, slice.chip.ops(), mesh)?;
    let prompt_tokens = request.checked_prompt_tokens(&spec)?;
    let new_tokens = request.max_length - prompt_tokens;
    request
        .sampling
        .validate(spec.config.vocab_size(), new_tokens)
        .map_err(engine::Error::from)?;
    let programs = request.programs(&spec, request.batch_size, prompt_tokens, new_tokens);

    let plugin = Plugin::open(&plugin::locate("tpu")?.checked()?.file, &[])?;
    let target = Target::new(
        &plugin,
        slice,
        &request.compile_cache,
        progress,
        request.save.is_some(),
    )?;
    let measures = Measures::of(&target, &spec, &programs)?;
    let saved = match &request.save {
        Some(folder) => Some(save::save(folder, &target, &spec, &measures)?),
        None => None,
    };
    let searches = request.search(&target, &spec, measures.fits(), prompt_tokens)?;

    let decode = measures.decode();
    let roofline = Roofline::of(&spec, &programs, slice.chip);
    let call = decode.as_ref().and_then(|decode| {
        Some(CallBound {
            steps: programs.decode.chunk,
            bound: Bound::of(&decode.call, 0, slice.chip)?,
        })
    });
    let costs = PerProgram {
        prefill: measures.prefill(),
        decode: decode.map(|decode| decode.step),
    };
    let bound = PerProgram {
        prefill: costs.prefill.as_ref().map(|costs| (costs, 0)),
        decode: costs.decode.as_ref().map(|costs| (costs, roofline.bytes)),
    }
    .and_then(|(costs, least_bytes)| Bound::of(costs, least_bytes, slice.chip));
    let draw = match request.sampling.is_greedy() {
        true => None,
        false => costs
            .decode
            .as_ref()
            .map(|step| DrawCost::of(step, slice.chip)),
    };
    let cycles = costs.map(|costs| costs.cycles()).and_then(|sum| sum);
    let memory = measures.memory();
    let cache_bytes = bound::cache_bytes(&spec, &programs);
    let distribution = Distribution::of(&spec);
    let workload = Workload {
        model: spec.gemma.spec(),
        mesh,
        slice,
        devices: target.devices(),
        batch_size: request.batch_size,
        prompt_tokens,
        price: request.price,
    };
    let listed = request.instructions > 0;
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
        cache_bytes_per_device: cache_bytes,
        cache_bytes_saved_by_windows: bound::cache_bytes_saved(&spec, &programs),
        temporaries_per_cache: memory
            .map(|memory| memory.temporaries as f64 / cache_bytes.max(1) as f64),
        memory,
        cache_copies: measures.cache_copies(|executed| executed.cache_copy.as_ref()),
        cache_write_backs: measures.cache_copies(|executed| executed.cache_write_back.as_ref()),
        parameters: ParameterTotals::of(distribution, mesh.data),
        estimated_seconds: cycles.map(|&cycles| slice.chip.seconds(cycles)),
        estimated_cycles: cycles,
        unknown: costs.map(optimized::Costs::unknown),
        bytes_accessed: costs.map(|costs| costs.memory_bytes()).and_then(|sum| sum),
        compiler_bytes_accessed: measures.compiler_bytes_accessed(),
        collectives: costs.map(|costs| costs.collectives()).and_then(|sum| sum),
        roofline_ratio: bound
            .decode
            .map(|bound| bound.cycles as f64 / roofline.cycles.max(1) as f64),
        throughput: workload.throughput(&bound, call.as_ref()),
        bound,
        draw,
        decode_call: call,
        roofline,
        largest: searches.largest,
        smallest_mesh: searches.smallest_mesh,
        saved,
        instructions: listed
            .then(|| costs.map(|all| optimized::costliest(all, request.instructions))),
        scopes: listed.then(|| costs.map(optimized::by_scope)),
    })
}

/// What searches found.
#[derive(Default)]
struct Searches {
    largest: Option<Largest>,
    smallest_mesh: Option<SmallestMesh>,
}

impl Request {
    /// The programs for `batch` prompts, the longest of `prompt_tokens` tokens, and up to
    /// `new_tokens` after each.
    fn programs(
        &self,
        spec: &ModelSpec,
        batch: usize,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> BatchPrograms {
        BatchPrograms::new(spec, batch, prompt_tokens, new_tokens).sampling(spec, &self.sampling)
    }

    /// Looks for other sizes and meshes that fit. Without time for it, the smallest mesh is
    /// still looked for among the bytes of parameters and caches.
    fn search(
        &self,
        target: &Target<'_>,
        spec: &ModelSpec,
        fits: bool,
        prompt_tokens: usize,
    ) -> Result<Searches> {
        let now = Instant::now();
        let deadline = now.checked_add(self.search).unwrap_or(now);
        let mut found = Searches::default();
        if !fits {
            let search = MeshSearch {
                target,
                request: self,
                slice: TpuSlice::named(&self.topology)?,
                prompt_tokens,
                deadline,
            };
            found.smallest_mesh = Some(search.run()?);
        }
        if self.search > Duration::ZERO {
            let search = Search {
                target,
                spec,
                request: self,
                fits,
                deadline,
            };
            found.largest = Some(search.run()?);
        }
        Ok(found)
    }

    /// The tokens of the longest prompt.
    ///
    /// # Errors
    /// A size that cannot be.
    fn checked_prompt_tokens(&self, spec: &ModelSpec) -> Result<usize> {
        let wrong = |argument, problem| Err(Error::Argument { argument, problem });
        let positions = spec.config.max_position_embeddings();
        if self.batch_size == 0 || i32::try_from(self.batch_size).is_err() {
            let problem = format!("{} is not between 1 and {}", self.batch_size, i32::MAX);
            return wrong("batch_size", problem);
        }
        if self.max_length < 2 || self.max_length > positions {
            let problem = format!(
                "{} is not between 2 (a token and one after it) and {positions} \
                 (max_position_embeddings)",
                self.max_length
            );
            return wrong("max_length", problem);
        }
        if let Some(price) = self.price
            && !(price.is_finite() && price >= 0.0)
        {
            return wrong("price", format!("{price} is not a price"));
        }
        match self.prompt_tokens {
            None => Ok(default_prompt_tokens(self.max_length)),
            Some(tokens) if tokens == 0 || tokens >= self.max_length => wrong(
                "prompt_tokens",
                format!(
                    "{tokens} is not between 1 and {} (one less than max_length)",
                    self.max_length - 1
                ),
            ),
            Some(tokens) => Ok(tokens),
        }
    }
}

/// The largest power of two in half of a length of at least 2: what remains is as long or longer,
/// and the caches are no longer than the length needs.
fn default_prompt_tokens(max_length: usize) -> usize {
    1 << (max_length / 2).max(1).ilog2()
}
