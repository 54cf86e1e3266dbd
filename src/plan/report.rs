//! The report of a plan.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bound::{Bound, CallBound, Roofline};
use super::chips::Chip;
use super::optimized::{Collective, Costs, Executed, Relayout, ScopeCost, by_scope};
use super::per_program::PerProgram;
use super::throughput::Throughput;
use super::too_large::TooLarge;
use crate::model::{Distribution, Replicated};

/// The answer to one question of fit and cost. All bytes are those of one device unless a name says
/// otherwise.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The model's folder or name.
    pub model: String,
    /// numpy's name of the dtype that it computes in.
    pub dtype: &'static str,
    /// The slice.
    pub topology: &'static str,
    /// The mesh.
    pub mesh: String,
    /// Devices of the mesh.
    pub devices: usize,
    /// Devices of the slice.
    pub topology_devices: usize,
    /// Hosts of the slice.
    pub topology_hosts: usize,
    /// What the compiler calls itself.
    pub compiler: String,
    /// Prompts in a batch, over the whole mesh.
    pub batch_size: usize,
    /// Tokens of the longest prompt.
    pub prompt_tokens: usize,
    /// Tokens of a row at most, prompt and continuation.
    pub max_length: usize,
    /// Length of the caches that these need.
    pub cache_length: usize,
    /// Whether all programs fit.
    pub fits: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub too_large: Vec<TooLarge>,
    /// Bytes of a device's memory that programs can have.
    pub memory_limit: Option<u64>,
    /// What the larger of the programs takes: arguments, results that take no argument's place,
    /// temporaries and code; where it does not fit, what the compiler says it would take.
    pub bytes_per_device: Option<u64>,
    /// Bytes of the parameters.
    pub parameter_bytes_per_device: u64,
    /// Bytes of the caches.
    pub cache_bytes_per_device: u64,
    /// What the caches would take beyond that if layers with a window kept all tokens.
    pub cache_bytes_saved_by_windows: u64,
    /// What each program takes; of several that run the prompts, the largest.
    pub memory: PerProgram<Memory>,
    /// Temporaries over the bytes of the caches. Close to 1 where a program copies its caches.
    pub temporaries_per_cache: PerProgram<f64>,
    /// Copies of whole caches within the chip's memory; there should be none.
    pub cache_copies: Vec<CacheCopy>,
    /// Whole caches that are written back to the chip's memory, after they were fetched to the core
    /// and a token was written there. Writing a token in place would be less.
    pub cache_write_backs: Vec<CacheCopy>,
    /// The parameters over all devices.
    pub parameters: ParameterTotals,
    /// Sum of the compiler's estimates: over the whole prefill, in as many parts as `generate`
    /// runs, and over one decode step. Loops count by their trips, a conditional by its costliest
    /// branch. Transfers that overlap the computation carry no estimate. None where a part of
    /// the sum is not known.
    pub estimated_cycles: PerProgram<u64>,
    /// The same at the chip's clock, in seconds. Not the time that it takes: see `bound`.
    pub estimated_seconds: PerProgram<f64>,
    /// Why the sum of a program that fits is not known.
    pub unknown: PerProgram<Vec<String>>,
    /// Bytes that the prefill, and one decode step, read from and write to the chip's memory:
    /// operands and results that lie there, slices and updates by their own size, loops by their
    /// trips.
    pub bytes_accessed: PerProgram<u64>,
    /// What the compiler's own cost analysis says of the same. It counts a loop's body once however
    /// often it runs, and a parameter that is fetched to the core ahead of its use twice.
    pub compiler_bytes_accessed: PerProgram<u64>,
    /// Collectives of the prefill, and of one decode step, by kind.
    pub collectives: PerProgram<BTreeMap<&'static str, Collective>>,
    /// The least time of the prefill and of one decode step: the greater of the estimate and of
    /// reading and writing the bytes at the chip's bandwidth.
    pub bound: PerProgram<Bound>,
    /// What a decode step spends on drawing its tokens, where they are drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draw: Option<DrawCost>,
    /// What a call of the decode program costs apart from its steps.
    pub decode_call: Option<CallBound>,
    /// The least that any program could take for a decode step: reading what it must.
    pub roofline: Roofline,
    /// The bound of a decode step over the roofline: 1 or more.
    pub roofline_ratio: Option<f64>,
    /// Tokens a second at the bounds; none where a bound is not known.
    pub throughput: Throughput,
    /// What would fit, where that was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest: Option<Largest>,
    /// Where it does not fit: the smallest mesh that would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smallest_mesh: Option<SmallestMesh>,
    /// The manifest of the executables, where they were saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<PathBuf>,
    /// The costliest instructions, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<PerProgram<Vec<Executed>>>,
    /// Sums by the model's scopes, where instructions were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<PerProgram<Vec<ScopeCost>>>,
}

/// What drawing the tokens of a decode step costs: the instructions of the scope `draw`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DrawCost {
    /// The sum of the compiler's estimates, in cycles; of those instructions that have one.
    pub cycles: u64,
    /// The same at the chip's clock, in seconds.
    pub seconds: f64,
    /// Its share of the estimates of the whole step.
    pub share: f64,
    /// Bytes read from and written to the chip's memory.
    pub memory_bytes: u64,
    /// The instructions that take time and have no estimate, with their shapes. libtpu gives none
    /// for a sort.
    pub unestimated: Vec<String>,
}

