//! Operations on each element, on every element type: where the host has no value for one, the
//! builder must refuse it.

use std::f64::consts::PI;

use hlo::{BinaryOp, Builder, ElementType, Literal, UnaryOp};

use crate::host::{array, f32s, integers, preds, u32s, wrap};
use crate::program::Program;

type Float1 = fn(f64) -> f64;
type Float2 = fn(f64, f64) -> f64;
/// The number of bits, and an operand.
type Integer1 = fn(u32, i128) -> i128;
/// The number of bits, and both operands.
type Integer2 = fn(u32, i128, i128) -> i128;

/// What an operation does to a float; [`UnaryOp::IsFinite`], whose result is none, aside.
fn unary_on_floats(op: UnaryOp) -> Option<Float1> {
    Some(match op {
        UnaryOp::Abs => f64::abs,
        UnaryOp::Neg => |x| -x,
        UnaryOp::Sign => |x| if x == 0.0 { x } else { x.signum() },
        UnaryOp::Exp => f64::exp,
        UnaryOp::Expm1 => f64::exp_m1,
        UnaryOp::Log => f64::ln,
        UnaryOp::Log1p => f64::ln_1p,
        UnaryOp::Sqrt => f64::sqrt,
        UnaryOp::Rsqrt => |x| 1.0 / x.sqrt(),
        UnaryOp::Cbrt => f64::cbrt,
        UnaryOp::Tanh => f64::tanh,
        UnaryOp::Sin => f64::sin,
        UnaryOp::Cos => f64::cos,
        UnaryOp::Floor => f64::floor,
        UnaryOp::Ceil => f64::ceil,
        UnaryOp::RoundNearestEven => f64::round_ties_even,
        UnaryOp::Logistic => |x| 1.0 / (1.0 + (-x).exp()),
        UnaryOp::Erf => erf,
        UnaryOp::Copy => |x| x,
        _ => return None,
    })
}

/// The error function, from its Taylor series.
fn erf(x: f64) -> f64 {
    let mut power = x;
    let mut sum = 0.0;
    for n in 0..60 {
        let n = f64::from(n);
        sum += power / (2.0 * n + 1.0);
        power *= -x * x / (n + 1.0);
    }
    2.0 / PI.sqrt() * sum
}

fn unary_on_integers(op: UnaryOp, signed: bool) -> Option<Integer1> {
    Some(match op {
        UnaryOp::Abs if signed => |_, x| x.abs(),
        UnaryOp::Sign if signed => |_, x| x.signum(),
        UnaryOp::Neg => |_, x| -x,
        UnaryOp::Not => |_, x| !x,
        UnaryOp::Popcnt => |bits, x| i128::from(lower(bits, x).count_ones()),
        UnaryOp::Clz => |bits, x| i128::from(lower(bits, x).leading_zeros() + bits - 128),
        UnaryOp::Copy => |_, x| x,
        _ => return None,
    })
}

fn unary_on_preds(op: UnaryOp) -> Option<fn(bool) -> bool> {
    match op {
        UnaryOp::Not => Some(|x| !x),
        UnaryOp::Copy => Some(|x| x),
        _ => None,
    }
}

fn binary_on_floats(op: BinaryOp) -> Option<Float2> {
    Some(match op {
        BinaryOp::Add => |a, b| a + b,
        BinaryOp::Sub => |a, b| a - b,
        BinaryOp::Mul => |a, b| a * b,
        BinaryOp::Div => |a, b| a / b,
        BinaryOp::Rem => |a, b| a % b,
        BinaryOp::Pow => f64::powf,
        BinaryOp::Max => f64::max,
        BinaryOp::Min => f64::min,
        BinaryOp::Atan2 => f64::atan2,
        _ => return None,
    })
}

fn binary_on_integers(op: BinaryOp) -> Option<Integer2> {
    Some(match op {
        BinaryOp::Add => |_, a, b| a + b,
        BinaryOp::Sub => |_, a, b| a - b,
        BinaryOp::Mul => |_, a, b| a.wrapping_mul(b),
        BinaryOp::Div => |_, a, b| if b == 0 { -1 } else { a / b },
        BinaryOp::Rem => |_, a, b| if b == 0 { a } else { a % b },
        BinaryOp::Pow => |_, a, b| a.wrapping_pow(u32::try_from(b).expect("no root")),
        BinaryOp::Max => |_, a, b| a.max(b),
        BinaryOp::Min => |_, a, b| a.min(b),
        BinaryOp::And => |_, a, b| a & b,
        BinaryOp::Or => |_, a, b| a | b,
        BinaryOp::Xor => |_, a, b| a ^ b,
        // Operands have at most 64 bits, and shifts here pass no more than that.
        BinaryOp::Shl => |_, a, b| a << b,
        BinaryOp::ShrLogical => |bits, a, b| (lower(bits, a) >> b).cast_signed(),
        BinaryOp::ShrArithmetic => |bits, a, b| (a << (128 - bits)) >> (128 - bits) >> b,
        _ => return None,
    })
}

