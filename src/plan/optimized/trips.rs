//! The trip counts of loops, where the program itself fixes them.

use pjrt_sys::protos::xla::{HloComputationProto, HloInstructionProto};

use super::module::{ById, Computations, backend_config, index, number};

/// Values are looked for through at most this many instructions.
const MAX_DEPTH: usize = 16;

/// How often a loop's body runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trips {
    /// This often, whatever the arguments are.
    Known(u64),
    /// It depends on the arguments, or the program does not show it.
    Unknown,
}

/// The trip count of a `while`: what the compiler notes, or what the condition shows where that
/// compares a counter, which starts at a constant and changes by a constant, with a constant.
pub(super) fn of(
    computations: &Computations<'_>,
    instruction: &HloInstructionProto,
    caller: &ById<'_>,
) -> Trips {
    let noted = backend_config(instruction)
        .get("known_trip_count")
        .and_then(|count| count.get("n"))
        .and_then(number);
    noted
        .or_else(|| Loop::of(computations, instruction, caller)?.trips())
        .map_or(Trips::Unknown, Trips::Known)
}

/// A scalar that is a constant, or an element of the loop's state plus a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Affine {
    element: Option<i64>,
    offset: i64,
}

/// A loop with what its trip count depends on.
struct Loop<'a> {
    /// The elements of the state at the start.
    initial: &'a [i64],
    caller: Values<'a>,
    /// The elements of the state after a trip.
    next: &'a [i64],
    body: Values<'a>,
    condition: Values<'a>,
    condition_root: i64,
}

impl<'a> Loop<'a> {
    fn of(
        computations: &'a Computations<'a>,
        instruction: &HloInstructionProto,
        caller: &ById<'a>,
    ) -> Option<Self> {
        let &[body, condition] = instruction.called_computation_ids.as_slice() else {
            return None;
        };
        let body = computations.computation(body).ok()?;
        let condition = computations.computation(condition).ok()?;
        let values = |by_id: ById<'a>| Values {
            computations,
            by_id,
            arguments: None,
        };
        let body_values = values(index(body));
        Some(Self {
            initial: &caller.get(instruction.operand_ids.first()?)?.operand_ids,
            caller: values(caller.clone()),
            next: &body_values.by_id.get(&body.root_id)?.operand_ids,
            body: body_values,
            condition: values(index(condition)),
            condition_root: condition.root_id,
        })
    }

    /// The constant that an element of the state starts with.
    fn start(&self, element: i64) -> Option<i64> {
        let id = *self.initial.get(usize::try_from(element).ok()?)?;
        self.caller.constant(id)
    }

    /// By how much a trip changes an element of the state.
    fn step(&self, element: i64) -> Option<i64> {
        let id = *self.next.get(usize::try_from(element).ok()?)?;
        let value = self.body.affine(id, 0)?;
        (value.element == Some(element)).then_some(value.offset)
    }

    /// The value of what is the same in each trip.
    fn invariant(&self, value: Affine) -> Option<i64> {
        match value.element {
            None => Some(value.offset),
            Some(element) if self.step(element)? == 0 => {
                self.start(element)?.checked_add(value.offset)
            }
            Some(_) => None,
        }
    }

    fn trips(&self) -> Option<u64> {
        let (direction, left, right) = self.condition.comparison(self.condition_root, 0)?;
        let (direction, counter, limit) = match (self.invariant(left), self.invariant(right)) {
            (None, Some(limit)) => (direction, left, limit),
            (Some(limit), None) => (mirrored(direction)?, right, limit),
            _ => return None,
        };
        let element = counter.element?;
        let first = self.start(element)?.checked_add(counter.offset)?;
        trips_of(direction, first, limit, self.step(element)?)
    }
}

/// Trips of `for (i = first; i direction limit; i += step)`.
fn trips_of(direction: &str, first: i64, limit: i64, step: i64) -> Option<u64> {
    let distance = i128::from(limit) - i128::from(first);
    let step = i128::from(step);
    let trips = match direction {
        "LT" if step > 0 => (distance + step - 1).div_euclid(step),
        "LE" if step > 0 => distance.div_euclid(step) + 1,
        "GT" if step < 0 => (distance + step + 1).div_euclid(step),
        "GE" if step < 0 => distance.div_euclid(step) + 1,
        "NE" if step != 0 && distance % step == 0 && distance / step >= 0 => distance / step,
        _ => return None,
    };
    u64::try_from(trips.max(0)).ok()
}

/// The direction of a comparison whose sides are exchanged.
fn mirrored(direction: &str) -> Option<&'static str> {
    Some(match direction {
        "LT" => "GT",
        "LE" => "GE",
        "GT" => "LT",
        "GE" => "LE",
        "NE" => "NE",
        _ => return None,
    })
}

/// The scalars of a computation.
struct Values<'a> {
    computations: &'a Computations<'a>,
    by_id: ById<'a>,
    /// What a fusion's parameters are. None for the computations of a loop, whose one parameter is
    /// its state.
    arguments: Option<Vec<Option<Affine>>>,
}

