//! Bytes of shapes, and what an instruction moves between the chip's memory and its core.

use pjrt_sys::protos::xla::{HloComputationProto, HloInstructionProto, PrimitiveType, ShapeProto};

use super::super::error::Result;
use super::module::{ById, Computations, index};

/// The memory space of a layout in the chip's memory. Other spaces are on the core.
pub(super) const CHIP_MEMORY: i64 = 0;

/// Bytes of an array or of all arrays in a tuple, without padding.
pub(super) fn of_shape(shape: &ShapeProto) -> u64 {
    if shape.element_type() == PrimitiveType::Tuple {
        return shape.tuple_shapes.iter().map(of_shape).sum();
    }
    let elements = shape.dimensions.iter().fold(1_u64, |product, &dim| {
        product.saturating_mul(u64::try_from(dim).unwrap_or(0))
    });
    elements
        .saturating_mul(element_bits(shape.element_type()))
        .div_ceil(8)
}

/// The same of those that lie in the chip's memory.
fn in_memory(shape: &ShapeProto) -> u64 {
    if shape.element_type() == PrimitiveType::Tuple {
        return shape.tuple_shapes.iter().map(in_memory).sum();
    }
    let space = shape
        .layout
        .as_ref()
        .map_or(0, |layout| layout.memory_space);
    if space == CHIP_MEMORY {
        of_shape(shape)
    } else {
        0
    }
}

fn element_bits(element: PrimitiveType) -> u64 {
    use PrimitiveType as T;
    match element {
        T::S4 | T::U4 => 4,
        T::Pred | T::S8 | T::U8 => 8,
        T::S16 | T::U16 | T::F16 | T::Bf16 => 16,
        T::S32 | T::U32 | T::F32 => 32,
        T::S64 | T::U64 | T::F64 | T::C64 => 64,
        T::C128 => 128,
        // Tokens and opaque values have no bytes; the rest are the 8-bit floats.
        T::Tuple | T::Token | T::OpaqueType | T::Invalid => 0,
        _ => 8,
    }
}

/// A shape in a few characters: `bf16[8,2048]`, or `(bf16[8,2048], s32[])`.
pub(super) fn describe(shape: &ShapeProto) -> String {
    if shape.element_type() == PrimitiveType::Tuple {
        let parts: Vec<_> = shape.tuple_shapes.iter().map(describe).collect();
        return format!("({})", parts.join(", "));
    }
    let dims: Vec<_> = shape.dimensions.iter().map(i64::to_string).collect();
    let name = shape.element_type().as_str_name().to_ascii_lowercase();
    let space = shape
        .layout
        .as_ref()
        .map_or(0, |layout| layout.memory_space);
    let core = if space == CHIP_MEMORY { "" } else { "@core" };
    format!("{name}[{}]{core}", dims.join(","))
}

/// Bytes that one execution reads from and writes to the chip's memory: operands and results that
/// lie there. Of an operand of which a fusion only takes slices, the slices count; of a result that
/// is an operand updated in place, the update.
pub(super) fn of_memory(
    computations: &Computations<'_>,
    instruction: &HloInstructionProto,
    by_id: &ById<'_>,
) -> Result<u64> {
    let operands = || {
        instruction
            .operand_ids
            .iter()
            .map(|id| by_id.get(id).and_then(|operand| operand.shape.as_ref()))
    };
    let result = instruction.shape.as_ref().map_or(0, in_memory);
    let operand = |index: usize| operands().nth(index).flatten().map_or(0, in_memory);
    Ok(match instruction.opcode.as_str() {
        "parameter"
        | "constant"
        | "get-tuple-element"
        | "bitcast"
        | "tuple"
        | "copy-done"
        | "async-done"
        | "async-update"
        | "all-reduce-done"
        | "all-gather-done"
        | "collective-permute-done"
        | "after-all"
        | "partition-id"
        | "replica-id"
        | "iota"
        | "opt-barrier" => 0,
        // The result is a tuple of destination, source and context; the source is not written.
        "copy-start" => {
            let destination = instruction
                .shape
                .as_ref()
                .and_then(|shape| shape.tuple_shapes.first())
                .map_or(0, in_memory);
            destination + operand(0)
        }
        "slice" | "dynamic-slice" | "gather" => 2 * result,
        "dynamic-update-slice" => 2 * operand(1),
        "async-start" => match instruction.called_computation_ids.first() {
            Some(&called) => wrapped(computations.computation(called)?),
            None => 0,
        },
        "fusion" => {
            let body = match instruction.called_computation_ids.first() {
                Some(&called) => Some(computations.computation(called)?),
                None => None,
            };
            fusion(
                body,
                operands().map(|shape| shape.map_or(0, in_memory)),
                result,
            )
        }
        _ => {
            operands()
                .map(|shape| shape.map_or(0, in_memory))
                .sum::<u64>()
                + result
        }
    })
}