fn binary_on_preds(op: BinaryOp) -> Option<fn(bool, bool) -> bool> {
    match op {
        BinaryOp::Add | BinaryOp::Max | BinaryOp::Or => Some(|a, b| a | b),
        BinaryOp::Mul | BinaryOp::Min | BinaryOp::And => Some(|a, b| a & b),
        BinaryOp::Xor => Some(|a, b| a ^ b),
        _ => None,
    }
}

/// The lower bits.
fn lower(bits: u32, x: i128) -> u128 {
    x.cast_unsigned() & (u128::MAX >> (128 - bits))
}

fn bits(element_type: ElementType) -> u32 {
    u32::try_from(8 * element_type.size()).expect("at most 64")
}

fn types(kind: fn(ElementType) -> bool) -> impl Iterator<Item = ElementType> {
    ElementType::ALL.into_iter().filter(move |&t| kind(t))
}

/// The builder must have nothing of an operation on a type.
fn refuse(
    op: &str,
    sample: &Literal,
    build: impl FnOnce(&Builder, hlo::Value) -> hlo::Result<hlo::Value>,
) {
    let b = Builder::new("refused");
    let x = b.parameter("x", sample.shape()).expect("a parameter");
    let element_type = sample.element_type();
    assert!(
        build(&b, x).is_err(),
        "{op} on {element_type} has no value to compare with"
    );
}

#[test]
fn every_unary_operation_and_every_binary_one_has_a_value_to_compare_with() {
    for &op in UnaryOp::ALL {
        assert!(
            unary_on_floats(op).is_some()
                || unary_on_integers(op, true).is_some()
                || op == UnaryOp::IsFinite,
            "{op:?}"
        );
    }
    for &op in BinaryOp::ALL {
        assert!(
            binary_on_floats(op).is_some() || binary_on_integers(op).is_some(),
            "{op:?}"
        );
    }
}

#[test]
fn unary_operations_on_floats() {
    let mut program = Program::new("unary_operations_on_floats");
    for t in types(ElementType::is_float) {
        for &op in UnaryOp::ALL {
            let name = format!("{} on {t}", op.opcode());
            let numbers: [f64; 4] = match op {
                UnaryOp::Log | UnaryOp::Log1p | UnaryOp::Sqrt | UnaryOp::Rsqrt => {
                    [0.25, 1.5, 2.5, 0.75]
                }
                _ => [-1.5, -0.0, 2.5, 0.5],
            };
            let x = array(t, &numbers, &[2, 2]);
            if let Some(host) = unary_on_floats(op) {
                let expected = array(t, &numbers.map(host), &[2, 2]);
                program.case(&name, [x], expected, |b, [x]| b.unary(op, x));
            } else if op != UnaryOp::IsFinite {
                refuse(&name, &x, |b, x| b.unary(op, x));
            }
        }
        let x = array(t, &[1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY], &[4]);
        let expected = preds(&[true, false, false, false], &[4]);
        program.case(&format!("is-finite on {t}"), [x], expected, |b, [x]| {
            b.is_finite(x)
        });
    }
    program.run();
}

#[test]
fn unary_operations_on_integers() {
    let mut program = Program::new("unary_operations_on_integers");
    for t in types(ElementType::is_integer) {
        let numbers = [5, 0, -3, 0x55].map(|x| wrap(t, x));
        let x = integers(t, &numbers, &[4]);
        for &op in UnaryOp::ALL {
            let name = format!("{} on {t}", op.opcode());
            if let Some(host) = unary_on_integers(op, t.is_signed_integer()) {
                let expected = integers(t, &numbers.map(|x| host(bits(t), x)), &[4]);
                program.case(&name, [x.clone()], expected, |b, [x]| b.unary(op, x));
            } else {
                refuse(&name, &x, |b, x| b.unary(op, x));
            }
        }
    }
    program.run();
}

