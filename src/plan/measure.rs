//! The programs compiled, and what is known of them then.

use super::compile::{Compiled, Target, TooLarge};
use super::error::Result;
use super::optimized::{Executed, Optimized};
use super::report::{Memory, PerProgram};
use crate::engine::{BatchPrograms, ProgramKey};
use crate::model::ModelSpec;
use crate::pjrt::{CompiledExecutable, CompiledMemoryStats, NamedValue};

/// A program that fits, or why it does not.
pub(super) enum Measured {
    Fits(Box<Cost>),
    TooLarge(TooLarge),
}

/// A program that fits.
pub(super) struct Cost {
    pub program: CompiledExecutable,
    pub memory: Memory,
    optimized: Optimized,
    compiler_bytes_accessed: u64,
}

/// Compiles a program and asks the compiler about it.
///
/// # Errors
/// As [`Target::compile`], and where the compiler's answers cannot be read.
pub(super) fn measure(target: &Target, spec: &ModelSpec, key: ProgramKey) -> Result<Measured> {
    let program = match target.compile(spec, key)? {
        Compiled::Fits(program) => program,
        Compiled::TooLarge(why) => return Ok(Measured::TooLarge(why)),
    };
    let accessed = program
        .cost_analysis()?
        .into_iter()
        .find_map(|(name, value)| match (name.as_str(), value) {
            ("bytes accessed", NamedValue::Float(bytes)) => Some(bytes as u64),
            ("bytes accessed", NamedValue::Int64(bytes)) => u64::try_from(bytes).ok(),
            _ => None,
        });
    Ok(Measured::Fits(Box::new(Cost {
        memory: program.memory_stats()?.into(),
        optimized: Optimized::read(&program.optimized_program()?)?,
        compiler_bytes_accessed: accessed.unwrap_or(0),
        program,
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
    /// How often it is run for a batch's prompts, or for a call of the steps after them.
    times: u64,
    pub measured: Measured,
}

impl Measures {
    /// Compiles all programs at the same time: the compiler works on one thread each.
    ///
    /// # Errors
    /// As [`measure`].
    pub fn of(target: &Target, spec: &ModelSpec, programs: &BatchPrograms) -> Result<Self> {
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

    /// A figure of the programs that run the prompts and one of those that run the steps, made of each that fits and its times. None
    /// where one does not fit.
    fn both<T>(&self, figure: impl Fn(Vec<(&Cost, u64)>) -> T) -> PerProgram<T> {
        let of = |steps: bool| {
            self.0
                .iter()
                .filter(|part| matches!(part.key, ProgramKey::Decode(_)) == steps)
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

    /// What the compiler's cost analysis says of bytes accessed.
    pub fn compiler_bytes_accessed(&self) -> PerProgram<u64> {
        self.both(|costs| {
            costs.into_iter().fold(0_u64, |sum, (cost, times)| {
                sum.saturating_add(cost.compiler_bytes_accessed.saturating_mul(times))
            })
        })
    }

    /// What the prompts of a batch execute, and what one step does.
    pub fn executed(&self) -> PerProgram<Vec<Executed>> {
        let prompts = self.both(|costs| {
            let mut all = Vec::new();
            for (cost, times) in costs {
                let Optimized { once, per_trip } = &cost.optimized;
                all.extend(once.iter().chain(per_trip).map(|executed| Executed {
                    times: executed.times.saturating_mul(times),
                    ..executed.clone()
                }));
            }
            all
        });
        let steps = self.both(|costs| {
            let steps = costs.into_iter().map(|(cost, _)| &cost.optimized.per_trip);
            steps.flatten().cloned().collect()
        });
        PerProgram {
            prefill: prompts.prefill,
            decode: steps.decode,
        }
    }
}

impl<T> PerProgram<T> {
    /// A figure of each.
    pub fn map<U>(&self, figure: impl Fn(&T) -> U) -> PerProgram<U> {
        PerProgram {
            prefill: self.prefill.as_ref().map(&figure),
            decode: self.decode.as_ref().map(&figure),
        }
    }

    fn and_then<U>(self, figure: impl Fn(T) -> Option<U>) -> PerProgram<U> {
        PerProgram {
            prefill: self.prefill.and_then(&figure),
            decode: self.decode.and_then(&figure),
        }
    }
}
