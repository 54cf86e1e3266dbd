//! From one element type to another, and constants of each.

use hlo::{ElementType, Literal};

use crate::host::{array, f32s, s32s, u32s};
use crate::program::Program;

#[test]
fn every_type_converts_to_every_other() {
    let mut program = Program::new("conversions");
    for from in ElementType::ALL {
        for to in ElementType::ALL {
            let pred = from == ElementType::Pred || to == ElementType::Pred;
            let hundred = |t| if t == ElementType::Pred { 1.0 } else { 100.0 };
            program.case(
                &format!("{from} to {to}"),
                [array(from, &[0.0, 1.0, hundred(from)], &[3])],
                array(to, &[0.0, 1.0, if pred { 1.0 } else { 100.0 }], &[3]),
                |b, [x]| b.convert(x, to),
            );
        }
    }
    program.run();
}

#[test]
fn conversion_truncates_to_integers_and_rounds_floats_to_even() {
    let mut program = Program::new("roundings");
    let ties = f32s(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0], &[2]);
    program.case(
        "float to integer",
        [f32s(&[2.9, -2.9], &[2])],
        s32s(&[2, -2], &[2]),
        |b, [x]| b.convert(x, ElementType::S32),
    );
    // Read as bits, so that the tolerance for bf16 does not hide a wrong rounding.
    let bf16 = array(ElementType::BF16, &[1.0, 1.015_625], &[2]);
    let bits = Literal::from_bytes(ElementType::U16, &[2], bf16.bytes().to_vec());
    program.case(
        "float to bfloat16",
        [ties.clone()],
        bits.expect("as wide"),
        |b, [x]| b.bitcast_convert(b.convert(x, ElementType::BF16)?, ElementType::U16),
    );
    program.case(
        "reduce-precision",
        [ties],
        f32s(&[1.0, 1.015_625], &[2]),
        |b, [x]| b.reduce_precision(x, 8, 7),
    );
    program.run();
}

#[test]
fn bitcast_takes_bits_as_they_are() {
    let mut program = Program::new("bitcast");
    let (floats, bits) = (
        f32s(&[1.0, -2.0], &[2]),
        u32s(&[0x3f80_0000, 0xc000_0000], &[2]),
    );
    program.case("to bits", [floats.clone()], bits.clone(), |b, [x]| {
        b.bitcast_convert(x, ElementType::U32)
    });
    program.case("from bits", [bits], floats, |b, [x]| {
        b.bitcast_convert(x, ElementType::F32)
    });
    program.run();
}

#[test]
fn constants_of_every_type_and_rank_come_back_as_written() {
    let mut program = Program::new("constants");
    for t in ElementType::ALL {
        let literals = [
            array(t, &[1.0], &[]),
            array(t, &[0.0, 1.0, 1.0], &[3]),
            array(t, &[0.0, 1.0, 0.0, 1.0, 1.0, 1.0], &[2, 3]),
            array(t, &[0.0, 1.0, 1.0, 0.0], &[2, 1, 2]),
            array(t, &[], &[2, 0]),
            Literal::lowest(t),
            Literal::highest(t),
        ];
        for literal in literals {
            let name = format!("constant {}", literal.shape());
            program.case(&name, [], literal.clone(), |b, []| b.constant(&literal));
        }
    }
    let extremes = [
        f32::MIN_POSITIVE,
        f32::MAX,
        -0.1,
        f32::INFINITY,
        -0.0,
        16_777_216.0,
        1.0 / 3.0,
    ];
    for literal in [
        f32s(&extremes, &[7]),
        f32s(&[f32::NAN], &[]),
        Literal::from_i64(&[i64::MIN, i64::MAX, -1, 1 << 60], &[4]).expect("four"),
    ] {
        program.case("extremes", [], literal.clone(), |b, []| {
            b.constant(&literal)
        });
    }
    program.run();
}

#[test]
fn scalars_are_rounded_to_their_type_and_fill_arrays() {
    let mut program = Program::new("scalars");
    // Read as bits, as above: 1.006 lies between 1 and 1 + 1/128, nearer to that.
    let bits = Literal::scalar(0x3f81_u16);
    program.case("bf16", [], bits, |b, []| {
        b.bitcast_convert(b.scalar(ElementType::BF16, 1.006)?, ElementType::U16)
    });
    program.case("s32", [], s32s(&[-7], &[]), |b, []| {
        b.scalar(ElementType::S32, -7.0)
    });
    program.case("full", [], s32s(&[3; 4], &[2, 2]), |b, []| {
        b.full(ElementType::S32, &[2, 2], 3.0)
    });
    program.run();
}

#[test]
fn iota_counts_along_its_dimension_in_every_type() {
    let mut program = Program::new("iota");
    for t in ElementType::ALL
        .into_iter()
        .filter(|&t| t != ElementType::Pred)
    {
        let (rows, columns) = (
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
            [0.0, 1.0, 2.0, 0.0, 1.0, 2.0],
        );
        program.case(
            &format!("rows of {t}"),
            [],
            array(t, &rows, &[2, 3]),
            |b, []| b.iota(t, &[2, 3], 0),
        );
        program.case(
            &format!("columns of {t}"),
            [],
            array(t, &columns, &[2, 3]),
            |b, []| b.iota(t, &[2, 3], 1),
        );
    }
    program.run();
}