/// What an asynchronous operation moves: its own operands and result.
fn wrapped(body: &HloComputationProto) -> u64 {
    let by_id = index(body);
    let Some(root) = by_id.get(&body.root_id) else {
        return 0;
    };
    let result = root.shape.as_ref().map_or(0, in_memory);
    let whole = root.shape.as_ref().map_or(0, of_shape);
    let operands = root
        .operand_ids
        .iter()
        .filter_map(|id| by_id.get(id)?.shape.as_ref());
    match root.opcode.as_str() {
        // A slice that goes to the core reads as much as it is.
        "slice" | "dynamic-slice" => result + operands.map(in_memory).sum::<u64>().min(whole),
        _ => result + operands.map(in_memory).sum::<u64>(),
    }
}

fn fusion(
    body: Option<&HloComputationProto>,
    operands: impl Iterator<Item = u64>,
    result: u64,
) -> u64 {
    let Some(body) = body else {
        return operands.sum::<u64>() + result;
    };
    let by_id = index(body);
    let mut updated = 0_u64;
    let mut read = 0_u64;
    for (index, bytes) in operands.enumerate() {
        if bytes == 0 {
            continue;
        }
        let parameter = body
            .instructions
            .iter()
            .find(|i| i.opcode == "parameter" && i.parameter_number == index as i64);
        let Some(parameter) = parameter else {
            read += bytes;
            continue;
        };
        match uses(body, &by_id, parameter.id) {
            Uses::Whole => read += bytes,
            Uses::Slices(part) => read += part.min(bytes),
            Uses::Updated { whole, part } => {
                // The result holds the operand again: only the update is written.
                updated += whole;
                read += part;
            }
        }
    }
    read + result.saturating_sub(updated)
}

enum Uses {
    Whole,
    /// Bytes of the slices taken.
    Slices(u64),
    /// Bytes of the whole, which goes into the result, and of what is written into it.
    Updated {
        whole: u64,
        part: u64,
    },
}

/// How the value of id `id` is used in a fusion.
fn uses(body: &HloComputationProto, by_id: &ById<'_>, id: i64) -> Uses {
    let size = |id: i64| {
        by_id
            .get(&id)
            .and_then(|i| i.shape.as_ref())
            .map_or(0, of_shape)
    };
    let mut slices = 0_u64;
    let mut update = None;
    for user in body
        .instructions
        .iter()
        .filter(|i| i.operand_ids.contains(&id))
    {
        let first = user.operand_ids.first() == Some(&id);
        match user.opcode.as_str() {
            "slice" | "dynamic-slice" | "gather" if first => slices += size(user.id),
            "dynamic-update-slice" if first => {
                update = user.operand_ids.get(1).map(|&part| size(part));
            }
            "bitcast" | "reshape" => match uses(body, by_id, user.id) {
                Uses::Whole => return Uses::Whole,
                Uses::Slices(part) => slices += part,
                Uses::Updated { part, .. } => update = Some(part),
            },
            _ => return Uses::Whole,
        }
    }
    match update {
        Some(part) => Uses::Updated {
            whole: size(id),
            part: part + slices,
        },
        None => Uses::Slices(slices),
    }
}
