//! Access to the parts of an optimized module.

use std::collections::HashMap;

use pjrt_sys::protos::xla::{
    HloComputationProto, HloInstructionProto, HloModuleProto, HloModuleProtoWithConfig,
};
use prost::Message;
use serde_json::Value;

use super::super::error::{Error, Result};
use crate::pjrt::ProgramCode;

/// Instructions by id.
pub(super) type ById<'a> = HashMap<i64, &'a HloInstructionProto>;

/// The computations of a module, by id.
pub(super) struct Computations<'a> {
    pub module: &'a HloModuleProto,
    by_id: HashMap<i64, &'a HloComputationProto>,
}

/// Decodes the answer of
/// [`CompiledExecutable::optimized_program`](crate::pjrt::CompiledExecutable::optimized_program).
///
/// # Errors
/// A format other than `hlo_with_config` or `hlo`, and malformed bytes.
pub fn decode(program: &ProgramCode) -> Result<HloModuleProto> {
    let code = program.code.as_slice();
    match program.format.as_str() {
        "hlo_with_config" => HloModuleProtoWithConfig::decode(code)
            .map(|with_config| with_config.hlo_module.unwrap_or_default()),
        "hlo" => HloModuleProto::decode(code),
        other => return Err(unreadable("", format!("its format is '{other}'"))),
    }
    .map_err(|error| unreadable("", error.to_string()))
}

impl<'a> Computations<'a> {
    pub fn of(module: &'a HloModuleProto) -> Self {
        Self {
            module,
            by_id: module.computations.iter().map(|c| (c.id, c)).collect(),
        }
    }

    /// # Errors
    /// An id that the module does not have.
    pub fn computation(&self, id: i64) -> Result<&'a HloComputationProto> {
        self.by_id
            .get(&id)
            .copied()
            .ok_or_else(|| self.unreadable(format!("there is no computation {id}")))
    }

    pub fn unreadable(&self, problem: String) -> Error {
        unreadable(&self.module.name, problem)
    }
}

/// The instructions of a computation, by id.
pub(super) fn index(computation: &HloComputationProto) -> ById<'_> {
    computation.instructions.iter().map(|i| (i.id, i)).collect()
}

/// The compiler's notes on an instruction, as JSON; null where there are none.
pub(super) fn backend_config(instruction: &HloInstructionProto) -> Value {
    serde_json::from_slice(&instruction.backend_config).unwrap_or_default()
}

/// A whole number, which protobuf's JSON writes as a string where it has 64 bits.
pub(super) fn number(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

fn unreadable(program: &str, problem: String) -> Error {
    Error::Optimized {
        program: program.to_owned(),
        problem,
    }
}
