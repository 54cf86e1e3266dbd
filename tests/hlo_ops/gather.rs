//! Parts at many places at once.

use hlo::{BinaryOp, Computation, ElementType, Error, GatherDims, Literal, ScatterDims, Shape};

use crate::host::{f32s, s32s, u32s};
use crate::program::Program;

/// 1 to 6 in two rows.
fn six() -> Literal {
    f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])
}

#[test]
fn take_rows_takes_the_nearest_row_for_an_id_beyond_the_table() {
    let mut program = Program::new("take_rows");
    program.case(
        "ids beyond both ends",
        [six(), s32s(&[1, 0, 7, -1], &[2, 2])],
        f32s(
            &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0],
            &[2, 2, 3],
        ),
        |b, [table, ids]| b.take_rows(table, ids),
    );
    program.case(
        "a scalar id",
        [six(), s32s(&[1], &[])],
        f32s(&[4.0, 5.0, 6.0], &[3]),
        |b, [table, id]| b.take_rows(table, id),
    );
    program.case(
        "a table of scalars",
        [s32s(&[5, 6, 7], &[3]), u32s(&[2, 0], &[2])],
        s32s(&[7, 5], &[2]),
        |b, [table, ids]| b.take_rows(table, ids),
    );
    program.run();
}

#[test]
fn take_takes_slices_of_any_dimension() {
    let mut program = Program::new("take");
    program.case(
        "columns, one twice and ids beyond both ends",
        [six(), s32s(&[2, 0, 2, 9, -1], &[5])],
        f32s(&[3.0, 1.0, 3.0, 3.0, 1.0, 6.0, 4.0, 6.0, 6.0, 4.0], &[2, 5]),
        |b, [x, ids]| b.take(x, 1, ids),
    );
    program.case(
        "rows",
        [six(), s32s(&[1], &[1])],
        f32s(&[4.0, 5.0, 6.0], &[1, 3]),
        |b, [x, ids]| b.take(x, 0, ids),
    );
    program.run();
}

#[test]
fn gather_takes_points_rows_and_columns() {
    let mut program = Program::new("gather");
    let points = GatherDims {
        collapsed_slice_dims: vec![0, 1],
        start_index_map: vec![0, 1],
        index_vector_dim: 1,
        slice_sizes: vec![1, 1],
        ..GatherDims::default()
    };
    program.case(
        "points",
        [six(), s32s(&[0, 2, 1, 1], &[2, 2])],
        f32s(&[3.0, 5.0], &[2]),
        |b, [x, at]| b.gather(x, at, points),
    );
    let sorted_rows = GatherDims {
        offset_dims: vec![1],
        collapsed_slice_dims: vec![0],
        start_index_map: vec![0],
        index_vector_dim: 1,
        slice_sizes: vec![1, 2],
        indices_are_sorted: true,
    };
    program.case(
        "the start of rows",
        [six(), s32s(&[0, 1], &[2, 1])],
        f32s(&[1.0, 2.0, 4.0, 5.0], &[2, 2]),
        |b, [x, at]| b.gather(x, at, sorted_rows),
    );
    let columns = GatherDims {
        offset_dims: vec![0],
        collapsed_slice_dims: vec![1],
        start_index_map: vec![1],
        index_vector_dim: 1,
        slice_sizes: vec![2, 1],
        ..GatherDims::default()
    };
    program.case(
        "columns",
        [six(), s32s(&[2, 0], &[2])],
        f32s(&[3.0, 1.0, 6.0, 4.0], &[2, 2]),
        |b, [x, at]| b.gather(x, at, columns),
    );
    program.run();
}

#[test]
fn scatter_merges_windows_and_leaves_out_those_past_the_end() {
    let mut program = Program::new("scatter");
    let add = Computation::binary(BinaryOp::Add, ElementType::F32).expect("defined on floats");
    let rows = ScatterDims {
        update_window_dims: vec![1],
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 1,
        ..ScatterDims::default()
    };
    program.case(
        "rows added, two to one place",
        [
            six(),
            s32s(&[1, 1, 5], &[3]),
            f32s(&[1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 9.0, 9.0, 9.0], &[3, 3]),
        ],
        f32s(&[1.0, 2.0, 3.0, 7.0, 8.0, 9.0], &[2, 3]),
        |b, [x, at, updates]| b.scatter(x, at, updates, rows, &add),
    );
    let points = ScatterDims {
        inserted_window_dims: vec![0, 1],
        scatter_dims_to_operand_dims: vec![0, 1],
        index_vector_dim: 1,
        indices_are_sorted: true,
        unique_indices: true,
        ..ScatterDims::default()
    };
    program.case(
        "points set",
        [six(), s32s(&[0, 2, 1, 0], &[2, 2]), f32s(&[8.0, 9.0], &[2])],
        f32s(&[1.0, 2.0, 8.0, 9.0, 5.0, 6.0], &[2, 3]),
        |b, [x, at, updates]| {
            let scalar = Shape::scalar(ElementType::F32);
            let set = b.computation("set", &[scalar.clone(), scalar], |_, x| {
                Ok::<_, Error>(x[1])
            })?;
            b.scatter(x, at, updates, points, &set)
        },
    );
    program.run();
}

#[test]
fn merging_into_rows_counts_every_id_and_leaves_out_those_outside() {
    let mut program = Program::new("merged");
    program.case(
        "added",
        [
            s32s(&[10, 20, 30, 40, 50, 60], &[2, 3]),
            s32s(&[0, 0, 3, -1, 2, 1, -7, 1], &[2, 4]),
            s32s(&[1, 1, 1, 1, 1, 2, 4, 8], &[2, 4]),
        ],
        s32s(&[12, 20, 30, 40, 60, 61], &[2, 3]),
        |b, [x, ids, updates]| {
            let [x, ids, updates] = [x, ids, updates].map(|x| b.tensor(Ok(x)));
            x.merged_at(ids, updates, BinaryOp::Add).value()
        },
    );
    program.run();
}
