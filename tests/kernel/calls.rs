//! Products, the greatest of rows, and calls that fail.

use gemma_xla::kernel::{ARGMAX, MATMUL};
use gemma_xla::pjrt::CustomCall;
use half::bf16;
use hlo::{Builder, CustomCallOptions, Direction, DotDims, ElementType, Precision, Shape, Value};

use crate::support::{Panicking, call, clients, numbers, run, upload};

const BF16: ElementType = ElementType::BF16;
const F32: ElementType = ElementType::F32;

#[test]
fn a_program_gets_the_product_that_a_dot_would_give() {
    let (rows, inputs, outputs) = (5, 96, 33);
    for client in clients() {
        let b = Builder::new("product");
        let x = b
            .parameter("x", Shape::array(BF16, &[rows, inputs]))
            .expect("x");
        let w = b
            .parameter("w", Shape::array(BF16, &[outputs, inputs]))
            .expect("w");
        let ours = call(&b, MATMUL, &[x, w], Shape::array(F32, &[rows, outputs]));
        let dims = DotDims {
            lhs_contracting: vec![1],
            rhs_contracting: vec![1],
            ..DotDims::default()
        };
        let theirs = b
            .dot_general(x, w, dims, Some(F32), Precision::Default)
            .expect("a dot");
        let difference = b.sub(ours, theirs).expect("a difference");
        let x = upload(&client, &numbers((rows * inputs) as usize), &[rows, inputs]);
        let w = upload(
            &client,
            &numbers((outputs * inputs) as usize),
            &[outputs, inputs],
        );
        let result = run(&client, b, difference, &[&x, &w]).expect("it runs");
        let differences = result.to_vec_f32().expect("a download");
        assert_eq!(differences.len(), (rows * outputs) as usize);
        for difference in differences {
            assert!(difference.abs() < 1e-4, "{difference} on {client:?}");
        }
    }
}

#[test]
fn a_program_gets_the_greatest_of_each_row_and_where_it_stands() {
    let dims = [5, 3001];
    let mut values = numbers((dims[0] * dims[1]) as usize);
    // A row with a NaN, and one of equal elements.
    values[3001 + 70] = bf16::NAN;
    values[2 * 3001..3 * 3001].fill(bf16::ONE);
    for client in clients() {
        let b = Builder::new("greatest");
        let x = b.parameter("x", Shape::array(BF16, &dims)).expect("x");
        let s32 = ElementType::S32;
        let pair = Shape::Tuple(vec![
            Shape::array(BF16, &dims[..1]),
            Shape::array(s32, &dims[..1]),
        ]);
        let ours = call(&b, ARGMAX, &[x], pair);
        let part = |index| b.get_tuple_element(ours, index).expect("a part");
        let (value, position) = (part(0), part(1));
        let theirs = b.argmax(x, 1).expect("the compiler's own");
        let bits = |x| b.bitcast_convert(x, ElementType::U16).expect("bits");
        let apart = [
            b.compare(bits(value), bits(theirs.0), Direction::Ne),
            b.compare(position, theirs.1, Direction::Ne),
        ];
        let [values_apart, positions_apart] =
            apart.map(|x| b.convert(x.expect("a comparison"), F32).expect("numbers"));
        let apart = b.add(values_apart, positions_apart).expect("a sum");
        let x = upload(&client, &values, &dims);
        let result = run(&client, b, apart, &[&x]).expect("it runs");
        assert_eq!(
            result.to_vec_f32().expect("a download"),
            [0.0; 5],
            "{client:?}"
        );
    }
}

