//! Operations that call computations, exchange data, or take lists of dimension numbers.

use hlo::ElementType::{BF16, F32, Pred, S32};
use hlo::{
    ArrayShape, BinaryOp, Computation, CustomCallOptions, Direction, GatherDims,
    OutputOperandAlias, Result, ScatterDims, Shape, WindowDim,
};

use crate::{Fixture, fixture, line, refused};

#[test]
fn gather_and_scatter_check_dimension_numbers() -> Result<()> {
    let Fixture {
        b, x, v, f, i, add, ..
    } = fixture()?;
    let dims = || GatherDims {
        offset_dims: vec![2],
        collapsed_slice_dims: vec![0],
        start_index_map: vec![0],
        index_vector_dim: 2,
        slice_sizes: vec![1, 3],
        indices_are_sorted: false,
    };
    let gather = |change: fn(&mut GatherDims)| {
        let mut dims = dims();
        change(&mut dims);
        b.gather(x, i, dims)
    };
    gather(|_| {})?;
    refused(b.gather(x, v, dims()), "gather(", "integers");
    refused(gather(|d| d.slice_sizes = vec![1]), "gather(", "entries");
    refused(gather(|d| d.slice_sizes = vec![1, 4]), "gather(", "within");
    refused(gather(|d| d.slice_sizes = vec![2, 3]), "gather(", "above");
    refused(
        gather(|d| d.index_vector_dim = 3),
        "gather(",
        "out of range",
    );
    refused(gather(|d| d.index_vector_dim = 1), "gather(", "mapped");
    refused(gather(|d| d.start_index_map = vec![7]), "gather(", "below");
    refused(gather(|d| d.offset_dims = vec![3]), "gather(", "below rank");
    refused(gather(|d| d.offset_dims = vec![]), "gather(", "offset_dims");
    refused(b.take_rows(f, i), "gather(", "no rows");
    refused(b.take_rows(x, v), "gather(", "integers");

    let dims = || ScatterDims {
        update_window_dims: vec![],
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        index_vector_dim: 2,
        ..ScatterDims::default()
    };
    b.scatter(v, i, x, dims(), &add)?;
    refused(b.scatter(v, x, x, dims(), &add), "scatter(", "integers");
    refused(b.scatter(v, i, i, dims(), &add), "scatter(", "element type");
    refused(b.scatter(v, i, v, dims(), &add), "scatter(", "sizes [2, 3]");
    refused(b.scatter(x, i, x, dims(), &add), "scatter(", "within");
    let wrong = Computation::binary(BinaryOp::Add, BF16)?;
    refused(b.scatter(v, i, x, dims(), &wrong), "scatter(", "add_bf16");
    Ok(())
}

#[test]
fn reductions_check_inputs_and_computations() -> Result<()> {
    let Fixture {
        b,
        x,
        v,
        f,
        i,
        s,
        p,
        add,
        ..
    } = fixture()?;
    refused(b.reduce(&[x], &[f], &[2], &add), "reduce(", "below rank");
    refused(b.reduce(&[x], &[f], &[0, 0], &add), "reduce(", "twice");
    refused(b.reduce(&[x], &[s], &[0], &add), "reduce(", "type");
    refused(b.reduce(&[x], &[v], &[0], &add), "reduce(", "scalars");
    refused(b.reduce(&[x, v], &[f, f], &[0], &add), "reduce(", "differ");
    refused(b.reduce(&[x], &[], &[0], &add), "reduce(", "number");
    refused(b.reduce(&[x, x], &[f, f], &[0], &add), "reduce(", "add_f32");
    refused(b.reduce(&[i], &[s], &[0], &add), "reduce(", "add_f32");
    refused(b.reduce_and(x, &[0]), "reduce(", "pred only");
    let arg = |x, dim| b.argmax(x, dim).map(|(_, position)| position);
    refused(arg(p, 0), "argmax(", "pred");
    refused(arg(x, 2), "argmax(", "below rank");
    let empty = b.slice_dim(x, 1, 0, 0)?;
    refused(arg(empty, 1), "argmax(", "no position");

    let w = WindowDim::default();
    let window = |windows: &[WindowDim]| b.reduce_window(x, f, windows, &add);
    refused(window(&[w]), "reduce-window(", "entries");
    refused(
        window(&[w, WindowDim { size: 4, ..w }]),
        "reduce-window(",
        "exceeds",
    );
    refused(
        window(&[w, WindowDim { size: 0, ..w }]),
        "reduce-window(",
        "no window",
    );
    refused(
        window(&[w, WindowDim { stride: 0, ..w }]),
        "reduce-window(",
        "no window",
    );
    refused(b.reduce_window(f, f, &[], &add), "reduce-window(", "scalar");
    refused(
        b.reduce_window(x, s, &[w, w], &add),
        "reduce-window(",
        "type",
    );
    refused(b.cumsum(x, 2), "reduce-window(", "below rank");

    refused(b.sort(&[x], 2, true, &add), "sort(", "below rank");
    refused(b.sort(&[x], 1, true, &add), "sort(", "-> pred[]");
    refused(b.sort(&[x, v], 0, true, &add), "sort(", "shape");
    Ok(())
}

