//! Sums of products.

use hlo::{DotDims, ElementType, Literal, Precision};

use crate::host::{array, f32s};
use crate::program::Program;

/// Rows of the left times columns of the right operand.
fn matrices() -> DotDims {
    DotDims {
        lhs_contracting: vec![1],
        rhs_contracting: vec![0],
        ..DotDims::default()
    }
}

fn operands(t: ElementType) -> [Literal; 2] {
    [
        array(t, &[1.0, 5.0, 3.0, 4.0, 2.0, 6.0], &[2, 3]),
        array(t, &[1.0, 0.0, 2.0, 1.0, 0.0, 3.0], &[3, 2]),
    ]
}

fn product(t: ElementType) -> Literal {
    array(t, &[11.0, 14.0, 8.0, 20.0], &[2, 2])
}

#[test]
fn matrices_of_every_type_and_precision_multiply() {
    let mut program = Program::new("dot");
    for t in [
        ElementType::F16,
        ElementType::BF16,
        ElementType::F32,
        ElementType::F64,
        ElementType::S32,
        ElementType::U32,
    ] {
        for precision in [Precision::Default, Precision::High, Precision::Highest] {
            let name = format!("{t} in {precision:?} precision");
            program.case(&name, operands(t), product(t), |b, [x, y]| {
                b.dot_general(x, y, matrices(), None, precision)
            });
        }
    }
    program.run();
}

#[test]
fn sums_may_be_wider_than_products() {
    let mut program = Program::new("dot_wide");
    for (from, to) in [
        (ElementType::BF16, ElementType::F32),
        (ElementType::F16, ElementType::F32),
        (ElementType::S8, ElementType::S32),
    ] {
        program.case(
            &format!("{from} to {to}"),
            operands(from),
            product(to),
            |b, [x, y]| b.dot_general(x, y, matrices(), Some(to), Precision::Default),
        );
    }
    // 256 + 1 is no bf16, and 100 * 100 no s8.
    let vectors = || DotDims {
        lhs_contracting: vec![0],
        rhs_contracting: vec![0],
        ..DotDims::default()
    };
    for (from, to, x, y, sum) in [
        (
            ElementType::BF16,
            ElementType::F32,
            [16.0, 1.0],
            [16.0, 1.0],
            257.0,
        ),
        (
            ElementType::S8,
            ElementType::S32,
            [100.0, 3.0],
            [100.0, 6.0],
            10_018.0,
        ),
    ] {
        program.case(
            &format!("{from} to {to}, beyond {from}"),
            [array(from, &x, &[2]), array(from, &y, &[2])],
            array(to, &[sum], &[]),
            |b, [x, y]| b.dot_general(x, y, vectors(), Some(to), Precision::Default),
        );
    }
    program.run();
}

#[test]
fn batch_dimensions_stay_and_lead_wherever_they_were() {
    let mut program = Program::new("dot_batch");
    let rows = DotDims {
        lhs_batch: vec![0],
        rhs_batch: vec![0],
        lhs_contracting: vec![1],
        rhs_contracting: vec![1],
    };
    program.case(
        "row by row",
        [
            f32s(&[1.0, 2.0, 3.0, 4.0], &[2, 2]),
            f32s(&[5.0, 6.0, 7.0, 8.0], &[2, 2]),
        ],
        f32s(&[17.0, 53.0], &[2]),
        |b, [x, y]| b.dot_general(x, y, rows, None, Precision::Default),
    );
    // [batch, contracted, free] by [free, batch, contracted].
    let odd = DotDims {
        lhs_batch: vec![0],
        rhs_batch: vec![1],
        lhs_contracting: vec![1],
        rhs_contracting: vec![2],
    };
    program.case(
        "dimensions in odd places",
        [
            f32s(&[1.0, 2.0, 3.0, 4.0], &[2, 2, 1]),
            f32s(&[1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 1.0, 1.0], &[2, 2, 2]),
        ],
        f32s(&[1.0, 6.0, 4.0, 7.0], &[2, 1, 2]),
        |b, [x, y]| b.dot_general(x, y, odd, None, Precision::Default),
    );
    program.case(
        "nothing contracted",
        [f32s(&[1.0, 2.0], &[2]), f32s(&[3.0, 4.0], &[2])],
        f32s(&[3.0, 4.0, 6.0, 8.0], &[2, 2]),
        |b, [x, y]| b.dot_general(x, y, DotDims::default(), None, Precision::Default),
    );
    program.run();
}
