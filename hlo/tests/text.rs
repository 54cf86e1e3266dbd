//! The text of small modules, one snapshot a family of operations.

use hlo::{
    AliasKind, ArrayShape, BinaryOp, Builder, Computation, CustomCallOptions, Direction, DotDims,
    ElementType, GatherDims, Literal, Module, OutputOperandAlias, Precision, Result, ScatterDims,
    Shape, Value, WindowDim,
};

use ElementType::{BF16, F32, Pred, S32, U32};

/// The text of a module whose entry has the parameters given.
fn text(
    name: &str,
    parameters: &[(&str, Shape)],
    build: impl FnOnce(&Builder, &[Value]) -> Result<Value>,
) -> Result<String> {
    Ok(module(name, parameters, build)?.to_text())
}

fn module(
    name: &str,
    parameters: &[(&str, Shape)],
    build: impl FnOnce(&Builder, &[Value]) -> Result<Value>,
) -> Result<Module> {
    let b = Builder::new("main");
    let values: Result<Vec<Value>> = parameters
        .iter()
        .map(|(name, shape)| b.parameter(name, shape))
        .collect();
    let root = build(&b, &values?)?;
    Ok(Module::new(name, b.finish(root)?))
}

fn f32s(dims: &[i64]) -> Shape {
    Shape::array(F32, dims)
}