impl<'a> Values<'a> {
    fn constant(&self, id: i64) -> Option<i64> {
        let value = self.affine(id, 0)?;
        value.element.is_none().then_some(value.offset)
    }

    fn affine(&self, id: i64, depth: usize) -> Option<Affine> {
        if depth > MAX_DEPTH {
            return None;
        }
        let instruction = *self.by_id.get(&id)?;
        let operand = |at: usize| self.affine(*instruction.operand_ids.get(at)?, depth + 1);
        match instruction.opcode.as_str() {
            "constant" => literal(instruction).map(|offset| Affine {
                element: None,
                offset,
            }),
            "get-tuple-element" => {
                let of = self.by_id.get(instruction.operand_ids.first()?)?;
                let is_state = of.opcode == "parameter" && self.arguments.is_none();
                is_state.then_some(Affine {
                    element: Some(instruction.tuple_index),
                    offset: 0,
                })
            }
            "parameter" => {
                let number = usize::try_from(instruction.parameter_number).ok()?;
                *self.arguments.as_ref()?.get(number)?
            }
            "copy" | "bitcast" | "reshape" | "convert" => operand(0),
            "add" => {
                let (a, b) = (operand(0)?, operand(1)?);
                let element = match (a.element, b.element) {
                    (Some(_), Some(_)) => return None,
                    (a, b) => a.or(b),
                };
                let offset = a.offset.checked_add(b.offset)?;
                Some(Affine { element, offset })
            }
            "subtract" => {
                let (a, b) = (operand(0)?, operand(1)?);
                let offset = a.offset.checked_sub(b.offset)?;
                b.element.is_none().then_some(Affine { offset, ..a })
            }
            "fusion" => {
                let (inner, root) = self.fused(instruction, depth)?;
                inner.affine(root, depth + 1)
            }
            _ => None,
        }
    }

    /// The two sides of a comparison, and its direction.
    fn comparison(&self, id: i64, depth: usize) -> Option<(&'a str, Affine, Affine)> {
        if depth > MAX_DEPTH {
            return None;
        }
        let instruction = *self.by_id.get(&id)?;
        match (
            instruction.opcode.as_str(),
            instruction.operand_ids.as_slice(),
        ) {
            ("compare", &[left, right]) => Some((
                instruction.comparison_direction.as_str(),
                self.affine(left, depth + 1)?,
                self.affine(right, depth + 1)?,
            )),
            ("copy" | "bitcast", &[of]) => self.comparison(of, depth + 1),
            ("fusion", _) => {
                let (inner, root) = self.fused(instruction, depth)?;
                inner.comparison(root, depth + 1)
            }
            _ => None,
        }
    }

    /// The inside of a fusion, and its root.
    fn fused(&self, fusion: &HloInstructionProto, depth: usize) -> Option<(Self, i64)> {
        let &[body] = fusion.called_computation_ids.as_slice() else {
            return None;
        };
        let body: &HloComputationProto = self.computations.computation(body).ok()?;
        let arguments = fusion.operand_ids.iter();
        let inner = Self {
            computations: self.computations,
            by_id: index(body),
            arguments: Some(arguments.map(|&id| self.affine(id, depth + 1)).collect()),
        };
        Some((inner, body.root_id))
    }
}

/// The value of an integer constant with one element.
fn literal(instruction: &HloInstructionProto) -> Option<i64> {
    let literal = instruction.literal.as_ref()?;
    match (literal.s32s.as_slice(), literal.s64s.as_slice()) {
        (&[value], []) => Some(value.into()),
        ([], &[value]) => Some(value),
        _ => match (literal.u32s.as_slice(), literal.u64s.as_slice()) {
            (&[value], []) => Some(value.into()),
            ([], &[value]) => i64::try_from(value).ok(),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trips_are_those_of_a_counting_loop() {
        for (direction, first, limit, step) in [
            ("LT", 0, 10, 1),
            ("LT", 3, 10, 4),
            ("LT", 10, 3, 1),
            ("LE", 0, 10, 5),
            ("LE", 1, 0, 1),
            ("GT", 9, 0, -2),
            ("GE", 9, 0, -3),
            ("GE", 0, 1, -1),
            ("NE", 8, 0, -2),
            ("NE", 0, 0, 1),
        ] {
            let goes_on = |i: i64| match direction {
                "LT" => i < limit,
                "LE" => i <= limit,
                "GT" => i > limit,
                "GE" => i >= limit,
                _ => i != limit,
            };
            let mut expected = 0;
            let mut i = first;
            while goes_on(i) {
                expected += 1;
                i += step;
            }
            let found = trips_of(direction, first, limit, step);
            assert_eq!(
                found,
                Some(expected),
                "{first} {direction} {limit} by {step}"
            );
        }
    }

    #[test]
    fn a_loop_that_does_not_come_closer_to_its_limit_has_no_trip_count() {
        for (direction, first, limit, step) in [
            ("LT", 0, 10, 0),
            ("LT", 0, 10, -1),
            ("GT", 9, 0, 1),
            ("NE", 0, 5, 2),
        ] {
            assert_eq!(trips_of(direction, first, limit, step), None);
        }
    }
}
