//! Exchanges between replicas, each on a CPU device of its own.

use hlo::{BinaryOp, Builder, Computation, ElementType, Literal, Result, Value};

use crate::host::{array, f32s, u32s};
use crate::plugins::DEVICES;
use crate::program::Program;

fn add(t: ElementType) -> Computation {
    Computation::binary(BinaryOp::Add, t).expect("defined on numbers")
}

/// Runs `build` on four replicas, of which the one numbered r has `[r, 10 r]`, and expects a result
/// of each.
fn exchange(
    name: &'static str,
    expected: [Literal; DEVICES],
    build: impl FnOnce(&Builder, Value) -> Result<Value>,
) {
    let mut program = Program::replicated(name, DEVICES);
    let arguments = [0.0, 1.0, 2.0, 3.0].map(|r| [f32s(&[r, 10.0 * r], &[2])]);
    let expected = expected.map(|literal| [literal]);
    program.replicas(name, arguments.into(), expected.into(), |b, [x]| {
        Ok([build(b, x)?])
    });
    program.run();
}

fn pairs() -> [Vec<i64>; 2] {
    [vec![0, 1], vec![2, 3]]
}

#[test]
fn all_reduce_sums_over_all_replicas() {
    let sum = f32s(&[6.0, 60.0], &[2]);
    let expected = || [(); DEVICES].map(|()| sum.clone());
    exchange("all_reduce", expected(), |b, x| {
        b.all_reduce(x, &add(ElementType::F32), &[vec![0, 1, 2, 3]])
    });
    exchange("all_reduce_without_groups", expected(), |b, x| {
        b.all_reduce(x, &add(ElementType::F32), &[])
    });
}

#[test]
fn all_reduce_sums_over_each_group() {
    let expected = [2.0, 4.0, 2.0, 4.0].map(|sum| f32s(&[sum, 10.0 * sum], &[2]));
    exchange("all_reduce_groups", expected, |b, x| {
        b.all_reduce(x, &add(ElementType::F32), &[vec![0, 2], vec![1, 3]])
    });
}

#[test]
fn all_reduce_sums_bfloat16() {
    let mut program = Program::replicated("all_reduce_bf16", DEVICES);
    let bf16 = |numbers: &[f64]| [array(ElementType::BF16, numbers, &[2])];
    program.replicas(
        "all-reduce",
        [0.0, 1.0, 2.0, 3.0].map(|r| bf16(&[r, 2.0])).into(),
        [(); DEVICES].map(|()| bf16(&[6.0, 8.0])).into(),
        |b, [x]| Ok([b.all_reduce(x, &add(ElementType::BF16), &[])?]),
    );
    program.run();
}

#[test]
fn all_reduce_takes_several_arrays_at_once() {
    let mut program = Program::replicated("all_reduce_many", DEVICES);
    let sums = || [f32s(&[6.0], &[]), f32s(&[12.0, 60.0], &[2])];
    program.replicas(
        "all-reduce",
        [0.0, 1.0, 2.0, 3.0]
            .map(|r| [f32s(&[r], &[]), f32s(&[2.0 * r, 10.0 * r], &[2])])
            .into(),
        [(); DEVICES].map(|()| sums()).into(),
        |b, [x, y]| {
            let both = b.all_reduce_many(&[x, y], &add(ElementType::F32), &[vec![0, 1, 2, 3]])?;
            Ok([b.get_tuple_element(both, 0)?, b.get_tuple_element(both, 1)?])
        },
    );
    program.run();
}

#[test]
fn all_gather_joins_the_groups_arrays_along_the_dimension() {
    let (low, high) = (
        f32s(&[0.0, 0.0, 1.0, 10.0], &[4]),
        f32s(&[2.0, 20.0, 3.0, 30.0], &[4]),
    );
    let expected = [low.clone(), low, high.clone(), high];
    exchange("all_gather", expected, |b, x| b.all_gather(x, 0, &pairs()));
    let columns = f32s(&[0.0, 1.0, 2.0, 3.0, 0.0, 10.0, 20.0, 30.0], &[2, 4]);
    let expected = [(); DEVICES].map(|()| columns.clone());
    exchange("all_gather_columns", expected, |b, x| {
        b.all_gather(b.reshape(x, &[2, 1])?, 1, &[vec![0, 1, 2, 3]])
    });
}

#[test]
fn reduce_scatter_gives_each_replica_its_part_of_the_sum() {
    let expected = [1.0, 10.0, 5.0, 50.0].map(|sum| f32s(&[sum], &[1]));
    exchange("reduce_scatter", expected, |b, x| {
        b.reduce_scatter(x, &add(ElementType::F32), 0, &pairs())
    });
}

#[test]
fn all_to_all_deals_parts_out() {
    let expected = [[0.0, 1.0], [0.0, 10.0], [2.0, 3.0], [20.0, 30.0]].map(|x| f32s(&x, &[2]));
    exchange("all_to_all", expected, |b, x| b.all_to_all(x, 0, &pairs()));
}

#[test]
fn collective_permute_sends_along_its_pairs_and_zeros_elsewhere() {
    let expected = [[3.0, 30.0], [0.0, 0.0], [0.0, 0.0], [2.0, 20.0]].map(|x| f32s(&x, &[2]));
    exchange("collective_permute", expected, |b, x| {
        b.collective_permute(x, &[(3, 0), (0, 1), (2, 3)])
    });
}

#[test]
fn replica_id_numbers_the_replicas() {
    let expected = [0, 1, 2, 3].map(|r| u32s(&[r], &[]));
    exchange("replica_id", expected, |b, _| b.replica_id());
}
