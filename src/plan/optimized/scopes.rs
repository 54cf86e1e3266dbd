//! Where in the model an instruction comes from, and sums by that.

use std::collections::BTreeMap;

use pjrt_sys::protos::xla::HloInstructionProto;

use super::super::error::Result;
use super::data::Costs;
use super::module::Computations;

/// What the instructions of one scope cost together.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ScopeCost {
    /// The scope, with `*` for the number of a layer; none for the instructions without one.
    pub scope: Option<String>,
    /// The sum of the compiler's estimates, in cycles; of those instructions that have one.
    pub cycles: u64,
    /// Bytes that they read from and write to the chip's memory.
    pub memory_bytes: u64,
    /// Instructions that are executed.
    pub instructions: u64,
}

/// Sums by scope, the costliest first.
pub fn by_scope(costs: &Costs) -> Vec<ScopeCost> {
    let mut sums = BTreeMap::<Option<String>, ScopeCost>::new();
    for executed in &costs.executed {
        let cycles = executed.all_cycles().unwrap_or(0);
        let bytes = executed.memory_bytes.saturating_mul(executed.times);
        if cycles == 0 && bytes == 0 {
            continue;
        }
        let scope = Some(fold(&executed.source)).filter(|scope| !scope.is_empty());
        let sum = sums.entry(scope.clone()).or_insert(ScopeCost {
            scope,
            cycles: 0,
            memory_bytes: 0,
            instructions: 0,
        });
        sum.cycles = sum.cycles.saturating_add(cycles);
        sum.memory_bytes = sum.memory_bytes.saturating_add(bytes);
        sum.instructions = sum.instructions.saturating_add(executed.times);
    }
    let mut sums: Vec<_> = sums.into_values().collect();
    sums.sort_by_key(|sum| std::cmp::Reverse((sum.cycles, sum.memory_bytes)));
    sums
}

/// The scope with its numbers replaced: `layers/3/mlp` is `layers/*/mlp`.
fn fold(scope: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<_> = scope
        .split('/')
        .map(|part| if is_number(part) { "*" } else { part })
        .collect();
    parts.join("/")
}

/// The name that the lowering gave to an instruction. The compiler does not always keep it on a
/// fusion: then it is that of the fusion's root, or of the first named instruction in its body,
/// where a matrix product comes before anything else.
pub(super) fn source(
    computations: &Computations<'_>,
    instruction: &HloInstructionProto,
) -> Result<String> {
    if let Some(name) = own_name(instruction) {
        return Ok(name.to_owned());
    }
    let (opcode, called) = (
        instruction.opcode.as_str(),
        &instruction.called_computation_ids,
    );
    let ("fusion" | "async-start", Some(&body)) = (opcode, called.first()) else {
        return Ok(String::new());
    };
    let body = computations.computation(body)?;
    let named = || body.instructions.iter().filter(|i| own_name(i).is_some());
    let is_product = |i: &&HloInstructionProto| matches!(i.opcode.as_str(), "convolution" | "dot");
    let chosen = named()
        .find(is_product)
        .or_else(|| named().find(|i| i.id == body.root_id))
        .or_else(|| named().next());
    Ok(chosen.and_then(own_name).unwrap_or_default().to_owned())
}

fn own_name(instruction: &HloInstructionProto) -> Option<&str> {
    let name = instruction.metadata.as_ref()?.op_name.as_str();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::data::Executed;
    use super::*;

    #[test]
    fn layers_are_summed_under_one_scope_and_the_costliest_comes_first() {
        let executed = |source: &str, cycles, times| Executed {
            source: source.into(),
            cycles: Some(cycles),
            times,
            memory_bytes: 10,
            ..Executed::default()
        };
        let costs = Costs {
            executed: vec![
                executed("layers/0/mlp", 5, 2),
                executed("norm", 20, 1),
                executed("layers/11/mlp", 15, 1),
                executed("", 1, 1),
            ],
            ..Costs::default()
        };
        let found = by_scope(&costs);
        let row = |s: &ScopeCost| (s.scope.clone(), s.cycles, s.memory_bytes, s.instructions);
        assert_eq!(
            found.iter().map(row).collect::<Vec<_>>(),
            [
                (Some("layers/*/mlp".to_owned()), 25, 30, 3),
                (Some("norm".to_owned()), 20, 10, 1),
                (None, 1, 10, 1),
            ]
        );
    }
}
