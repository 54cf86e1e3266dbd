//! Operations on operands alone, and constants.

use hlo::ElementType::{BF16, F16, F32, Pred, S32, U32};
use hlo::{
    ArrayShape, Builder, Direction, DotDims, ElementType, Error, Literal, Precision, Result, Shape,
};

use crate::{Fixture, fixture, line, refused};

#[test]
fn the_message_is_one_line_with_operation_and_shapes() -> Result<()> {
    let Fixture { b, x, v, i, .. } = fixture()?;
    assert_eq!(
        line(b.add(x, v)),
        "add(f32[2,3]{1,0}, f32[3]{0}): operands differ in shape"
    );
    assert_eq!(
        line(b.mul(x, i)),
        "multiply(f32[2,3]{1,0}, s32[2,3]{1,0}): operands differ in element type"
    );
    Ok(())
}

#[test]
fn elementwise_operations_check_types_and_shapes() -> Result<()> {
    let Fixture {
        b,
        x,
        v,
        f,
        i,
        s,
        p,
        t,
        ..
    } = fixture()?;
    refused(b.exp(i), "exponential(", "floats only");
    refused(b.not(x), "not(", "integers and pred only");
    refused(b.abs(p), "abs(", "signed integers only");
    refused(b.popcnt(x), "popcnt(", "integers only");
    refused(b.neg(t), "negate: expected an array", "(f32[2,3]");
    refused(b.shl(x, x), "shift-left(", "integers only");
    refused(b.sub(p, p), "subtract(", "floats and integers only");
    refused(b.compare(x, v, Direction::Eq), "compare(", "shape");
    refused(b.compare(x, i, Direction::Eq), "compare(", "type");
    refused(b.select(x, x, x), "select(", "must be pred");
    refused(b.select(p, x, i), "select(", "element type");
    refused(b.select(p, x, v), "select(", "shape");
    refused(b.clamp(v, x, f), "clamp(", "bound");
    refused(b.clamp(s, x, s), "clamp(", "element type");
    refused(b.bitcast_convert(x, BF16), "bitcast-convert(", "width");
    refused(b.reduce_precision(i, 8, 7), "reduce-precision(", "floats");
    refused(b.reduce_precision(x, 0, 7), "reduce-precision(", "format");
    Ok(())
}

#[test]
fn movement_checks_dimensions() -> Result<()> {
    let Fixture {
        b, x, v, f, i, s, ..
    } = fixture()?;
    refused(b.broadcast(v, &[2, 4], &[1]), "broadcast(", "size of 3");
    refused(b.broadcast(v, &[2, 3], &[2]), "broadcast(", "below rank 2");
    refused(b.broadcast(v, &[2, 3], &[]), "broadcast(", "entries");
    refused(b.broadcast(x, &[3, 2], &[1, 0]), "broadcast(", "not rise");
    refused(b.broadcast_scalar(v, &[3]), "broadcast(", "entries");
    refused(b.reshape(x, &[5]), "reshape(", "number of elements");
    refused(
        b.reshape(x, &[-2, -3]),
        "reshape: invalid shape",
        "negative",
    );
    refused(b.transpose(x, &[0]), "transpose(", "entries");
    refused(b.transpose(x, &[0, 0]), "transpose(", "twice");
    refused(b.transpose(x, &[0, -1]), "transpose(", "below rank");
    refused(b.reverse(x, &[2]), "reverse(", "below rank");
    refused(b.concatenate(&[x, v], 0), "concatenate(", "differ");
    refused(b.concatenate(&[x, i], 0), "concatenate(", "element type");
    refused(b.concatenate(&[x, x], 2), "concatenate(", "below rank");
    assert!(line(b.concatenate(&[], 0)).contains("needs an operand"));
    refused(b.pad(x, f, &[0], &[0, 0], &[0, 0]), "pad(", "entries");
    refused(b.pad(x, s, &[0, 0], &[0, 0], &[0, 0]), "pad(", "type");
    refused(b.pad(x, v, &[0, 0], &[0, 0], &[0, 0]), "pad(", "scalar");
    refused(b.pad(x, f, &[-9, 0], &[0, 0], &[0, 0]), "pad(", "range");
    refused(b.pad(x, f, &[0, 0], &[0, 0], &[0, -1]), "pad(", "negative");
    let most = i64::MAX;
    refused(
        b.pad(x, f, &[most, 0], &[most, 0], &[0, 0]),
        "pad(",
        "range",
    );
    refused(b.pad(x, f, &[0, 0], &[0, 0], &[most, 0]), "pad(", "range");
    Ok(())
}

