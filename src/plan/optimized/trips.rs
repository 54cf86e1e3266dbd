//! How often a loop goes round, where the program itself says so.

use std::collections::HashMap;

use pjrt_sys::protos::xla::HloInstructionProto;
use serde_json::Value;

use super::graph::{Graph, number};

/// The trips of a loop: what the compiler notes, or what its condition shows where that compares a counter, which starts at a
/// constant and is counted up by one, with a constant. None where the program decides as it goes.
pub(super) fn of(
    graph: &Graph<'_>,
    instruction: &HloInstructionProto,
    caller: &HashMap<i64, &HloInstructionProto>,
    config: &Value,
) -> Option<u64> {
    let noted = config
        .get("known_trip_count")
        .and_then(|count| count.get("n"))
        .and_then(number);
    noted.or_else(|| counted(graph, instruction, caller))
}

fn counted(
    graph: &Graph<'_>,
    instruction: &HloInstructionProto,
    caller: &HashMap<i64, &HloInstructionProto>,
) -> Option<u64> {
    let &[body, condition] = instruction.called_computation_ids.as_slice() else {
        return None;
    };
    let condition = graph.computation(condition).ok()?;
    let by_id = index(&condition.instructions);
    let root = *by_id.get(&condition.root_id)?;
    if root.opcode != "compare" || root.comparison_direction != "LT" {
        return None;
    }
    let &[counter, limit] = root.operand_ids.as_slice() else {
        return None;
    };
    let counter = *by_id.get(&counter)?;
    if counter.opcode != "get-tuple-element" {
        return None;
    }
    let limit = constant(by_id.get(&limit)?)?;

    let place = usize::try_from(counter.tuple_index).ok()?;
    let state = caller.get(instruction.operand_ids.first()?)?;
    let start = constant(caller.get(state.operand_ids.get(place)?)?)?;

    // The body's result at that place must be the counter plus one.
    let body = graph.computation(body).ok()?;
    let by_id = index(&body.instructions);
    let root = *by_id.get(&body.root_id)?;
    let next = by_id.get(root.operand_ids.get(place)?)?;
    if next.opcode != "add" {
        return None;
    }
    let mut steps = next.operand_ids.iter().map(|id| by_id.get(id));
    let (a, b) = (steps.next()??, steps.next()??);
    let counts = |x: &HloInstructionProto, one: &HloInstructionProto| {
        x.opcode == "get-tuple-element"
            && x.tuple_index == counter.tuple_index
            && constant(one) == Some(1)
    };
    if !counts(a, b) && !counts(b, a) {
        return None;
    }
    u64::try_from(limit.checked_sub(start)?).ok()
}

fn index(instructions: &[HloInstructionProto]) -> HashMap<i64, &HloInstructionProto> {
    instructions.iter().map(|i| (i.id, i)).collect()
}

/// The value of a scalar constant of type s32.
fn constant(instruction: &HloInstructionProto) -> Option<i64> {
    if instruction.opcode != "constant" {
        return None;
    }
    let literal = instruction.literal.as_ref()?;
    match literal.s32s.as_slice() {
        &[value] => Some(value.into()),
        _ => None,
    }
}
