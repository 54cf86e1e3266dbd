//! Attention with attributes, against the formula.

use gemma_xla::kernel::ATTENTION;
use hlo::{Builder, CustomCallOptions, ElementType, Literal, Shape, Value};

use crate::support::{clients, numbers, run};

const ROWS: usize = 3;
const GROUP: usize = 2;
const CACHE: usize = 40;
const HEAD_DIM: usize = 16;
/// Slots that are padding, in front of each row.
const PADDING: [usize; ROWS] = [0, 4, 11];

/// The queries, keys and values of every program here: float32 with few digits.
fn operands() -> [Vec<f32>; 3] {
    let sizes = [
        ROWS * GROUP * HEAD_DIM,
        ROWS * CACHE * HEAD_DIM,
        ROWS * CACHE * HEAD_DIM,
    ];
    let mut skip = 0;
    sizes.map(|count| {
        let all = numbers(skip + count);
        let part = all[skip..].iter().map(|x| 4.0 * x.to_f32()).collect();
        skip += 17;
        part
    })
}

/// Attention in float64.
fn expected(
    slots: [usize; ROWS],
    window: Option<usize>,
    softcap: Option<f64>,
    scale: f64,
) -> Vec<f64> {
    let [queries, keys, values] = operands();
    let mut result = Vec::new();
    for (head, query) in queries.chunks(HEAD_DIM).enumerate() {
        let row = head / GROUP;
        let of = |all: &[f32], slot: usize| -> Vec<f64> {
            let from = (row * CACHE + slot) * HEAD_DIM;
            let head = &all[from..from + HEAD_DIM];
            head.iter().map(|&x| f64::from(x)).collect()
        };
        let first = window.map_or(0, |window| (slots[row] + 1).saturating_sub(window));
        let visible = first.max(PADDING[row])..slots[row] + 1;
        let score = |slot| {
            let key = of(&keys, slot);
            let products = key.iter().zip(query).map(|(k, &q)| k * f64::from(q));
            let score = products.sum::<f64>() * scale;
            softcap.map_or(score, |cap| cap * (score / cap).tanh())
        };
        let weights: Vec<f64> = visible.clone().map(|slot| score(slot).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut mixed = vec![0.0; HEAD_DIM];
        for (weight, slot) in weights.iter().zip(visible) {
            for (mixed, value) in mixed.iter_mut().zip(of(&values, slot)) {
                *mixed += weight / sum * value;
            }
        }
        result.extend(mixed);
    }
    result
}

/// A program that attends with these slots, s32 of `slot_dims`, under a configuration.
fn program(slots: &[i32], slot_dims: &[usize], config: &str) -> (Builder, Value) {
    let b = Builder::new("attention");
    let [queries, keys, values] = operands();
    fn constant<T: hlo::Element>(b: &Builder, elements: &[T], dims: &[usize]) -> Value {
        let dims: Vec<i64> = dims.iter().map(|&dim| dim as i64).collect();
        let literal = Literal::new(elements, &dims).expect("a literal");
        b.constant(&literal).expect("a constant")
    }
    let mask: Vec<i32> = PADDING
        .iter()
        .flat_map(|&padding| (0..CACHE).map(move |slot| i32::from(slot >= padding)))
        .collect();
    let operands = [
        constant(&b, &queries, &[ROWS, 1, GROUP, HEAD_DIM]),
        constant(&b, &keys, &[ROWS, 1, CACHE, HEAD_DIM]),
        constant(&b, &values, &[ROWS, 1, CACHE, HEAD_DIM]),
        constant(&b, &mask, &[ROWS, CACHE]),
        constant(&b, slots, slot_dims),
    ];
    let dims = [ROWS as i64, 1, GROUP as i64, HEAD_DIM as i64];
    let options = CustomCallOptions {
        backend_config: config.to_owned(),
        ..CustomCallOptions::default()
    };
    let result = Shape::array(ElementType::F32, &dims);
    let root = b
        .custom_call(ATTENTION, &operands, result, options)
        .expect("a custom call");
    (b, root)
}

#[test]
fn attributes_and_slots_of_rows_reach_the_kernel() {
    let root = 1.0 / (HEAD_DIM as f64).sqrt();
    let all = [30; ROWS];
    let own = [7, 38, 20];
    let both = "{scale = 0.5 : f32, softcap = 3.0 : f32, window = 9 : i64}";
    for client in clients() {
        for (slots, config, window, softcap, scale) in [
            (all, "", None, None, root),
            (all, "{}", None, None, root),
            (own, "", None, None, root),
            (own, "{window = 5 : i64}", Some(5), None, root),
            (
                all,
                "{window = 0 : i64, softcap = 0.0 : f32}",
                None,
                None,
                root,
            ),
            (all, "{softcap = 2.0 : f32}", None, Some(2.0), root),
            (own, "{scale = 0.125 : f32}", None, None, 0.125),
            (own, both, Some(9), Some(3.0), 0.5),
        ] {
            let s32 = slots.map(|slot| slot as i32);
            let (b, root) = if slots == all {
                program(&s32[..1], &[], config)
            } else {
                program(&s32, &[ROWS], config)
            };
            let found = run(&client, b, root, &[]).expect("it runs");
            let found = found.to_vec_f32().expect("a download");
            let expected = expected(slots, window, softcap, scale);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.into_iter().zip(expected) {
                let off = (f64::from(found) - expected).abs();
                assert!(
                    off < 3e-6,
                    "{config} {slots:?}: {found} {expected} on {client:?}"
                );
            }
        }
    }
}

#[test]
fn attributes_and_slots_that_cannot_be_make_the_program_fail_with_a_message() {
    let rows = [3, 4, 5];
    let cases: &[(&[i32], &[usize], &str, &str)] = &[
        (&[3], &[], "{window = -1 : i64}", "window -1 is negative"),
        (
            &[3],
            &[],
            "{window = 8 : i32}",
            "attribute window is not an i64",
        ),
        (
            &[3],
            &[],
            "{softcap = 50 : i64}",
            "attribute softcap is not an f32",
        ),
        (
            &[3],
            &[],
            "{softcap = -1.0 : f32}",
            "softcap -1 is not a positive number or 0",
        ),
        (
            &[3],
            &[],
            "{scale = 0x7FC00000 : f32}",
            "scale NaN is not a number",
        ),
        (
            &[3],
            &[],
            "{windw = 8 : i64}",
            "attribute windw is not known",
        ),
        (&[-1], &[], "", "slot -1 is negative"),
        (&[3, 4, -7], &[ROWS], "", "slot -7 is negative"),
        (
            &rows[..2],
            &[2],
            "",
            "the slots are s32[2], not s32[] or s32[3]",
        ),
        (
            &rows,
            &[1, ROWS],
            "",
            "the slots are s32[1, 3], not s32[] or s32[3]",
        ),
    ];
    for client in clients() {
        for &(slots, dims, config, message) in cases {
            let (b, root) = program(slots, dims, config);
            let error = run(&client, b, root, &[]).expect_err("it must fail");
            assert!(error.contains(message), "{error}");
            assert!(error.contains(ATTENTION), "{error}");
        }
    }
}
