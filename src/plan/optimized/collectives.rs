//! Transfers between devices.

use pjrt_sys::protos::xla::{HloInstructionProto, ShapeProto};
use serde_json::Value;

use super::super::error::Result;
use super::bytes;
use super::data::Transfer;
use super::module::{ById, Computations, backend_config, index};

/// The collective operations of HLO, without the endings of their asynchronous forms.
const KINDS: [&str; 7] = [
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
];

/// The transfers that an instruction makes: itself, or those in a fusion or asynchronous
/// computation. An asynchronous one counts where it starts.
pub(super) fn of(
    computations: &Computations<'_>,
    instruction: &HloInstructionProto,
    by_id: &ById<'_>,
) -> Result<Vec<Transfer>> {
    let config = &backend_config(instruction);
    let operands = || {
        instruction
            .operand_ids
            .iter()
            .filter_map(|id| by_id.get(id)?.shape.as_ref())
            .map(bytes::of_shape)
            .sum::<u64>()
    };
    let opcode = instruction.opcode.as_str();
    let started = opcode.strip_suffix("-start").unwrap_or(opcode);
    if let Some(&kind) = KINDS.iter().find(|&&kind| kind == started) {
        let result = instruction.shape.as_ref().map_or(0, |shape| {
            if opcode == started {
                bytes::of_shape(shape)
            } else {
                started_result(shape)
            }
        });
        return Ok(vec![Transfer {
            kind,
            bytes: operands().max(result),
        }]);
    }
    let mut found = Vec::new();
    if matches!(opcode, "fusion" | "async-start") {
        for &called in &instruction.called_computation_ids {
            let body = computations.computation(called)?;
            let by_id = index(body);
            for inner in &body.instructions {
                // A computation calls only ones before it, so this ends.
                if !inner.called_computation_ids.contains(&called) {
                    found.extend(of(computations, inner, &by_id)?);
                }
            }
        }
    }
    if !found.is_empty()
        && let Some(kind) = half_of_all_reduce(config)
    {
        return Ok(vec![Transfer {
            kind,
            bytes: operands().max(instruction.shape.as_ref().map_or(0, bytes::of_shape)),
        }]);
    }
    Ok(found)
}

/// libtpu may split an all-reduce into a fusion that reduces and scatters and one or more that
/// gather. Each contains an all-reduce of masked values, which does not run as such: a note says
/// what does run.
fn half_of_all_reduce(config: &Value) -> Option<&'static str> {
    let emitter = config
        .get("collective_algorithm_config")?
        .get("emitter")?
        .as_str()?;
    if emitter.contains("ReduceScatter") {
        Some("reduce-scatter")
    } else if emitter.contains("AllGather") {
        Some("all-gather")
    } else {
        None
    }
}

/// Bytes of the result that a started operation will have: it has a tuple of operands, results and
/// contexts.
fn started_result(shape: &ShapeProto) -> u64 {
    match shape.tuple_shapes.get(1) {
        Some(result) => bytes::of_shape(result),
        None => bytes::of_shape(shape),
    }
}