#[test]
fn binary_operations_on_floats() {
    let (lhs, rhs) = ([-1.5, 4.0, 2.5, 3.0], [2.0, -0.5, 2.5, -2.0]);
    let mut program = Program::new("binary_operations_on_floats");
    for t in types(ElementType::is_float) {
        let operands = [array(t, &lhs, &[4]), array(t, &rhs, &[4])];
        for &op in BinaryOp::ALL {
            let name = format!("{} on {t}", op.opcode());
            if let Some(host) = binary_on_floats(op) {
                let numbers: [f64; 4] = std::array::from_fn(|i| host(lhs[i], rhs[i]));
                let expected = array(t, &numbers, &[4]);
                program.case(&name, operands.clone(), expected, |b, [l, r]| {
                    b.binary(op, l, r)
                });
            } else {
                refuse(&name, &operands[0], |b, x| b.binary(op, x, x));
            }
        }
    }
    program.run();
}

#[test]
fn maximum_and_minimum_keep_a_nan_on_either_side() {
    let mut program = Program::new("maximum_and_minimum_of_nan");
    let operands = [f32s(&[f32::NAN, 1.0], &[2]), f32s(&[1.0, f32::NAN], &[2])];
    let expected = f32s(&[f32::NAN; 2], &[2]);
    program.case("max", operands.clone(), expected.clone(), |b, [l, r]| {
        b.max(l, r)
    });
    program.case("min", operands, expected, |b, [l, r]| b.min(l, r));
    program.run();
}

#[test]
fn binary_operations_on_integers_wrap_and_divide_by_zero() {
    let mut program = Program::new("binary_operations_on_integers");
    for t in types(ElementType::is_integer) {
        let most = if t.is_signed_integer() { i128::MAX } else { -1 };
        let most = wrap(t, most >> (128 - bits(t)));
        let least = wrap(t, most + 1);
        let lhs = [7, wrap(t, -7), most, 5, least, wrap(t, -7)];
        for &op in BinaryOp::ALL {
            // The last shift is by the whole width. XLA's powers reach to the exponent 63: both
            // plugins give 1 for 64.
            let last = bits(t) - u32::from(op == BinaryOp::Pow);
            let rhs = [2, 2, 1, 0, 3, i128::from(last)];
            let operands = [integers(t, &lhs, &[6]), integers(t, &rhs, &[6])];
            let name = format!("{} on {t}", op.opcode());
            if let Some(host) = binary_on_integers(op) {
                let numbers: [i128; 6] = std::array::from_fn(|i| host(bits(t), lhs[i], rhs[i]));
                let expected = integers(t, &numbers, &[6]);
                program.case(&name, operands, expected, |b, [l, r]| b.binary(op, l, r));
            } else {
                refuse(&name, &operands[0], |b, x| b.binary(op, x, x));
            }
        }
    }
    let (lhs, rhs) = (u32s(&[1, u32::MAX], &[2]), u32s(&[40, 33], &[2]));
    let nothing = u32s(&[0, 0], &[2]);
    let operands = [lhs, rhs];
    program.case(
        "shift-left past the width",
        operands.clone(),
        nothing.clone(),
        |b, [l, r]| b.shl(l, r),
    );
    program.case(
        "shift-right past the width",
        operands,
        nothing,
        |b, [l, r]| b.shr_logical(l, r),
    );
    program.run();
}

#[test]
fn operations_on_preds_are_those_of_logic() {
    let (lhs, rhs) = ([true, true, false, false], [true, false, true, false]);
    let mut program = Program::new("operations_on_preds");
    let operands = [preds(&lhs, &[4]), preds(&rhs, &[4])];
    for &op in BinaryOp::ALL {
        if let Some(host) = binary_on_preds(op) {
            let values: [bool; 4] = std::array::from_fn(|i| host(lhs[i], rhs[i]));
            program.case(
                op.opcode(),
                operands.clone(),
                preds(&values, &[4]),
                |b, [l, r]| b.binary(op, l, r),
            );
        } else {
            refuse(op.opcode(), &operands[0], |b, x| b.binary(op, x, x));
        }
    }
    for &op in UnaryOp::ALL {
        let [x, _] = operands.clone();
        if let Some(host) = unary_on_preds(op) {
            program.case(op.opcode(), [x], preds(&lhs.map(host), &[4]), |b, [x]| {
                b.unary(op, x)
            });
        } else {
            refuse(op.opcode(), &x, |b, x| b.unary(op, x));
        }
    }
    program.run();
}