#[test]
fn elementwise() -> Result<()> {
    let parameters = [("x", f32s(&[2, 3])), ("y", f32s(&[2, 3]))];
    let text = text("elementwise", &parameters, |b, p| {
        let less = b.compare(p[0], b.tanh(p[1])?, Direction::Lt)?;
        let chosen = b.select(less, p[0], b.mul(p[0], p[1])?)?;
        let low = b.scalar(F32, -1.0)?;
        let high = b.scalar(F32, 0.5)?;
        let clamped = b.clamp(low, chosen, high)?;
        let rounded = b.reduce_precision(clamped, 8, 7)?;
        let bits = b.bitcast_convert(rounded, U32)?;
        b.convert(b.shr_logical(bits, b.full(U32, &[2, 3], 16.0)?)?, S32)
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn constants_of_each_kind() -> Result<()> {
    let text = text("constants", &[], |b, _| {
        let matrix = b.constant(&Literal::from_i32(&[1, -2, 3, 4], &[2, 2])?)?;
        let floats = [1.0, -0.0, 0.1, 1e-40, f32::MAX, f32::NAN, f32::NEG_INFINITY];
        let vector = b.constant(&Literal::from_f32(&floats, &[7])?)?;
        let flags = b.constant(&Literal::from_bool(&[true, false], &[2])?)?;
        let scalar = b.scalar(BF16, 2.7)?;
        let none = b.constant(&Literal::from_f32(&[], &[2, 0])?)?;
        b.tuple(&[matrix, vector, flags, scalar, none])
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn movement() -> Result<()> {
    let parameters = [("x", f32s(&[2, 3])), ("at", Shape::scalar(S32))];
    let text = text("movement", &parameters, |b, p| {
        let wide = b.broadcast(p[0], &[2, 4, 3], &[0, 2])?;
        let turned = b.transpose(wide, &[2, 0, 1])?;
        let flat = b.reshape(turned, &[6, 4])?;
        let part = b.slice(flat, &[0, 1], &[6, 3], &[2, 1])?;
        let zero = b.scalar(F32, 0.0)?;
        let padded = b.pad(part, zero, &[1, 0], &[0, 2], &[0, 1])?;
        let joined = b.concatenate(&[padded, b.reverse(padded, &[0])?], 1)?;
        let window = b.dynamic_slice(joined, &[p[1], p[1]], &[1, 2])?;
        let written = b.dynamic_update_slice(joined, window, &[p[1], p[1]])?;
        b.add(written, b.iota(F32, &[4, 10], 1)?)
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn gather_and_scatter() -> Result<()> {
    let parameters = [
        ("table", f32s(&[5, 3])),
        ("ids", Shape::array(S32, &[2, 4])),
    ];
    let text = text("gather_scatter", &parameters, |b, p| {
        let rows = b.take_rows(p[0], p[1])?;
        let dims = ScatterDims {
            update_window_dims: vec![2],
            inserted_window_dims: vec![0],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 2,
            unique_indices: true,
            ..ScatterDims::default()
        };
        let add = Computation::binary(BinaryOp::Add, F32)?;
        let merged = b.scatter(p[0], p[1], rows, dims, &add)?;
        let dims = GatherDims {
            offset_dims: vec![0],
            collapsed_slice_dims: vec![0],
            start_index_map: vec![0, 1],
            index_vector_dim: 0,
            slice_sizes: vec![1, 2],
            indices_are_sorted: true,
        };
        b.gather(merged, p[1], dims)
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn reductions_emit_each_reducer_once() -> Result<()> {
    let text = text("reductions", &[("x", f32s(&[2, 3]))], |b, p| {
        let centered = b.sub(p[0], b.broadcast(b.reduce_sum(p[0], &[1])?, &[2, 3], &[0])?)?;
        let total = b.reduce_sum(centered, &[0, 1])?;
        let (_, position) = b.argmax(centered, 1)?;
        let sums = b.cumsum(centered, 1)?;
        let add = Computation::binary(BinaryOp::Add, F32)?;
        let zero = b.scalar(F32, 0.0)?;
        let window = WindowDim {
            size: 2,
            stride: 1,
            ..WindowDim::default()
        };
        let pairs = b.reduce_window(sums, zero, &[WindowDim::default(), window], &add)?;
        b.tuple(&[total, position, pairs])
    })?;
    assert_eq!(text.matches("%add_f32 (").count(), 1);
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn sort_by_key() -> Result<()> {
    let parameters = [("keys", f32s(&[4])), ("values", Shape::array(S32, &[4]))];
    let text = text("sort", &parameters, |b, p| {
        let [key, value] = [Shape::scalar(F32), Shape::scalar(S32)];
        let scalars = [key.clone(), key, value.clone(), value];
        let greater = b.computation("greater", &scalars, |b, p| {
            b.compare(p[0], p[1], Direction::Gt)
        })?;
        b.sort(&[p[0], p[1]], 0, true, &greater)
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn dot_with_batch_and_wider_sums() -> Result<()> {
    let parameters = [
        ("q", Shape::array(BF16, &[2, 8, 16])),
        ("k", Shape::array(BF16, &[2, 4, 16])),
    ];
    let text = text("dot", &parameters, |b, p| {
        let dims = DotDims {
            lhs_batch: vec![0],
            rhs_batch: vec![0],
            lhs_contracting: vec![2],
            rhs_contracting: vec![2],
        };
        b.dot_general(p[0], p[1], dims, Some(F32), Precision::Highest)
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn loop_with_scopes_and_names() -> Result<()> {
    let text = text("loop", &[("x", f32s(&[3]))], |b, p| {
        b.scoped("decode", || {
            let init = b.tuple(&[b.scalar(S32, 0.0)?, p[0]])?;
            let end = b.while_with(
                init,
                |b, state| {
                    let step = b.get_tuple_element(state, 0)?;
                    b.compare(step, b.scalar(S32, 4.0)?, Direction::Lt)
                },
                |b, state| {
                    let parts = b.untuple(state)?;
                    let step = b.named(b.add(parts[0], b.scalar(S32, 1.0)?)?, "step")?;
                    let x = b.scoped("layer \"0\"", || b.exp(parts[1]))?;
                    b.tuple(&[step, x])
                },
            )?;
            b.get_tuple_element(end, 1)
        })
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn branches_calls_and_barriers() -> Result<()> {
    let parameters = [("which", Shape::scalar(Pred)), ("x", f32s(&[2]))];
    let text = text("branches", &parameters, |b, p| {
        let twice = b.computation("twice", &[f32s(&[2])], |b, p| b.add(p[0], p[0]))?;
        let four = b.computation("four_times", &[f32s(&[2])], |b, p| {
            b.call(&twice, &[b.call(&twice, &[p[0]])?])
        })?;
        let chosen = b.conditional(p[0], p[1], &twice, p[1], &four)?;
        b.optimization_barrier(chosen)
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn collectives() -> Result<()> {
    let text = text("collectives", &[("x", f32s(&[4, 2]))], |b, p| {
        let pairs = [vec![0, 1], vec![2, 3]];
        let add = Computation::binary(BinaryOp::Add, F32)?;
        let sum = b.all_reduce(p[0], &add, &pairs)?;
        let whole = b.all_gather(sum, 1, &pairs)?;
        let part = b.reduce_scatter(whole, &add, 0, &pairs)?;
        let dealt = b.all_to_all(part, 1, &pairs)?;
        let moved = b.collective_permute(dealt, &[(0, 1), (1, 0)])?;
        let both = b.all_reduce_many(&[moved, part], &add, &[])?;
        b.tuple(&[b.get_tuple_element(both, 0)?, b.replica_id()?])
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn custom_call_with_layouts() -> Result<()> {
    let text = text("custom", &[("x", f32s(&[2, 3]))], |b, p| {
        let column_major = Shape::from(ArrayShape::new(F32, &[2, 3]).with_layout(&[0, 1]));
        let options = CustomCallOptions {
            backend_config: "{name = \"x\", n = 3 : i64}".to_owned(),
            operand_layouts: Some(vec![column_major.clone()]),
            has_side_effect: true,
            output_operand_aliasing: vec![OutputOperandAlias::default()],
            ..CustomCallOptions::default()
        };
        b.custom_call("kernel", &[p[0]], column_major, options)
    })?;
    insta::assert_snapshot!(text);
    Ok(())
}

#[test]
fn border_with_layouts_and_aliases() -> Result<()> {
    let column_major = Shape::from(ArrayShape::new(F32, &[2, 3]).with_layout(&[0, 1]));
    let parameters = [("cache", column_major), ("step", Shape::scalar(S32))];
    let mut module = module("border", &parameters, |b, p| {
        let step = b.add(p[1], b.scalar(S32, 1.0)?)?;
        b.tuple(&[b.add(p[0], p[0])?, step, p[0]])
    })?;
    module.alias(&[0], 0, &[], AliasKind::Must)?;
    module.alias(&[1], 1, &[], AliasKind::May)?;
    module.set_result_layout(&[2], &[0, 1])?;
    insta::assert_snapshot!(module.to_text());
    Ok(())
}

#[test]
fn names_outside_of_the_alphabet_are_made_safe() -> Result<()> {
    let b = Builder::new("1 größe");
    let x = b.parameter("params/embed {x}", f32s(&[]))?;
    let root = b.scoped("é\n", || b.neg(x))?;
    let text = Module::new("my module", b.finish(root)?).to_text();
    insta::assert_snapshot!(text);
    Ok(())
}
