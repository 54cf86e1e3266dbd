//! Which instruction set the functions use, and whether programs call them at all.

use std::sync::OnceLock;

use super::instruction_set::InstructionSet;

/// The environment variable that chooses the instruction set by its [name](InstructionSet::name),
/// or `off`. By default it is the fastest that the CPU has.
pub const SWITCH: &str = "GEMMA_XLA_CPU_KERNEL";

/// The result of registering.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors in the choice of an instruction set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The environment variable has an invalid value.
    #[error("{SWITCH}={value}: not one of avx512bf16, avx512, avx2, portable, off")]
    UnknownInstructionSet {
        /// The value.
        value: String,
    },
    /// The environment variable names instructions that the CPU does not have.
    #[error("{SWITCH}={instructions}: this CPU does not have these instructions")]
    UnavailableInstructionSet {
        /// The instruction set.
        instructions: InstructionSet,
    },
}

/// The instruction set to run with, or none where the kernel is off. Read once per process.
pub(super) fn chosen() -> Result<Option<InstructionSet>> {
    static CHOSEN: OnceLock<Result<Option<InstructionSet>>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| match std::env::var_os(SWITCH) {
            None => Ok(Some(InstructionSet::best())),
            Some(value) => choose(&value.to_string_lossy()),
        })
        .clone()
}

/// The instruction set that a call runs with. A saved program may call the kernel although it is
/// turned off now.
pub(super) fn instruction_set() -> std::result::Result<InstructionSet, String> {
    let chosen = chosen().map_err(|error| error.to_string())?;
    Ok(chosen.unwrap_or(InstructionSet::Portable))
}

/// What a value of [`SWITCH`] means.
fn choose(value: &str) -> Result<Option<InstructionSet>> {
    match value {
        "" => Ok(Some(InstructionSet::best())),
        "off" => Ok(None),
        _ => match InstructionSet::named(value) {
            None => Err(Error::UnknownInstructionSet {
                value: value.to_owned(),
            }),
            Some(instructions) if !instructions.is_available() => {
                Err(Error::UnavailableInstructionSet { instructions })
            }
            Some(instructions) => Ok(Some(instructions)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_takes_every_form_that_the_cpu_has_and_off() {
        assert_eq!(choose(""), Ok(Some(InstructionSet::best())));
        assert_eq!(choose("off"), Ok(None));
        for instructions in InstructionSet::ALL {
            let expected = if instructions.is_available() {
                Ok(Some(instructions))
            } else {
                Err(Error::UnavailableInstructionSet { instructions })
            };
            assert_eq!(choose(instructions.name()), expected);
        }
    }

    #[test]
    fn the_switch_refuses_other_words_by_name() {
        let error = choose("sse9").expect_err("no instruction set");
        assert_eq!(
            error.to_string(),
            "GEMMA_XLA_CPU_KERNEL=sse9: not one of avx512bf16, avx512, avx2, portable, off"
        );
    }
}
