//! Reductions, whole and in windows, and sorting.

use hlo::{
    BinaryOp, Builder, Computation, Direction, ElementType, Literal, Result, Shape, WindowDim,
};

use crate::host::{array, f32s, preds, s32s};
use crate::program::Program;

fn table() -> Literal {
    f32s(&[1.0, 5.0, 3.0, 4.0, -2.0, 6.0], &[2, 3])
}

fn add() -> Computation {
    Computation::binary(BinaryOp::Add, ElementType::F32).expect("defined on floats")
}

#[test]
fn reductions_run_over_the_dimensions_named() {
    let mut program = Program::new("reductions");
    program.case(
        "sums of rows",
        [table()],
        f32s(&[9.0, 8.0], &[2]),
        |b, [x]| b.reduce_sum(x, &[1]),
    );
    program.case("sum of all", [table()], f32s(&[17.0], &[]), |b, [x]| {
        b.reduce_sum(x, &[0, 1])
    });
    program.case("sum over nothing", [table()], table(), |b, [x]| {
        b.reduce_sum(x, &[])
    });
    program.case(
        "maxima",
        [table()],
        f32s(&[4.0, 5.0, 6.0], &[3]),
        |b, [x]| b.reduce_max(x, &[0]),
    );
    program.case("minima", [table()], f32s(&[1.0, -2.0], &[2]), |b, [x]| {
        b.reduce_min(x, &[1])
    });
    let logic = preds(&[true, false, true, true, false, false], &[3, 2]);
    program.case(
        "and",
        [logic.clone()],
        preds(&[false, true, false], &[3]),
        |b, [x]| b.reduce_and(x, &[1]),
    );
    program.case(
        "or",
        [logic],
        preds(&[true, true, false], &[3]),
        |b, [x]| b.reduce_or(x, &[1]),
    );
    program.case(
        "one's own reducer and init",
        [table(), f32s(&[0.5], &[])],
        f32s(&[9.5, 8.5], &[2]),
        |b, [x, init]| b.reduce(&[x], &[init], &[1], &add()),
    );
    program.run();
}

#[test]
fn sums_and_extrema_are_there_for_every_number_and_for_no_element() {
    let mut program = Program::new("reductions_of_types");
    for t in ElementType::ALL
        .into_iter()
        .filter(|&t| t != ElementType::Pred)
    {
        let three = || array(t, &[2.0, 5.0, 1.0], &[3]);
        let none = || array(t, &[], &[0]);
        let number = |x| array(t, &[x], &[]);
        program.case(&format!("sum of {t}"), [three()], number(8.0), |b, [x]| {
            b.reduce_sum(x, &[0])
        });
        program.case(&format!("max of {t}"), [three()], number(5.0), |b, [x]| {
            b.reduce_max(x, &[0])
        });
        program.case(&format!("min of {t}"), [three()], number(1.0), |b, [x]| {
            b.reduce_min(x, &[0])
        });
        program.case(
            &format!("sum of no {t}"),
            [none()],
            number(0.0),
            |b, [x]| b.reduce_sum(x, &[0]),
        );
        program.case(
            &format!("max of no {t}"),
            [none()],
            Literal::lowest(t),
            |b, [x]| b.reduce_max(x, &[0]),
        );
        program.case(
            &format!("min of no {t}"),
            [none()],
            Literal::highest(t),
            |b, [x]| b.reduce_min(x, &[0]),
        );
    }
    let nan = || [f32s(&[1.0, f32::NAN, 2.0], &[3])];
    program.case("max with NaN", nan(), f32s(&[f32::NAN], &[]), |b, [x]| {
        b.reduce_max(x, &[0])
    });
    program.case("min with NaN", nan(), f32s(&[f32::NAN], &[]), |b, [x]| {
        b.reduce_min(x, &[0])
    });
    program.run();
}

#[test]
fn argmax_gives_the_first_greatest_and_the_first_nan() {
    const INF: f64 = f64::NEG_INFINITY;
    const NAN: f64 = f64::NAN;
    let rows = [
        1.0, 7.0, 7.0, 0.0, //
        INF, INF, INF, INF, //
        3.0, NAN, 9.0, NAN, //
        -3.0, -1.0, -2.0, -1.0,
    ];
    let mut program = Program::new("argmax");
    let argmax = |b: &Builder, x, dim| b.argmax(x, dim).map(<[_; 2]>::from);
    for t in ElementType::ALL.into_iter().filter(|t| t.is_float()) {
        program.cases(
            &format!("rows of {t}"),
            [array(t, &rows, &[4, 4])],
            [
                array(t, &[7.0, INF, NAN, -1.0], &[4]),
                s32s(&[1, 0, 1, 1], &[4]),
            ],
            |b, [x]| argmax(b, x, 1),
        );
    }
    program.cases(
        "columns",
        [table()],
        [f32s(&[4.0, 5.0, 6.0], &[3]), s32s(&[1, 0, 1], &[3])],
        |b, [x]| argmax(b, x, 0),
    );
    program.cases(
        "integers, the least of all among them",
        [s32s(&[i32::MIN, i32::MIN, 3, 3], &[2, 2])],
        [s32s(&[i32::MIN, 3], &[2]), s32s(&[0, 0], &[2])],
        |b, [x]| argmax(b, x, 1),
    );
    // As long as a vocabulary of some thousands, with the same greatest value in several places.
    let long: Vec<f32> = (0..5000_u16).map(|i| f32::from(i * 7 % 499)).collect();
    let first = long.iter().position(|&x| x == 498.0).expect("it is there");
    let first = i32::try_from(first).expect("a small number");
    program.cases(
        "long rows",
        [f32s(&long, &[1, 5000])],
        [f32s(&[498.0], &[1]), s32s(&[first], &[1])],
        |b, [x]| argmax(b, x, 1),
    );
    program.run();
}

