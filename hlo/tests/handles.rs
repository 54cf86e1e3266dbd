//! A value belongs to the builder that made it, and no other one takes it.

use hlo::{
    BinaryOp, Builder, Computation, CustomCallOptions, Direction, DotDims, ElementType, Error,
    GatherDims, Precision, Result, ScatterDims, Shape, UnaryOp, Value, WindowDim,
};

use ElementType::F32;

/// Every operation on a list of operands, of which one is foreign.
fn operations(b: &Builder, add: &Computation, v: [Value; 3]) -> Vec<Result<Value>> {
    let [x, y, z] = v;
    let mut results: Vec<Result<Value>> = vec![
        b.compare(x, y, Direction::Eq),
        b.select(x, y, z),
        b.clamp(x, y, z),
        b.scatter(x, y, z, ScatterDims::default(), add),
        b.gather(x, y, GatherDims::default()),
        b.take_rows(x, y),
        b.pad(x, y, &[0], &[0], &[0]),
        b.concatenate(&v, 0),
        b.dynamic_slice(x, &[y], &[1]),
        b.dynamic_update_slice(x, y, &[z]),
        b.reduce(&[x], &[y], &[0], add),
        b.reduce_window(x, y, &[WindowDim::default()], add),
        b.sort(&v, 0, false, add),
        b.dot_general(x, y, DotDims::default(), None, Precision::Default),
        b.conditional(x, y, add, z, add),
        b.call(add, &[x, y]),
        b.tuple(&v),
        b.all_reduce_many(&v, add, &[]),
        b.custom_call("k", &v, Shape::scalar(F32), CustomCallOptions::default()),
    ];
    results.extend(BinaryOp::ALL.iter().map(|&op| b.binary(op, x, y)));
    results
}

/// Every operation on one operand.
fn unary_operations(b: &Builder, add: &Computation, x: Value) -> Vec<Result<Value>> {
    let groups = [vec![0, 1]];
    let mut results: Vec<Result<Value>> = vec![
        b.convert(x, F32),
        b.bitcast_convert(x, F32),
        b.reduce_precision(x, 8, 7),
        b.broadcast(x, &[2], &[]),
        b.reshape(x, &[1]),
        b.transpose(x, &[]),
        b.reverse(x, &[]),
        b.slice(x, &[], &[], &[]),
        b.slice_dim(x, 0, 0, 1),
        b.reduce_sum(x, &[0]),
        b.reduce_max(x, &[0]),
        b.reduce_min(x, &[0]),
        b.reduce_and(x, &[0]),
        b.reduce_or(x, &[0]),
        b.argmax(x, 0).map(|pair| pair.0),
        b.cumsum(x, 0),
        b.get_tuple_element(x, 0),
        b.untuple(x).map(|_| x),
        b.optimization_barrier(x),
        b.while_loop(x, add, add),
        b.while_with(x, |_, s| Ok(s), |_, s| Ok(s)),
        b.all_reduce(x, add, &groups),
        b.all_gather(x, 0, &groups),
        b.reduce_scatter(x, add, 0, &groups),
        b.all_to_all(x, 0, &groups),
        b.collective_permute(x, &[(0, 1)]),
        b.named(x, "x"),
        b.shape(x).map(|_| x),
        b.array_shape(x).map(|_| x),
        b.dims(x).map(|_| x),
        b.element_type(x).map(|_| x),
    ];
    results.extend(UnaryOp::ALL.iter().map(|&op| b.unary(op, x)));
    results
}

#[test]
fn every_operation_refuses_a_foreign_value() -> Result<()> {
    let add = Computation::binary(BinaryOp::Add, F32)?;
    let other = Builder::new("other");
    // More instructions than the asked builder has, so that a position alone could not be looked up
    // either.
    let mut foreign = other.scalar(F32, 0.0)?;
    for _ in 0..100 {
        foreign = other.neg(foreign)?;
    }
    for late in [false, true] {
        let b = Builder::new("asked");
        let own = b.parameter("own", Shape::scalar(F32))?;
        let foreign = if late {
            foreign
        } else {
            Builder::new("other").scalar(F32, 0.0)?
        };
        for result in unary_operations(&b, &add, foreign) {
            assert!(
                matches!(result, Err(Error::ForeignValue { .. })),
                "{result:?}"
            );
        }
        for result in operations(&b, &add, [foreign, foreign, foreign]) {
            assert!(
                matches!(result, Err(Error::ForeignValue { .. })),
                "{result:?}"
            );
        }
        // With one foreign value among own ones another check may come first, but none accepts it.
        for values in [[foreign, own, own], [own, foreign, own]] {
            for result in operations(&b, &add, values) {
                assert!(result.is_err());
            }
        }
        assert!(matches!(b.finish(foreign), Err(Error::ForeignValue { .. })));
    }
    Ok(())
}

#[test]
fn a_loop_body_cannot_capture_values_from_outside() -> Result<()> {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::scalar(F32))?;
    let result = b.while_with(
        x,
        |b, state| b.compare(state, x, Direction::Lt),
        |_, state| Ok(state),
    );
    let line = result.map_err(|error| error.to_string());
    assert_eq!(
        line,
        Err("compare: operand is a value of another builder, not of 'while_condition'".to_owned())
    );
    Ok(())
}

#[test]
fn a_computation_returns_a_value_of_its_own() -> Result<()> {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::scalar(F32))?;
    let result = b.computation("inner", &[], |_, _| Ok::<_, Error>(x));
    assert!(matches!(result, Err(Error::ForeignValue { .. })));
    Ok(())
}