#[test]
fn slices_check_bounds() -> Result<()> {
    let Fixture {
        b, x, v, f, i, s, ..
    } = fixture()?;
    refused(b.slice(x, &[0], &[2, 3], &[1, 1]), "slice(", "entries");
    refused(b.slice(x, &[0, 2], &[2, 1], &[1, 1]), "slice(", "no part");
    refused(b.slice(x, &[0, 0], &[2, 4], &[1, 1]), "slice(", "no part");
    refused(b.slice(x, &[-1, 0], &[2, 3], &[1, 1]), "slice(", "no part");
    refused(b.slice(x, &[0, 0], &[2, 3], &[1, 0]), "slice(", "no part");
    refused(b.slice_dim(x, 2, 0, 1), "slice(", "below rank");
    refused(b.slice_dim(x, 0, 1, 3), "slice(", "no part");
    refused(
        b.dynamic_slice(x, &[s], &[1, 1]),
        "dynamic-slice(",
        "entries",
    );
    refused(
        b.dynamic_slice(x, &[s, s], &[1]),
        "dynamic-slice(",
        "entries",
    );
    refused(
        b.dynamic_slice(x, &[s, s], &[1, 4]),
        "dynamic-slice(",
        "within",
    );
    refused(
        b.dynamic_slice(x, &[s, f], &[1, 1]),
        "dynamic-slice(",
        "integers",
    );
    refused(
        b.dynamic_slice(x, &[s, i], &[1, 1]),
        "dynamic-slice(",
        "scalars",
    );
    let update = b.reshape(v, &[3, 1])?;
    let op = "dynamic-update-slice(";
    refused(b.dynamic_update_slice(x, update, &[s, s]), op, "within");
    refused(b.dynamic_update_slice(x, v, &[s, s]), op, "entries");
    refused(b.dynamic_update_slice(x, i, &[s, s]), op, "element type");
    refused(b.dynamic_update_slice(x, x, &[s]), op, "entries");
    let whole_stride = b.slice(x, &[0, 0], &[2, 3], &[i64::MAX, 1])?;
    assert_eq!(b.dims(whole_stride)?, [1, 3]);
    Ok(())
}

#[test]
fn dots_check_pairs_and_types() -> Result<()> {
    let Fixture { b, x, v, i, p, .. } = fixture()?;
    let dot = |lhs, rhs, l: &[i64], r: &[i64], output| {
        let dims = DotDims {
            lhs_contracting: l.to_vec(),
            rhs_contracting: r.to_vec(),
            ..DotDims::default()
        };
        b.dot_general(lhs, rhs, dims, output, Precision::Default)
    };
    dot(x, v, &[1], &[0], None)?;
    refused(dot(x, v, &[0], &[0], None), "dot(", "differ in size");
    refused(dot(x, v, &[2], &[0], None), "dot(", "below rank");
    refused(dot(x, v, &[1], &[], None), "dot(", "unpaired");
    refused(dot(x, x, &[1, 1], &[0, 1], None), "dot(", "twice");
    refused(dot(x, i, &[1], &[1], None), "dot(", "element type");
    refused(dot(p, p, &[1], &[1], None), "dot(", "pred");
    refused(dot(x, v, &[1], &[0], Some(BF16)), "dot(", "cannot sum");
    refused(dot(x, v, &[1], &[0], Some(S32)), "dot(", "cannot sum");
    refused(dot(i, i, &[1], &[1], Some(U32)), "dot(", "cannot sum");
    let half = b.convert(x, BF16)?;
    refused(dot(half, half, &[1], &[1], Some(F16)), "dot(", "cannot sum");
    Ok(())
}

#[test]
fn constants_check_range_and_data() -> Result<()> {
    let b = Builder::new("main");
    for (element_type, value) in [
        (S32, 0.5),
        (S32, 2_147_483_648.0),
        (U32, -1.0),
        (ElementType::S64, 9_223_372_036_854_775_808.0),
        (ElementType::U64, 18_446_744_073_709_551_616.0),
        (ElementType::S8, 128.0),
        (S32, f64::NAN),
        (S32, f64::INFINITY),
        (Pred, 2.0),
    ] {
        let line = line(b.scalar(element_type, value));
        assert!(line.contains(element_type.name()), "{line}");
    }
    b.scalar(S32, -2_147_483_648.0)?;
    b.scalar(ElementType::S64, -9_223_372_036_854_775_808.0)?;
    refused(
        b.full(F32, &[-1], 0.0),
        "broadcast: invalid shape",
        "negative",
    );
    assert!(line(b.iota(Pred, &[2], 0)).contains("pred"));
    assert!(line(b.iota(F32, &[2], 1)).contains("below rank 1"));
    assert!(line(Literal::from_f32(&[1.0], &[2])).contains("needs 8 bytes, got 4"));
    assert!(line(Literal::from_bytes(Pred, &[1], vec![2])).contains("neither 0 nor 1"));
    assert!(line(Literal::from_bytes(F32, &[-1], vec![])).contains("negative"));
    Ok(())
}

#[test]
fn shapes_beyond_63_bits_are_refused() -> Result<()> {
    let b = Builder::new("main");
    for dims in [&[i64::MAX, 2][..], &[i64::MAX][..], &[0, i64::MAX, 2][..]] {
        let result = b.parameter("x", Shape::array(F32, dims));
        refused(result, "parameter: invalid shape", "63 bits");
    }
    let twisted = ArrayShape::new(F32, &[2]).with_layout(&[1]);
    refused(
        b.parameter("x", twisted),
        "parameter: invalid",
        "permutation",
    );
    let f = b.scalar(F32, 0.0)?;
    let huge = b.broadcast_scalar(f, &[i64::MAX / 8])?;
    refused(b.concatenate(&[huge; 16], 0), "concatenate(", "63 bits");
    refused(
        b.broadcast_scalar(f, &[i64::MAX]),
        "broadcast: invalid",
        "63 bits",
    );
    Ok(())
}

#[test]
fn a_refused_operation_leaves_the_builder_usable() -> Result<()> {
    let Fixture { b, x, v, .. } = fixture()?;
    assert!(matches!(b.add(x, v), Err(Error::Shape { .. })));
    let sum = b.add(x, x)?;
    assert_eq!(b.finish(sum)?.parameters().len(), 6);
    Ok(())
}