#[test]
fn windows_move_by_their_stride_over_the_padded_array() {
    let mut program = Program::new("reduce_window");
    let window = WindowDim {
        size: 2,
        stride: 2,
        padding_low: 1,
        padding_high: 0,
    };
    program.case(
        "strided and padded",
        [f32s(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5]), f32s(&[0.0], &[])],
        f32s(&[1.0, 5.0, 9.0], &[3]),
        |b, [x, init]| b.reduce_window(x, init, &[window], &add()),
    );
    let around = WindowDim {
        padding_low: 1,
        padding_high: 1,
        ..WindowDim::default()
    };
    program.case(
        "of an empty array",
        [f32s(&[], &[0]), f32s(&[2.0], &[])],
        f32s(&[2.0, 2.0], &[2]),
        |b, [x, init]| b.reduce_window(x, init, &[around], &add()),
    );
    program.run();
}

#[test]
fn cumsum_adds_what_came_before() {
    let mut program = Program::new("cumsum");
    program.case(
        "along rows",
        [table()],
        f32s(&[1.0, 6.0, 9.0, 4.0, 2.0, 8.0], &[2, 3]),
        |b, [x]| b.cumsum(x, 1),
    );
    program.case(
        "along columns",
        [s32s(&[1, 2, 3, 4], &[2, 2])],
        s32s(&[1, 2, 4, 6], &[2, 2]),
        |b, [x]| b.cumsum(x, 0),
    );
    let numbers: Vec<i32> = (0..3000).map(|i| i % 5).collect();
    let sums: Vec<i32> = numbers
        .iter()
        .scan(0, |sum, &x| {
            *sum += x;
            Some(*sum)
        })
        .collect();
    program.case(
        "long rows",
        [s32s(&numbers, &[1, 3000])],
        s32s(&sums, &[1, 3000]),
        |b, [x]| b.cumsum(x, 1),
    );
    program.run();
}

/// Compares the first of the sorted arrays, which are of these types.
fn order(b: &Builder, types: &[ElementType], direction: Direction) -> Result<Computation> {
    let pairs = types
        .iter()
        .flat_map(|&t| [Shape::scalar(t), Shape::scalar(t)]);
    let parameters: Vec<Shape> = pairs.collect();
    b.computation("order", &parameters, |b, x| {
        b.compare(x[0], x[1], direction)
    })
}

#[test]
fn sort_orders_rows_and_takes_other_arrays_along() {
    let mut program = Program::new("sort");
    let floats = [ElementType::F32];
    program.case(
        "rows",
        [table()],
        f32s(&[1.0, 3.0, 5.0, -2.0, 4.0, 6.0], &[2, 3]),
        |b, [x]| b.sort(&[x], 1, false, &order(b, &floats, Direction::Lt)?),
    );
    let with_places = [ElementType::F32, ElementType::S32];
    program.cases(
        "falling, with places, ties in their order",
        [f32s(&[2.0, 1.0, 2.0, 3.0], &[4]), s32s(&[0, 1, 2, 3], &[4])],
        [f32s(&[3.0, 2.0, 2.0, 1.0], &[4]), s32s(&[3, 0, 2, 1], &[4])],
        |b, [x, places]| {
            let sorted = b.sort(
                &[x, places],
                0,
                true,
                &order(b, &with_places, Direction::Gt)?,
            )?;
            Ok([
                b.get_tuple_element(sorted, 0)?,
                b.get_tuple_element(sorted, 1)?,
            ])
        },
    );
    program.run();
}

#[test]
fn ranked_rows_are_falling_with_the_lower_id_first_and_nan_before_all() {
    let mut program = Program::new("ranked");
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    program.case(
        "ids of equal elements, infinities and NaN",
        [
            f32s(&[2.0, 3.0, 2.0, -inf, 1.0, nan, inf, nan], &[2, 4]),
            s32s(&[9, 5, 4, 7, 8, 3, 1, 2], &[2, 4]),
        ],
        s32s(&[5, 4, 9, 7, 2, 3, 1, 8], &[2, 4]),
        |b, [x, ids]| b.tensor(Ok(x)).ranked(b.tensor(Ok(ids))).1.value(),
    );
    program.case(
        "elements",
        [
            f32s(&[2.0, 3.0, 2.0, -inf], &[1, 4]),
            s32s(&[0, 1, 2, 3], &[1, 4]),
        ],
        f32s(&[3.0, 2.0, 2.0, -inf], &[1, 4]),
        |b, [x, ids]| b.tensor(Ok(x)).ranked(b.tensor(Ok(ids))).0.value(),
    );
    program.run();
}