#[test]
fn a_while_loop_calls_the_kernel_in_each_turn() {
    // A permutation as weights: each turn moves every element on by one place.
    let size = 40_usize;
    let turns = 7;
    let dims = [size as i64, size as i64];
    let mut shift = vec![bf16::ZERO; size * size];
    for output in 0..size {
        shift[output * size + (output + 1) % size] = bf16::ONE;
    }
    for client in clients() {
        let b = Builder::new("turns");
        let x = b
            .parameter("x", Shape::array(BF16, &[2, size as i64]))
            .expect("x");
        let w = b.parameter("w", Shape::array(BF16, &dims)).expect("w");
        let zero = b.scalar(ElementType::S32, 0.0).expect("a constant");
        let init = b.tuple(&[zero, x, w]).expect("a tuple");
        let state = b
            .while_with(
                init,
                |b, state| {
                    let turn = b.get_tuple_element(state, 0)?;
                    let end = b.scalar(ElementType::S32, f64::from(turns))?;
                    b.compare(turn, end, Direction::Lt)
                },
                |b, state| {
                    let turn = b.get_tuple_element(state, 0)?;
                    let x = b.get_tuple_element(state, 1)?;
                    let w = b.get_tuple_element(state, 2)?;
                    let result = Shape::array(BF16, &[2, size as i64]);
                    let y = b.custom_call(MATMUL, &[x, w], result, CustomCallOptions::default())?;
                    let one = b.scalar(ElementType::S32, 1.0)?;
                    b.tuple(&[b.add(turn, one)?, y, w])
                },
            )
            .expect("a loop");
        let root = b
            .convert(b.get_tuple_element(state, 1).expect("an element"), F32)
            .expect("a conversion");
        let start = numbers(2 * size);
        let x = upload(&client, &start, &[2, size as i64]);
        let w = upload(&client, &shift, &dims);
        let result = run(&client, b, root, &[&x, &w]).expect("it runs");
        let expected: Vec<f32> = (0..2 * size)
            .map(|i| start[i / size * size + (i % size + turns as usize) % size].to_f32())
            .collect();
        assert_eq!(result.to_vec_f32(), Ok(expected), "{client:?}");
    }
}

#[test]
fn operands_that_do_not_fit_make_the_program_fail_with_a_message() {
    let s32 = ElementType::S32;
    type Array = (ElementType, &'static [i64]);
    let cases: &[(&[Array], ElementType, &[i64], &str)] = &[
        (
            &[(BF16, &[2, 8]), (BF16, &[3, 9])],
            F32,
            &[2, 3],
            "[2, 8] times the transpose of [3, 9] is not [2, 3]",
        ),
        (
            &[(BF16, &[2, 8]), (BF16, &[3, 8])],
            F32,
            &[3, 2],
            "is not [3, 2]",
        ),
        (&[(BF16, &[2, 8]), (BF16, &[3, 8])], F32, &[6], "is not [6]"),
        (
            &[(BF16, &[16]), (BF16, &[3, 8])],
            F32,
            &[2, 3],
            "[16] times",
        ),
        (
            &[(F32, &[2, 8]), (BF16, &[3, 8])],
            F32,
            &[2, 3],
            "f32 times bf16 to f32 is not supported",
        ),
        (
            &[(s32, &[2, 8]), (s32, &[3, 8])],
            s32,
            &[2, 3],
            "s32 times s32 to s32 is not supported",
        ),
        (&[(BF16, &[2, 8])], F32, &[2, 3], "takes two operands"),
    ];
    for client in clients() {
        for &(operands, result_type, result_dims, message) in cases {
            let b = Builder::new("wrong");
            let values: Vec<Value> = operands
                .iter()
                .map(|&(element_type, dims)| b.full(element_type, dims, 1.0).expect("a constant"))
                .collect();
            let root = call(&b, MATMUL, &values, Shape::array(result_type, result_dims));
            let error = run(&client, b, root, &[]).expect_err("it must fail");
            assert!(error.contains(message), "{error}");
            assert!(error.contains(MATMUL), "{error}");
        }
    }
}

#[test]
fn products_without_elements_run() {
    for client in clients() {
        for (rows, inputs, outputs) in [(0, 8, 3), (2, 8, 0), (2, 0, 3)] {
            let b = Builder::new("empty");
            let x = b.full(BF16, &[rows, inputs], 1.0).expect("x");
            let w = b.full(BF16, &[outputs, inputs], 1.0).expect("w");
            let root = call(&b, MATMUL, &[x, w], Shape::array(F32, &[rows, outputs]));
            let result = run(&client, b, root, &[]).expect("it runs");
            assert_eq!(
                result.to_vec_f32(),
                Ok(vec![0.0; (rows * outputs) as usize])
            );
        }
    }
}

#[test]
fn a_custom_call_that_panics_is_an_error_of_the_program() {
    for client in clients() {
        let b = Builder::new("panic");
        let root = call(&b, Panicking::TARGET, &[], Shape::array(F32, &[2]));
        let error = run(&client, b, root, &[]).expect_err("it must fail");
        assert!(
            error.contains("gemma_xla_test_panicking: panicked"),
            "{error}"
        );
    }
}

#[test]
fn a_program_that_calls_what_is_not_registered_does_not_compile() {
    for client in clients() {
        let b = Builder::new("unknown");
        let root = call(&b, "gemma_xla_test_unknown", &[], Shape::array(F32, &[2]));
        let error = run(&client, b, root, &[]).expect_err("it must fail");
        assert!(error.contains("gemma_xla_test_unknown"), "{error}");
    }
}
