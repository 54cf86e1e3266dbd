//! Copies of whole caches, which a program should not need: it takes its caches in the layout in
//! which it works on them, and writes new tokens in place.

use pjrt_sys::protos::xla::{HloInstructionProto, ShapeProto};

use super::super::error::Result;
use super::bytes::CHIP_MEMORY;
use super::data::Relayout;
use super::module::{ById, Computations};

/// Arrays of fewer dimensions are a batch's tokens and positions rather than caches.
const MIN_RANK: usize = 3;

/// Element type and dimensions, in ascending order without those of size 1, of each cache.
pub(super) struct CacheShapes(Vec<(i32, Vec<i64>)>);

impl CacheShapes {
    /// The caches of a module: what its result has of three dimensions or more. All programs give
    /// the caches back, so that the next call can take them.
    pub fn of(computations: &Computations<'_>) -> Result<Self> {
        let entry = computations.computation(computations.module.entry_computation_id)?;
        let root = entry.instructions.iter().find(|i| i.id == entry.root_id);
        let mut shapes = Vec::new();
        for shape in root
            .and_then(|root| root.shape.as_ref())
            .into_iter()
            .flat_map(leaves)
            .filter(|shape| shape.dimensions.len() >= MIN_RANK)
        {
            let key = key(shape);
            if !shapes.contains(&key) {
                shapes.push(key);
            }
        }
        Ok(Self(shapes))
    }

    /// Whether an array in the chip's memory has the size of a whole cache.
    fn has(&self, shape: &ShapeProto) -> bool {
        memory_space(shape) == CHIP_MEMORY
            && shape.dimensions.len() >= MIN_RANK - 1
            && self.0.contains(&key(shape))
    }
}

/// The layouts between which an instruction copies a whole cache within the chip's memory; none
/// where it does not. A cache that was fetched to the core and comes back in another layout is
/// copied too.
pub(super) fn copy(
    caches: &CacheShapes,
    computations: &Computations<'_>,
    instruction: &HloInstructionProto,
    by_id: &ById<'_>,
) -> Result<Option<Relayout>> {
    let to = instruction
        .shape
        .iter()
        .flat_map(leaves)
        .find(|s| caches.has(s));
    let Some(to) = to else {
        return Ok(None);
    };
    if let Some((from, _)) = from_core(caches, instruction, by_id) {
        return Ok((layout(from) != layout(to)).then(|| Relayout {
            from: format!("{}@core", layout(from)),
            to: layout(to),
        }));
    }
    let operands = instruction
        .operand_ids
        .iter()
        .filter_map(|id| by_id.get(id)?.shape.as_ref());
    let from: Vec<_> = operands
        .flat_map(leaves)
        .filter(|s| caches.has(s))
        .collect();
    let Some(first) = from.first() else {
        return Ok(None);
    };
    let between = |from: &ShapeProto| Relayout {
        from: layout(from),
        to: layout(to),
    };
    let found = match instruction.opcode.as_str() {
        "copy" | "transpose" => Some(between(first)),
        // The result is a tuple of destination, source and context; a destination on the core is
        // a fetch and no copy.
        "copy-start" => instruction
            .shape
            .as_ref()
            .and_then(|shape| shape.tuple_shapes.first())
            .filter(|destination| caches.has(destination))
            .map(|_| between(first)),
        "fusion" | "async-start" => match instruction.called_computation_ids.first() {
            Some(&body) if only_moves(computations, body)? => Some(between(first)),
            // Writing a token in place keeps the layout.
            _ => from
                .iter()
                .all(|from| layout(from) != layout(to))
                .then(|| between(first)),
        },
        _ => None,
    };
    Ok(found)
}

/// The layout in which an instruction copies a whole cache from the core to the chip's memory as it
/// is; none where it does not.
pub(super) fn write_back(
    caches: &CacheShapes,
    instruction: &HloInstructionProto,
    by_id: &ById<'_>,
) -> Option<Relayout> {
    let (from, to) = from_core(caches, instruction, by_id)?;
    (layout(from) == layout(to)).then(|| Relayout {
        from: format!("{}@core", layout(from)),
        to: layout(to),
    })
}

/// Operand and result of a copy of a whole cache from the core to the chip's memory.
fn from_core<'a>(
    caches: &CacheShapes,
    instruction: &'a HloInstructionProto,
    by_id: &ById<'a>,
) -> Option<(&'a ShapeProto, &'a ShapeProto)> {
    let result = instruction.shape.as_ref()?;
    let to = match instruction.opcode.as_str() {
        "copy" => result,
        "copy-start" => result.tuple_shapes.first()?,
        _ => return None,
    };
    let operand = by_id.get(instruction.operand_ids.first()?)?;
    let from = operand.shape.as_ref()?;
    let found = caches.has(to) && memory_space(from) != CHIP_MEMORY && key(from) == key(to);
    found.then_some((from, to))
}

/// Whether a computation does nothing but to copy.
fn only_moves(computations: &Computations<'_>, id: i64) -> Result<bool> {
    let body = computations.computation(id)?;
    let mut copies = false;
    for instruction in &body.instructions {
        match instruction.opcode.as_str() {
            "parameter" | "bitcast" | "reshape" | "tuple" | "get-tuple-element" => {}
            "copy" | "transpose" => copies = true,
            _ => return Ok(false),
        }
    }
    Ok(copies)
}

fn key(shape: &ShapeProto) -> (i32, Vec<i64>) {
    let mut dims: Vec<_> = shape
        .dimensions
        .iter()
        .copied()
        .filter(|&d| d != 1)
        .collect();
    dims.sort_unstable();
    (shape.element_type, dims)
}

/// The arrays of a shape.
fn leaves(shape: &ShapeProto) -> Vec<&ShapeProto> {
    if shape.tuple_shapes.is_empty() {
        vec![shape]
    } else {
        shape.tuple_shapes.iter().flat_map(leaves).collect()
    }
}

fn memory_space(shape: &ShapeProto) -> i64 {
    shape.layout.as_ref().map_or(0, |l| l.memory_space)
}

/// The order of the dimensions in memory, the innermost first: `{3,2,1,0}`.
fn layout(shape: &ShapeProto) -> String {
    let order = shape
        .layout
        .as_ref()
        .map_or(&[][..], |l| l.minor_to_major.as_slice());
    let order: Vec<_> = order.iter().map(i64::to_string).collect();
    format!("{{{}}}", order.join(","))
}
