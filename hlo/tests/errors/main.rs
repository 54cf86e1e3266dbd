//! What does not fit is an error that names the operation and the shapes, whatever the operation.

mod calls;
mod operands;

use hlo::{BinaryOp, Builder, Computation, ElementType, Result, Shape, Value};

use ElementType::{F32, Pred, S32};

/// A builder with values of many shapes.
struct Fixture {
    b: Builder,
    /// `f32[2,3]`
    x: Value,
    /// `f32[3]`
    v: Value,
    /// `f32[]`
    f: Value,
    /// `s32[2,3]`
    i: Value,
    /// `s32[]`
    s: Value,
    /// `pred[2,3]`
    p: Value,
    /// `(f32[2,3], s32[])`
    t: Value,
    add: Computation,
}

fn fixture() -> Result<Fixture> {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::array(F32, &[2, 3]))?;
    let v = b.parameter("v", Shape::array(F32, &[3]))?;
    let f = b.parameter("f", Shape::scalar(F32))?;
    let i = b.parameter("i", Shape::array(S32, &[2, 3]))?;
    let s = b.parameter("s", Shape::scalar(S32))?;
    let p = b.parameter("p", Shape::array(Pred, &[2, 3]))?;
    let t = b.tuple(&[x, s])?;
    let add = Computation::binary(BinaryOp::Add, F32)?;
    Ok(Fixture {
        b,
        x,
        v,
        f,
        i,
        s,
        p,
        t,
        add,
    })
}

/// The error's one line; panics where there is none, which is what the tests look for.
#[track_caller]
fn line<T: std::fmt::Debug>(result: Result<T>) -> String {
    let line = result.expect_err("accepted").to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

/// The error names the operation and an operand's shape, and says what is wrong.
#[track_caller]
fn refused(result: Result<Value>, op: &str, words: &str) {
    let line = line(result);
    assert!(line.starts_with(op), "{line}");
    assert!(line.contains('['), "no shape in: {line}");
    assert!(line.contains(words), "{line}");
}
