//! Loops, branches, calls and tuples.

use hlo::{CustomCallApi, CustomCallOptions, ElementType, Shape};

use crate::host::{f32s, preds, s32s};
use crate::program::Program;

const S32: ElementType = ElementType::S32;

#[test]
fn while_runs_its_body_as_long_as_the_condition_holds() {
    let mut program = Program::new("while");
    program.cases(
        "a tuple as state",
        [s32s(&[0], &[]), s32s(&[1], &[])],
        [s32s(&[10], &[]), s32s(&[1024], &[])],
        |b, [count, power]| {
            let end = b.while_with(
                b.tuple(&[count, power])?,
                |b, state| {
                    let count = b.get_tuple_element(state, 0)?;
                    b.compare(count, b.scalar(S32, 10.0)?, hlo::Direction::Lt)
                },
                |b, state| {
                    let parts = b.untuple(state)?;
                    let count = b.add(parts[0], b.scalar(S32, 1.0)?)?;
                    b.tuple(&[count, b.add(parts[1], parts[1])?])
                },
            )?;
            Ok([b.get_tuple_element(end, 0)?, b.get_tuple_element(end, 1)?])
        },
    );
    program.case(
        "an array as state",
        [s32s(&[3], &[])],
        s32s(&[12], &[]),
        |b, [x]| {
            let state = [Shape::scalar(S32)];
            let below = b.computation("below", &state, |b, x| {
                b.compare(x[0], b.scalar(S32, 10.0)?, hlo::Direction::Lt)
            })?;
            let double = b.computation("double", &state, |b, x| b.add(x[0], x[0]))?;
            b.while_loop(x, &below, &double)
        },
    );
    program.case("never", [s32s(&[30], &[])], s32s(&[30], &[]), |b, [x]| {
        b.while_with(
            x,
            |b, x| b.compare(x, b.scalar(S32, 10.0)?, hlo::Direction::Lt),
            |b, x| b.add(x, x),
        )
    });
    program.run();
}

#[test]
fn conditional_runs_the_branch_that_the_predicate_names() {
    let mut program = Program::new("conditional");
    for (on, expected) in [(true, 3.0), (false, -5.0)] {
        program.case(
            &format!("on {on}"),
            [
                preds(&[on], &[]),
                f32s(&[1.0, 2.0], &[2]),
                f32s(&[5.0], &[]),
            ],
            f32s(&[expected], &[]),
            |b, [on, pair, one]| {
                let (two, scalar) = (
                    Shape::array(ElementType::F32, &[2]),
                    Shape::scalar(ElementType::F32),
                );
                let sum = b.computation("sum", &[two], |b, x| b.reduce_sum(x[0], &[0]))?;
                let negative = b.computation("negative", &[scalar], |b, x| b.neg(x[0]))?;
                b.conditional(on, pair, &sum, one, &negative)
            },
        );
    }
    program.run();
}

#[test]
fn calls_tuples_and_barriers_pass_values_on() {
    let mut program = Program::new("calls_and_tuples");
    program.case(
        "a computation called twice",
        [f32s(&[2.0], &[])],
        f32s(&[16.0], &[]),
        |b, [x]| {
            let scalar = Shape::scalar(ElementType::F32);
            let square = b.computation("square", &[scalar], |b, x| b.mul(x[0], x[0]))?;
            b.call(&square, &[b.call(&square, &[x])?])
        },
    );
    program.cases(
        "nested tuples",
        [f32s(&[2.0], &[]), s32s(&[3], &[])],
        [s32s(&[3], &[]), f32s(&[2.0], &[])],
        |b, [x, y]| {
            let nested = b.tuple(&[x, b.tuple(&[y, x])?])?;
            let parts = b.untuple(b.get_tuple_element(nested, 1)?)?;
            Ok([parts[0], parts[1]])
        },
    );
    program.case(
        "a barrier",
        [f32s(&[2.0], &[])],
        f32s(&[4.0], &[]),
        |b, [x]| b.add(x, b.optimization_barrier(x)?),
    );
    program.case(
        "a barrier of a tuple",
        [f32s(&[2.0], &[]), f32s(&[3.0], &[])],
        f32s(&[6.0], &[]),
        |b, [x, y]| {
            let parts = b.untuple(b.optimization_barrier(b.tuple(&[x, y])?)?)?;
            b.mul(parts[0], parts[1])
        },
    );
    program.case(
        "an odd name",
        [f32s(&[2.0], &[])],
        f32s(&[4.0], &[]),
        |b, [x]| b.named(b.add(x, x)?, "1 odd/\"name\""),
    );
    program.run();
}

#[test]
fn a_custom_call_reaches_the_function_that_the_plugin_has() {
    let mut program = Program::new("custom_call");
    program.cases(
        "TopK",
        [f32s(&[3.0, 1.0, 9.0, 4.0], &[4])],
        [f32s(&[9.0, 4.0], &[2]), s32s(&[2, 3], &[2])],
        |b, [x]| {
            let result = Shape::Tuple(vec![
                Shape::array(ElementType::F32, &[2]),
                Shape::array(S32, &[2]),
            ]);
            let options = CustomCallOptions {
                api_version: CustomCallApi::StatusReturningUnified,
                operand_layouts: Some(vec![Shape::array(ElementType::F32, &[4])]),
                ..CustomCallOptions::default()
            };
            let top = b.custom_call("TopK", &[x], result, options)?;
            Ok([b.get_tuple_element(top, 0)?, b.get_tuple_element(top, 1)?])
        },
    );
    program.run();
}
