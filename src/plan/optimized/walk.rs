//! Every instruction that a call of the program executes, with how often.

use pjrt_sys::protos::xla::{HloInstructionProto, HloModuleProto};
use serde_json::Value;

use super::super::error::Result;
use super::data::{Costs, Executed, OpenLoop, OptimizedProgram};
use super::module::{ById, Computations, backend_config, index, number};
use super::trips::{self, Trips};
use super::{bytes, collectives, copies, scopes};

/// Computations that call each other are nested no deeper than this.
const MAX_DEPTH: usize = 64;
/// Estimates from here on are none: the compiler writes the greatest i64 where it has no estimate.
const NO_ESTIMATE: u64 = 1 << 60;

impl OptimizedProgram {
    /// Reads a module as the compiler left it.
    ///
    /// # Errors
    /// A module that refers to what it does not have.
    pub fn of(module: &HloModuleProto) -> Result<Self> {
        let computations = Computations::of(module);
        let mut found = Self::default();
        let walk = Walk {
            computations: &computations,
            caches: copies::CacheShapes::of(&computations)?,
        };
        walk.run(module.entry_computation_id, 1, 0, &mut found)?;
        Ok(found)
    }

    /// All instructions, one trip of each open loop included.
    fn flatten(mut self) -> Costs {
        for open in self.open_loops {
            self.once.executed.extend(open.trip.executed);
            self.once.unknown_trips.push(open.name);
            self.once.unknown_trips.extend(open.trip.unknown_trips);
        }
        self.once
    }
}

struct Walk<'a> {
    computations: &'a Computations<'a>,
    caches: copies::CacheShapes,
}

impl Walk<'_> {
    /// Appends what `times` runs of a computation execute.
    fn run(&self, id: i64, times: u64, depth: usize, out: &mut OptimizedProgram) -> Result<()> {
        if depth > MAX_DEPTH {
            let problem = "its computations call each other in a circle".into();
            return Err(self.computations.unreadable(problem));
        }
        let computation = self.computations.computation(id)?;
        let by_id = index(computation);
        for instruction in &computation.instructions {
            let called = &instruction.called_computation_ids;
            match (instruction.opcode.as_str(), called.as_slice()) {
                ("while", &[body, condition]) => {
                    let trips = trips::of(self.computations, instruction, &by_id);
                    if let Trips::Known(trips) = trips {
                        let times = times.saturating_mul(trips);
                        self.run(body, times, depth + 1, out)?;
                        self.run(condition, times, depth + 1, out)?;
                    } else {
                        let trip = Self::separate(|out| {
                            self.run(body, times, depth + 1, out)?;
                            self.run(condition, times, depth + 1, out)
                        })?;
                        out.open_loops.push(OpenLoop {
                            name: instruction.name.clone(),
                            trip: trip.flatten(),
                        });
                    }
                }
                ("conditional", branches) => {
                    let mut costliest = None;
                    for &branch in branches {
                        let taken = Self::separate(|out| self.run(branch, times, depth + 1, out))?;
                        let cost = taken.rank();
                        if costliest.as_ref().is_none_or(|(most, _)| cost > *most) {
                            costliest = Some((cost, taken));
                        }
                    }
                    if let Some((_, mut taken)) = costliest {
                        out.once.executed.append(&mut taken.once.executed);
                        out.once.unknown_trips.append(&mut taken.once.unknown_trips);
                        out.open_loops.append(&mut taken.open_loops);
                    }
                }
                ("call", &[body]) => self.run(body, times, depth + 1, out)?,
                _ => {
                    let executed = self.executed(instruction, times, &by_id)?;
                    out.once.executed.push(executed);
                }
            }
        }
        Ok(())
    }

    fn separate(run: impl FnOnce(&mut OptimizedProgram) -> Result<()>) -> Result<OptimizedProgram> {
        let mut found = OptimizedProgram::default();
        run(&mut found)?;
        Ok(found)
    }

    fn executed(
        &self,
        instruction: &HloInstructionProto,
        times: u64,
        by_id: &ById<'_>,
    ) -> Result<Executed> {
        let fusion_kind = Some(instruction.fusion_kind.trim_start_matches('k').to_owned())
            .filter(|kind| !kind.is_empty());
        let estimate = estimated_cycles(&backend_config(instruction));
        let cycles = estimate.filter(|&cycles| cycles < NO_ESTIMATE);
        Ok(Executed {
            name: instruction.name.clone(),
            opcode: instruction.opcode.clone(),
            fusion_kind,
            shape: instruction
                .shape
                .as_ref()
                .map(bytes::describe)
                .unwrap_or_default(),
            cycles,
            unestimated: (estimate.is_some() && cycles.is_none())
                || (is_sort(instruction) && cycles.unwrap_or(0) == 0),
            times,
            source: scopes::source(self.computations, instruction)?,
            memory_bytes: bytes::of_memory(self.computations, instruction, by_id)?,
            collectives: collectives::of(self.computations, instruction, by_id)?,
            cache_copy: copies::copy(&self.caches, self.computations, instruction, by_id)?,
            cache_write_back: copies::write_back(&self.caches, instruction, by_id),
        })
    }
}

impl OptimizedProgram {
    /// A measure by which branches of a conditional are compared.
    fn rank(&self) -> u64 {
        let open = self.open_loops.iter().flat_map(|open| &open.trip.executed);
        let all = self.once.executed.iter().chain(open);
        all.fold(0, |sum, executed| {
            sum.saturating_add(executed.all_cycles().unwrap_or(0))
        })
    }
}

/// Whether an instruction sorts, or chooses the greatest values. These are known to be slow on a
/// TPU, and the compiler counts them as nothing.
fn is_sort(instruction: &HloInstructionProto) -> bool {
    match instruction.opcode.as_str() {
        "sort" | "topk" => true,
        "custom-call" => {
            let target = instruction.custom_call_target.to_ascii_lowercase();
            target.contains("topk") || target.contains("sort")
        }
        _ => false,
    }
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
