//! The programs of a batch, compiled, and what is known of them then.

use super::compile::Target;
use super::error::Result;
use super::optimized::{self, Costs, Executed, OptimizedProgram, Relayout};
use super::per_program::PerProgram;
use super::record::Compiled;
use super::report::{CacheCopy, Memory};
use super::too_large::TooLarge;
use crate::engine::{BatchPrograms, ProgramKey};
use crate::model::ModelSpec;
use crate::pjrt::CompiledMemoryStats;

/// A program that fits, or why it does not.
pub(super) enum Measured {
    Fits(Box<Cost>),
    TooLarge(TooLarge),
}

/// A program that fits.
pub(super) struct Cost {
    pub memory: Memory,
    pub executable: Option<Vec<u8>>,
    optimized: OptimizedProgram,
    compiler_bytes_accessed: u64,
}

/// Compiles a program and reads the compiler's answers.
///
/// # Errors
/// As [`Target::compile`], and where the answers cannot be read.
pub(super) fn measure(target: &Target<'_>, spec: &ModelSpec, key: ProgramKey) -> Result<Measured> {
    let record = match target.compile(spec, key)? {
        Compiled::Fits(record) => record,
        Compiled::TooLarge(why) => return Ok(Measured::TooLarge(why)),
    };
    Ok(Measured::Fits(Box::new(Cost {
        memory: record.memory,
        optimized: OptimizedProgram::of(&optimized::decode(&record.optimized)?)?,
        compiler_bytes_accessed: record.compiler_bytes_accessed,
        executable: record.executable,
    })))
}

impl Measured {
    pub fn fits(&self) -> Option<&Cost> {
        match self {
            Measured::Fits(cost) => Some(cost),
            Measured::TooLarge(_) => None,
        }
    }

    pub fn too_large(&self) -> Option<&TooLarge> {
        match self {
            Measured::Fits(_) => None,
            Measured::TooLarge(why) => Some(why),
        }
    }

    /// Bytes that it takes, or would.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Measured::Fits(cost) => Some(cost.memory.total),
            Measured::TooLarge(why) => why.needed_bytes,
        }
    }
}

impl From<CompiledMemoryStats> for Memory {
    fn from(stats: CompiledMemoryStats) -> Self {
        let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
        let memory = Self {
            arguments: bytes(stats.arguments),
            outputs: bytes(stats.outputs),
            aliased: bytes(stats.aliased),
            temporaries: bytes(stats.temporaries),
            code: bytes(stats.generated_code),
            total: 0,
        };
        let results = memory.outputs.saturating_sub(memory.aliased);
        Self {
            total: memory.arguments + results + memory.temporaries + memory.code,
            ..memory
        }
    }
}

/// All programs of a batch.
pub(super) struct Measures(Vec<Part>);

/// One of them.
pub(super) struct Part {
    pub key: ProgramKey,
    /// How often `generate` runs it for a batch's prompts, or for a call of the steps after them.
    times: u64,
    pub measured: Measured,
}

/// What the steps of a decode program cost.
pub(super) struct DecodeCosts {
    /// One step.
    pub step: Costs,
    /// What a call does once, around its steps.
    pub call: Costs,
}

impl Measures {
    /// Compiles all programs at the same time: the compiler works on one thread each.
    ///
    /// # Errors
    /// As [`measure`].
    pub fn of(target: &Target<'_>, spec: &ModelSpec, programs: &BatchPrograms) -> Result<Self> {
        std::thread::scope(|scope| {
            let parts: Vec<_> = programs
                .keys()
                .map(|key| (key, scope.spawn(move || measure(target, spec, key))))
                .collect();
            parts
                .into_iter()
                .map(|(key, measured)| {
                    let measured = measured
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                    let times = match key {
                        ProgramKey::Extend(_) => programs.extensions as u64,
                        _ => 1,
                    };
                    Ok(Part {
                        key,
                        times,
                        measured,
                    })
                })
                .collect::<Result<_>>()
                .map(Self)
        })
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    pub fn fits(&self) -> bool {
        self.0.iter().all(|part| part.measured.fits().is_some())
    }

    /// Bytes of the largest program.
    pub fn bytes(&self) -> Option<u64> {
        self.0.iter().filter_map(|part| part.measured.bytes()).max()
    }

    /// A figure of the programs that run the prompts and one of those that run the steps, made of
    /// each that fits and its times. None where one does not fit.
    fn both<T>(&self, figure: impl Fn(Vec<(&Cost, u64)>) -> T) -> PerProgram<T> {
        let of = |steps: bool| {
            self.0
                .iter()
                .filter(|part| part.is_decode() == steps)
                .map(|part| Some((part.measured.fits()?, part.times)))
                .collect::<Option<Vec<_>>>()
                .map(&figure)
        };
        PerProgram {
            prefill: of(false),
            decode: of(true),
        }
    }

    /// What the larger of the programs takes.
    pub fn memory(&self) -> PerProgram<Memory> {
        self.both(|costs| {
            let memories = costs.into_iter().map(|(cost, _)| cost.memory);
            memories.max_by_key(|memory| memory.total)
        })
        .and_then(|memory| memory)
    }

    /// Bytes accessed, as the compiler's cost analysis has them.
    pub fn compiler_bytes_accessed(&self) -> PerProgram<u64> {
        self.both(|costs| {
            costs.into_iter().fold(0_u64, |sum, (cost, times)| {
                sum.saturating_add(cost.compiler_bytes_accessed.saturating_mul(times))
            })
        })
    }

    /// What the prompts of a batch cost in all their parts. None where a program does not fit.
    pub fn prefill(&self) -> Option<Costs> {
        let mut sum = Costs::default();
        for part in self.0.iter().filter(|part| !part.is_decode()) {
            let program = &part.measured.fits()?.optimized;
            sum.add(&program.once, part.times);
            for open in &program.open_loops {
                sum.add(&open.trip, part.times);
                sum.unknown_trips.push(open.name.clone());
            }
        }
        Some(sum)
    }

    /// What the decode program costs. None where it does not fit.
    pub fn decode(&self) -> Option<DecodeCosts> {
        let part = self.0.iter().find(|part| part.is_decode())?;
        let program = &part.measured.fits()?.optimized;
        let mut step = Costs::default();
        for open in &program.open_loops {
            step.add(&open.trip, 1);
        }
        // One loop runs the steps: its limit is an argument. What any other would be is not known.
        match program.open_loops.as_slice() {
            [_] => {}
            [] => step.unknown_trips.push("of the steps".to_owned()),
            more => {
                let names = more.iter().map(|open| open.name.clone());
                step.unknown_trips.extend(names);
            }
        }
        Some(DecodeCosts {
            step,
            call: program.once.clone(),
        })
    }

    /// The copies of whole caches in all programs that fit: those that `which` sees in an
    /// instruction.
    pub fn cache_copies(&self, which: fn(&Executed) -> Option<&Relayout>) -> Vec<CacheCopy> {
        let mut found = Vec::new();
        for part in &self.0 {
            let Some(cost) = part.measured.fits() else {
                continue;
            };
            let in_loops = if part.is_decode() { "step" } else { "trip" };
            let once = ("call", &cost.optimized.once);
            let loops = cost.optimized.open_loops.iter();
            for (per, costs) in std::iter::once(once).chain(loops.map(|l| (in_loops, &l.trip))) {
                for executed in &costs.executed {
                    CacheCopy::add(&mut found, executed, which(executed), part.key.name(), per);
                }
            }
        }
        found
    }
}

impl Part {
    fn is_decode(&self) -> bool {
        matches!(self.key, ProgramKey::Decode(_))
    }
}
