//! Every instruction that a run of the program executes, with how often.

use std::collections::HashMap;

use pjrt_sys::protos::xla::{
    HloComputationProto, HloInstructionProto, HloModuleProto, HloModuleProtoWithConfig,
};
use prost::Message;
use serde_json::Value;

use super::super::error::{Error, Result};
use super::{bytes, collectives, trips};
use crate::pjrt::ProgramCode;

/// Computations that call each other are no deeper than this.
const DEEPEST: usize = 64;

/// A program after the compiler's optimizations.
///
/// Its cost is told in two parts: what runs once, and what a loop runs whose trips the program decides as it goes, which is counted
/// once. In a decode program that loop's body is one step.
#[derive(Debug)]
pub struct Optimized {
    /// What runs once in a call, loops with a fixed number of trips multiplied out.
    pub once: Vec<Executed>,
    /// One trip of the loops whose trips are not fixed: their bodies and conditions.
    pub per_trip: Vec<Executed>,
}

/// An instruction that is executed.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Executed {
    /// Its name in the optimized program.
    pub name: String,
    /// What it does.
    pub opcode: String,
    /// The kind of a fusion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fusion_kind: Option<String>,
    /// Its result's type and dimensions.
    pub shape: String,
    /// The compiler's estimate of one execution, in cycles; none where it gives none.
    pub cycles: Option<u64>,
    /// How often it is executed.
    pub times: u64,
    /// The name that the lowering gave to what it came from, where the compiler kept it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Bytes that one execution reads from and writes to the chip's memory.
    pub memory_bytes: u64,
    /// The transfers between devices that it starts.
    #[serde(skip)]
    pub collectives: Vec<collectives::Transfer>,
}

impl Executed {
    /// The estimate of all its executions.
    pub fn all_cycles(&self) -> u64 {
        self.cycles.unwrap_or(0).saturating_mul(self.times)
    }
}

/// The sum of the compiler's estimates.
pub fn cycles(executed: &[Executed]) -> u64 {
    executed
        .iter()
        .fold(0, |sum, e| sum.saturating_add(e.all_cycles()))
}

/// Bytes that all executions read from and write to the chip's memory.
pub fn memory_bytes(executed: &[Executed]) -> u64 {
    executed.iter().fold(0, |sum, e| {
        sum.saturating_add(e.memory_bytes.saturating_mul(e.times))
    })
}

/// The `count` instructions whose executions cost most.
pub fn costliest(executed: &[Executed], count: usize) -> Vec<Executed> {
    let mut sorted = executed.to_vec();
    sorted.sort_by_key(|e| std::cmp::Reverse((e.all_cycles(), e.memory_bytes)));
    sorted.truncate(count);
    sorted
}

impl Optimized {
    /// Reads what [`CompiledExecutable::optimized_program`](crate::pjrt::CompiledExecutable::optimized_program) gives.
    ///
    /// # Errors
    /// A format other than `hlo_with_config` or `hlo`, and a program that refers to what it does not have.
    pub fn read(program: &ProgramCode) -> Result<Self> {
        let code = program.code.as_slice();
        let module = match program.format.as_str() {
            "hlo_with_config" => HloModuleProtoWithConfig::decode(code)
                .map(|with| with.hlo_module.unwrap_or_default()),
            "hlo" => HloModuleProto::decode(code),
            other => return Err(unreadable("", format!("its format is '{other}'"))),
        }
        .map_err(|error| unreadable("", error.to_string()))?;
        Self::of(&module)
    }

    fn of(module: &HloModuleProto) -> Result<Self> {
        let graph = Graph {
            name: &module.name,
            computations: module.computations.iter().map(|c| (c.id, c)).collect(),
        };
        let mut found = Self {
            once: Vec::new(),
            per_trip: Vec::new(),
        };
        graph.run(module.entry_computation_id, 1, 0, &mut found)?;
        Ok(found)
    }
}

/// The computations of a module, by id.
pub(super) struct Graph<'a> {
    name: &'a str,
    computations: HashMap<i64, &'a HloComputationProto>,
}

