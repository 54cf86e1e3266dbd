//! One program compiled, and what is known of it then.

use super::compile::{Compiled, Target, TooLarge};
use super::error::Result;
use super::optimized::{Executed, Optimized, cycles};
use super::report::{Memory, PerProgram};
use crate::engine::ProgramKey;
use crate::model::ModelSpec;
use crate::pjrt::{CompiledMemoryStats, CompiledProgram, NamedValue};

/// A program that fits, or why it does not.
pub(super) enum Measured {
    Fits(Box<Cost>),
    TooLarge(TooLarge),
}

/// A program that fits.
pub(super) struct Cost {
    pub program: CompiledProgram,
    pub memory: Memory,
    pub optimized: Optimized,
    pub compiler_bytes_accessed: u64,
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

    pub fn too_large(&self) -> Option<TooLarge> {
        match self {
            Measured::Fits(_) => None,
            Measured::TooLarge(why) => Some(why.clone()),
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

impl PerProgram<&Cost> {
    /// A figure of each program.
    pub fn map<T>(&self, figure: impl Fn(&Cost) -> T) -> PerProgram<T> {
        PerProgram {
            prefill: self.prefill.map(&figure),
            decode: self.decode.map(&figure),
        }
    }

    /// A figure of what a prefill executes, and of what a decode step does.
    pub fn of_executed<T>(&self, figure: impl Fn(&[Executed]) -> T) -> PerProgram<T> {
        PerProgram {
            prefill: self.prefill.map(|cost| {
                let Optimized { once, per_trip } = &cost.optimized;
                if per_trip.is_empty() {
                    figure(once)
                } else {
                    figure(&[once.as_slice(), per_trip].concat())
                }
            }),
            decode: self.decode.map(|cost| figure(&cost.optimized.per_trip)),
        }
    }

    /// Estimated cycles of the prefill, and of a decode step.
    pub fn cycles(&self) -> PerProgram<u64> {
        self.of_executed(cycles)
    }
}
