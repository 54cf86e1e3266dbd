//! Operations that move elements and compute none.

use hlo::{ElementType, Literal};

use crate::host::{f32s, s32s, u32s};
use crate::program::Program;

/// 1 to 6 in two rows.
fn six() -> Literal {
    f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])
}

#[test]
fn broadcast_repeats_along_the_dimensions_that_are_not_mapped() {
    let mut program = Program::new("broadcast");
    let pair = f32s(&[1.0, 2.0], &[2]);
    program.case(
        "to rows",
        [pair.clone()],
        f32s(&[1.0, 1.0, 1.0, 2.0, 2.0, 2.0], &[2, 3]),
        |b, [x]| b.broadcast(x, &[2, 3], &[0]),
    );
    program.case(
        "to columns",
        [pair],
        f32s(&[1.0, 2.0, 1.0, 2.0], &[2, 2]),
        |b, [x]| b.broadcast(x, &[2, 2], &[1]),
    );
    program.case(
        "a scalar",
        [f32s(&[7.0], &[])],
        f32s(&[7.0; 4], &[2, 2]),
        |b, [x]| b.broadcast_scalar(x, &[2, 2]),
    );
    program.run();
}

#[test]
fn reshape_keeps_the_order_and_transpose_and_reverse_change_it() {
    let mut program = Program::new("reshape_transpose_reverse");
    let order = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    program.case("reshape", [six()], f32s(&order, &[3, 1, 2]), |b, [x]| {
        b.reshape(x, &[3, 1, 2])
    });
    program.case(
        "transpose",
        [six()],
        f32s(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], &[3, 2]),
        |b, [x]| b.transpose(x, &[1, 0]),
    );
    let cube: Vec<i32> = (0..24).collect();
    let mut turned = Vec::new();
    for k in 0..4 {
        for i in 0..2 {
            turned.extend((0..3).map(|j| 12 * i + 4 * j + k));
        }
    }
    program.case(
        "transpose of three",
        [s32s(&cube, &[2, 3, 4])],
        s32s(&turned, &[4, 2, 3]),
        |b, [x]| b.transpose(x, &[2, 0, 1]),
    );
    program.case(
        "reverse",
        [six()],
        f32s(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], &[2, 3]),
        |b, [x]| b.reverse(x, &[0, 1]),
    );
    program.case(
        "reverse columns",
        [six()],
        f32s(&[3.0, 2.0, 1.0, 6.0, 5.0, 4.0], &[2, 3]),
        |b, [x]| b.reverse(x, &[1]),
    );
    program.run();
}

#[test]
fn concatenate_joins_arrays_and_empty_ones_too() {
    let mut program = Program::new("concatenate");
    program.case(
        "columns",
        [six(), f32s(&[8.0, 9.0], &[2, 1])],
        f32s(&[1.0, 2.0, 3.0, 8.0, 4.0, 5.0, 6.0, 9.0], &[2, 4]),
        |b, [x, y]| b.concatenate(&[x, y], 1),
    );
    program.case(
        "no rows and rows",
        [f32s(&[], &[0, 3]), six()],
        six(),
        |b, [x, y]| b.concatenate(&[x, y], 0),
    );
    program.run();
}

#[test]
fn pad_puts_values_around_and_between_and_cuts_where_negative() {
    let mut program = Program::new("pad");
    program.case(
        "around and between",
        [f32s(&[1.0, 2.0], &[2]), f32s(&[0.5], &[])],
        f32s(&[0.5, 1.0, 0.5, 2.0, 0.5, 0.5], &[6]),
        |b, [x, fill]| b.pad(x, fill, &[1], &[2], &[1]),
    );
    program.case(
        "negative",
        [six(), f32s(&[0.0], &[])],
        f32s(&[0.0, 0.0, 0.0, 2.0, 3.0, 0.0, 5.0, 6.0, 0.0], &[3, 3]),
        |b, [x, fill]| b.pad(x, fill, &[1, -1], &[0, 1], &[0, 0]),
    );
    program.run();
}

#[test]
fn slice_takes_every_so_many_between_its_limits() {
    let mut program = Program::new("slice");
    program.case("strided", [six()], f32s(&[4.0, 6.0], &[1, 2]), |b, [x]| {
        b.slice(x, &[1, 0], &[2, 3], &[1, 2])
    });
    program.case(
        "one dimension",
        [six()],
        f32s(&[2.0, 3.0, 5.0, 6.0], &[2, 2]),
        |b, [x]| b.slice_dim(x, 1, 1, 3),
    );
    program.case("nothing", [six()], f32s(&[], &[2, 0]), |b, [x]| {
        b.slice_dim(x, 1, 2, 2)
    });
    program.run();
}

#[test]
fn dynamic_slices_move_back_from_the_end() {
    let mut program = Program::new("dynamic_slices");
    program.case(
        "slice",
        [six(), s32s(&[1], &[]), s32s(&[5], &[])],
        f32s(&[5.0, 6.0], &[1, 2]),
        |b, [x, row, column]| b.dynamic_slice(x, &[row, column], &[1, 2]),
    );
    program.case(
        "slice by unsigned and wide starts",
        [six(), u32s(&[1], &[])],
        f32s(&[6.0], &[1, 1]),
        |b, [x, i]| {
            let wide = b.convert(i, ElementType::S64)?;
            let last = b.dynamic_slice(x, &[wide, wide], &[1, 2])?;
            b.dynamic_slice(last, &[i, i], &[1, 1])
        },
    );
    program.case(
        "update",
        [six(), f32s(&[9.0], &[1, 1]), s32s(&[1], &[])],
        f32s(&[1.0, 2.0, 3.0, 4.0, 9.0, 6.0], &[2, 3]),
        |b, [x, update, i]| b.dynamic_update_slice(x, update, &[i, i]),
    );
    program.case(
        "update past the end",
        [six(), f32s(&[8.0, 9.0], &[1, 2]), s32s(&[7], &[])],
        f32s(&[1.0, 2.0, 3.0, 4.0, 8.0, 9.0], &[2, 3]),
        |b, [x, update, i]| b.dynamic_update_slice(x, update, &[i, i]),
    );
    program.run();
}

#[test]
fn scalars_pass_through_every_movement() {
    let mut program = Program::new("scalar_movements");
    program.case("all", [s32s(&[5], &[])], s32s(&[5], &[]), |b, [x]| {
        let x = b.transpose(x, &[])?;
        let x = b.reverse(x, &[])?;
        let x = b.slice(x, &[], &[], &[])?;
        let x = b.dynamic_slice(x, &[], &[])?;
        let x = b.dynamic_update_slice(x, x, &[])?;
        let x = b.pad(x, x, &[], &[], &[])?;
        b.reshape(b.reshape(x, &[1, 1])?, &[])
    });
    program.run();
}