impl<'a> Graph<'a> {
    pub(super) fn computation(&self, id: i64) -> Result<&'a HloComputationProto> {
        self.computations
            .get(&id)
            .copied()
            .ok_or_else(|| unreadable(self.name, format!("there is no computation {id}")))
    }

    /// Appends what `times` runs of a computation execute.
    fn run(&self, id: i64, times: u64, depth: usize, out: &mut Optimized) -> Result<()> {
        if depth > DEEPEST {
            return Err(unreadable(self.name, "its calls go round".into()));
        }
        let computation = self.computation(id)?;
        let by_id: HashMap<i64, &HloInstructionProto> =
            computation.instructions.iter().map(|i| (i.id, i)).collect();
        for instruction in &computation.instructions {
            let called = &instruction.called_computation_ids;
            match (instruction.opcode.as_str(), called.as_slice()) {
                ("while", &[body, condition]) => {
                    let config = backend_config(instruction);
                    let trips = trips::of(self, instruction, &by_id, &config);
                    if let Some(trips) = trips {
                        let times = times.saturating_mul(trips);
                        self.run(body, times, depth + 1, out)?;
                        self.run(condition, times, depth + 1, out)?;
                    } else {
                        let mut trip = Optimized {
                            once: Vec::new(),
                            per_trip: Vec::new(),
                        };
                        self.run(body, times, depth + 1, &mut trip)?;
                        self.run(condition, times, depth + 1, &mut trip)?;
                        out.per_trip.append(&mut trip.once);
                        out.per_trip.append(&mut trip.per_trip);
                    }
                }
                ("conditional", branches) => {
                    let mut costliest = None;
                    for &branch in branches {
                        let mut taken = Optimized {
                            once: Vec::new(),
                            per_trip: Vec::new(),
                        };
                        self.run(branch, times, depth + 1, &mut taken)?;
                        let cost = cycles(&taken.once).saturating_add(cycles(&taken.per_trip));
                        if costliest.as_ref().is_none_or(|(most, _)| cost > *most) {
                            costliest = Some((cost, taken));
                        }
                    }
                    if let Some((_, mut taken)) = costliest {
                        out.once.append(&mut taken.once);
                        out.per_trip.append(&mut taken.per_trip);
                    }
                }
                ("call", &[body]) => self.run(body, times, depth + 1, out)?,
                _ => out.once.push(self.executed(instruction, times, &by_id)?),
            }
        }
        Ok(())
    }

    fn executed(
        &self,
        instruction: &HloInstructionProto,
        times: u64,
        by_id: &HashMap<i64, &HloInstructionProto>,
    ) -> Result<Executed> {
        let fusion_kind = Some(instruction.fusion_kind.trim_start_matches('k').to_owned())
            .filter(|kind| !kind.is_empty());
        Ok(Executed {
            name: instruction.name.clone(),
            opcode: instruction.opcode.clone(),
            fusion_kind,
            shape: instruction
                .shape
                .as_ref()
                .map(bytes::describe)
                .unwrap_or_default(),
            cycles: estimated_cycles(&backend_config(instruction)),
            times,
            source: instruction
                .metadata
                .as_ref()
                .map(|metadata| metadata.op_name.clone())
                .unwrap_or_default(),
            memory_bytes: bytes::of_memory(self, instruction, by_id)?,
            collectives: collectives::of(self, instruction, by_id)?,
        })
    }
}

/// What the compiler notes on an instruction, as JSON; null where it notes nothing.
pub(super) fn backend_config(instruction: &HloInstructionProto) -> Value {
    serde_json::from_slice(&instruction.backend_config).unwrap_or_default()
}

/// `estimated_cycles`, a number in a string, wherever it stands in the notes.
fn estimated_cycles(config: &Value) -> Option<u64> {
    match config {
        Value::Object(members) => members
            .get("estimated_cycles")
            .and_then(number)
            .or_else(|| members.values().find_map(estimated_cycles)),
        _ => None,
    }
}

/// A whole number, which protobuf's JSON writes as a string where it has 64 bits.
pub(super) fn number(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

pub(super) fn unreadable(program: &str, problem: String) -> Error {
    Error::Optimized {
        program: program.to_owned(),
        problem,
    }
}