impl DrawCost {
    pub(super) fn of(step: &Costs, chip: &Chip) -> Self {
        let in_draw = |scope: &str| scope.split('/').any(|part| part == "draw");
        let is_draw = |sum: &&ScopeCost| sum.scope.as_deref().is_some_and(in_draw);
        let unestimated = step
            .executed
            .iter()
            .filter(|executed| executed.unestimated && in_draw(&executed.source));
        let scopes = by_scope(step);
        let all: u64 = scopes.iter().map(|sum| sum.cycles).sum();
        let cycles = scopes.iter().filter(is_draw).map(|sum| sum.cycles).sum();
        Self {
            cycles,
            seconds: chip.seconds(cycles),
            share: cycles as f64 / all.max(1) as f64,
            unestimated: unestimated
                .map(|executed| format!("{} {}", executed.name, executed.shape))
                .collect(),
            memory_bytes: scopes
                .iter()
                .filter(is_draw)
                .map(|sum| sum.memory_bytes)
                .sum(),
        }
    }
}

/// Copies of whole caches that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheCopy {
    /// The program: `prefill`, `extend` or `decode`.
    pub program: &'static str,
    /// When they are executed: in each `call` of the program, in each `step` of a decode loop, or
    /// in each `trip` of another loop.
    pub per: &'static str,
    /// How many are executed then.
    pub count: u64,
    /// The instruction, or the first of them.
    pub name: String,
    /// Their opcode.
    pub opcode: String,
    /// Their result's type and dimensions.
    pub shape: String,
    /// The layout that they read.
    pub from: String,
    /// The layout that they write.
    pub to: String,
    /// Bytes that they read from and write to the chip's memory together.
    pub bytes: u64,
}

impl CacheCopy {
    /// Adds the copy that an instruction makes, if it makes one, to those that are like it.
    pub(super) fn add(
        found: &mut Vec<Self>,
        executed: &Executed,
        relayout: Option<&Relayout>,
        program: &'static str,
        per: &'static str,
    ) {
        let Some(Relayout { from, to }) = relayout else {
            return;
        };
        let bytes = executed.memory_bytes.saturating_mul(executed.times);
        let alike = found.iter_mut().find(|copy| {
            (copy.program, copy.per) == (program, per)
                && (&copy.opcode, &copy.shape) == (&executed.opcode, &executed.shape)
                && (&copy.from, &copy.to) == (from, to)
        });
        match alike {
            Some(copy) => {
                copy.count = copy.count.saturating_add(executed.times);
                copy.bytes = copy.bytes.saturating_add(bytes);
            }
            None => found.push(Self {
                program,
                per,
                count: executed.times,
                name: executed.name.clone(),
                opcode: executed.opcode.clone(),
                shape: executed.shape.clone(),
                from: from.clone(),
                to: to.clone(),
                bytes,
            }),
        }
    }
}

/// What a program takes on a device, in bytes, as the compiler says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Parameters, caches and inputs.
    pub arguments: u64,
    /// Results.
    pub outputs: u64,
    /// The part of the results that takes the place of arguments.
    pub aliased: u64,
    /// What it needs beyond these while it runs.
    pub temporaries: u64,
    /// The program itself.
    pub code: u64,
    /// All of these.
    pub total: u64,
}

/// The parameters over all devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParameterTotals {
    /// Bytes of the model, each element once.
    pub model_bytes: u64,
    /// Bytes over the devices of one group, which share the model.
    pub group_bytes: u64,
    /// Bytes over all devices: each group of the data axis has a copy.
    pub all_devices_bytes: u64,
    /// By how much a group's bytes are more than the model's, as a part of the model's.
    pub excess: f64,
    /// What is held more than once in a group, or padded.
    pub replicated: Vec<Replicated>,
}

impl ParameterTotals {
    pub(super) fn of(distribution: Distribution, groups: usize) -> Self {
        Self {
            model_bytes: distribution.model_bytes,
            group_bytes: distribution.bytes_per_group,
            all_devices_bytes: distribution.bytes_per_group * groups as u64,
            excess: distribution.excess,
            replicated: distribution.replicated,
        }
    }
}

/// What would fit, found by compiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Largest {
    /// Prompts in a batch, at the length asked for.
    pub batch_size: Bounds,
    /// Tokens of a row, at the batch asked for; the lengths are those that caches come in.
    pub max_length: Bounds,
}

/// What is known to fit, and what not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bounds {
    /// The most that is known to fit; none where nothing is.
    pub fits: Option<usize>,
    /// The least that is known not to, or that cannot be asked for; none where everything fits.
    pub too_large: Option<usize>,
    /// Whether nothing lies between the two. Else the search ran out of time.
    pub exact: bool,
}

/// The smallest mesh that a request which does not fit would fit on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub enum SmallestMesh {
    /// This one fits: its programs were compiled.
    Fits {
        /// The mesh.
        mesh: String,
        /// Its devices.
        devices: usize,
    },
    /// On this one parameters and caches fit, and on no smaller one. Time ran out before
    /// its programs were compiled.
    MayFit {
        /// The mesh.
        mesh: String,
        /// Its devices.
        devices: usize,
    },
    /// None of this slice.
    None {
        /// The smallest slice of the same chips where parameters and caches alone fit, and its
        /// mesh. None where that is no slice.
        larger_slice: Option<(&'static str, String)>,
    },
}
