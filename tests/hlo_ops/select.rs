//! Comparing, choosing, and bounding.

use hlo::{Direction, ElementType};

use crate::host::{array, f32s, preds, s32s};
use crate::program::Program;

/// The directions one after the other. The match must name each, so that none goes untested.
fn directions() -> impl Iterator<Item = Direction> {
    std::iter::successors(Some(Direction::Eq), |direction| match direction {
        Direction::Eq => Some(Direction::Ne),
        Direction::Ne => Some(Direction::Lt),
        Direction::Lt => Some(Direction::Le),
        Direction::Le => Some(Direction::Gt),
        Direction::Gt => Some(Direction::Ge),
        Direction::Ge => None,
    })
}

fn holds(direction: Direction, a: f64, b: f64) -> bool {
    match direction {
        Direction::Eq => a == b,
        Direction::Ne => a != b,
        Direction::Lt => a < b,
        Direction::Le => a <= b,
        Direction::Gt => a > b,
        Direction::Ge => a >= b,
    }
}

#[test]
fn every_comparison_of_every_type_knows_signs_and_nan() {
    let mut program = Program::new("comparisons");
    for t in ElementType::ALL {
        let (lhs, rhs) = match t {
            ElementType::Pred => ([0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]),
            t if t.is_float() => ([1.0, 2.0, f64::NAN, 2.0], [2.0, -1.0, 1.0, 2.0]),
            t if t.is_signed_integer() => ([1.0, -2.0, 5.0, -3.0], [2.0, 1.0, 5.0, -7.0]),
            // The upper bit is set, which is no sign.
            _ => ([1.0, 200.0, 5.0, 2.0], [2.0, 1.0, 5.0, 255.0]),
        };
        for direction in directions() {
            let expected: [bool; 4] = std::array::from_fn(|i| holds(direction, lhs[i], rhs[i]));
            program.case(
                &format!("{direction:?} of {t}"),
                [array(t, &lhs, &[4]), array(t, &rhs, &[4])],
                preds(&expected, &[4]),
                |b, [l, r]| b.compare(l, r, direction),
            );
        }
    }
    program.run();
}

#[test]
fn select_takes_each_element_from_its_branch() {
    let mut program = Program::new("select");
    for t in ElementType::ALL {
        program.case(
            &format!("select of {t}"),
            [
                preds(&[true, false, false, true], &[4]),
                array(t, &[0.0, 0.0, 1.0, 1.0], &[4]),
                array(t, &[1.0, 1.0, 0.0, 0.0], &[4]),
            ],
            array(t, &[0.0, 1.0, 0.0, 1.0], &[4]),
            |b, [p, x, y]| b.select(p, x, y),
        );
    }
    program.run();
}

#[test]
fn clamp_takes_bounds_that_are_scalars_or_arrays() {
    let mut program = Program::new("clamp");
    let x = f32s(&[-1.5, 4.0, 2.5, 3.0], &[4]);
    program.case(
        "scalars",
        [f32s(&[-1.0], &[]), x, f32s(&[2.75], &[])],
        f32s(&[-1.0, 2.75, 2.5, 2.75], &[4]),
        |b, [low, x, high]| b.clamp(low, x, high),
    );
    program.case(
        "arrays",
        [
            s32s(&[0, 0], &[2]),
            s32s(&[-5, 9], &[2]),
            s32s(&[3, 4], &[2]),
        ],
        s32s(&[0, 4], &[2]),
        |b, [low, x, high]| b.clamp(low, x, high),
    );
    program.case(
        "one of each",
        [
            f32s(&[-1.0], &[]),
            f32s(&[-3.0, 4.0], &[2]),
            f32s(&[2.75, 1.0], &[2]),
        ],
        f32s(&[-1.0, 1.0], &[2]),
        |b, [low, x, high]| b.clamp(low, x, high),
    );
    program.run();
}