#[test]
fn control_flow_checks_signatures() -> Result<()> {
    let Fixture {
        b,
        x,
        f,
        s,
        p,
        t,
        add,
        ..
    } = fixture()?;
    refused(
        b.while_loop(x, &add, &add),
        "while(",
        "add_f32(f32[], f32[]) -> f32[]",
    );
    refused(
        b.while_with(
            s,
            |b, i| b.compare(i, i, Direction::Ne),
            |b, i| b.convert(i, F32),
        ),
        "while(",
        "while_body(s32[]) -> f32[]",
    );
    refused(
        b.while_with(s, |_, i| Ok(i), |_, i| Ok(i)),
        "while(",
        "pred[]",
    );
    let neg = b.computation("neg", &[Shape::scalar(F32)], |b, v| b.neg(v[0]))?;
    let flag = b.scalar(Pred, 1.0)?;
    refused(b.conditional(f, f, &neg, f, &neg), "conditional(", "pred");
    refused(b.conditional(p, f, &neg, f, &neg), "conditional(", "scalar");
    refused(
        b.conditional(flag, s, &neg, f, &neg),
        "conditional(",
        "neg(",
    );
    let int = b.computation("int", &[Shape::scalar(F32)], |b, v| b.convert(v[0], S32))?;
    refused(
        b.conditional(flag, f, &neg, f, &int),
        "conditional(",
        "int(",
    );
    refused(b.call(&neg, &[x]), "call(", "neg(f32[]) -> f32[]");
    refused(b.call(&neg, &[]), "call(", "neg(f32[]) -> f32[]");
    refused(
        b.get_tuple_element(x, 0),
        "get-tuple-element: expected a tuple",
        "",
    );
    refused(b.get_tuple_element(t, 2), "get-tuple-element(", "no part 2");
    refused(
        b.get_tuple_element(t, -1),
        "get-tuple-element(",
        "no part -1",
    );
    assert!(line(b.untuple(x)).contains("expected a tuple"));
    Ok(())
}

#[test]
fn collectives_check_groups() -> Result<()> {
    let Fixture { b, x, i, add, .. } = fixture()?;
    refused(b.all_reduce(x, &add, &[vec![]]), "all-reduce(", "empty");
    refused(
        b.all_reduce(x, &add, &[vec![0], vec![0]]),
        "all-reduce(",
        "twice",
    );
    refused(
        b.all_reduce(x, &add, &[vec![-1]]),
        "all-reduce(",
        "negative",
    );
    refused(b.all_reduce(i, &add, &[]), "all-reduce(", "add_f32");
    refused(b.all_reduce_many(&[x, i], &add, &[]), "all-reduce(", "type");
    refused(b.all_gather(x, 0, &[]), "all-gather(", "needs");
    refused(
        b.all_gather(x, 0, &[vec![0], vec![1, 2]]),
        "all-gather(",
        "unequal",
    );
    refused(b.all_gather(x, 2, &[vec![0]]), "all-gather(", "below rank");
    refused(
        b.reduce_scatter(x, &add, 1, &[vec![0, 1]]),
        "reduce-scatter(",
        "divide",
    );
    refused(b.all_to_all(x, 1, &[vec![0, 1]]), "all-to-all(", "divide");
    refused(
        b.collective_permute(x, &[(0, 1), (0, 2)]),
        "collective-permute(",
        "twice",
    );
    refused(
        b.collective_permute(x, &[(0, 1), (2, 1)]),
        "collective-permute(",
        "twice",
    );
    Ok(())
}

#[test]
fn custom_calls_check_layouts_and_aliases() -> Result<()> {
    let Fixture { b, x, v, .. } = fixture()?;
    let shape = || Shape::array(F32, &[2, 3]);
    let options = CustomCallOptions {
        operand_layouts: Some(vec![Shape::array(F32, &[3])]),
        ..CustomCallOptions::default()
    };
    refused(
        b.custom_call("k", &[x], shape(), options),
        "custom-call(",
        "other shapes",
    );
    let options = CustomCallOptions {
        output_operand_aliasing: vec![OutputOperandAlias::default()],
        ..CustomCallOptions::default()
    };
    refused(
        b.custom_call("k", &[v], shape(), options),
        "custom-call(",
        "one shape",
    );
    let twisted = ArrayShape::new(F32, &[2, 3]).with_layout(&[0, 0]);
    let none = CustomCallOptions::default();
    refused(
        b.custom_call("k", &[v], twisted, none),
        "custom-call: invalid",
        "permutation",
    );
    Ok(())
}
