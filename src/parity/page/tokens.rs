//! Where generated rows part.

use serde::Serialize;

use super::super::report::{Divergence, Report};
use super::number;

/// Where the bar of a margin has the limit, in percent of its width.
const LIMIT: f64 = 60.0;

/// The picture of generated rows.
#[derive(Serialize)]
pub(super) struct Tokens {
    new: usize,
    rows: Vec<Row>,
    limit: f64,
    near_tie: String,
    parted: Vec<Parted>,
}

/// How far a row agrees.
#[derive(Serialize)]
struct Row {
    row: usize,
    agree: f64,
    steps: usize,
    parts: bool,
    within: bool,
}

/// A place where a row parts from the reference.
#[derive(Serialize)]
struct Parted {
    row: usize,
    step: usize,
    ours: String,
    reference: String,
    margin: String,
    relative: String,
    bar: f64,
    within: bool,
}

impl Tokens {
    pub fn of(report: &Report) -> Option<Self> {
        let [rows, new] = report.generated?;
        let near_tie = report.tolerance.near_tie();
        let rows = (0..rows).map(|row| {
            let parted = report.divergences.iter().find(|d| d.row == row);
            let steps = parted.map_or(new, |d| d.step);
            Row {
                row,
                agree: steps as f64 / new.max(1) as f64 * 100.0,
                steps,
                parts: parted.is_some(),
                within: parted.is_none_or(|d| d.within),
            }
        });
        Some(Self {
            new,
            rows: rows.collect(),
            limit: LIMIT,
            near_tie: number(near_tie),
            parted: report
                .divergences
                .iter()
                .map(|d| parted(d, near_tie))
                .collect(),
        })
    }
}

fn parted(d: &Divergence, near_tie: f64) -> Parted {
    let token = |id: i32, text: Option<&String>| match text {
        Some(text) if !text.trim().is_empty() => format!("{id} “{}”", text.trim()),
        _ => id.to_string(),
    };
    let texts = d.texts.as_ref();
    let share = d.relative_margin / near_tie * LIMIT;
    Parted {
        row: d.row,
        step: d.step,
        ours: token(d.ours, texts.map(|[ours, _]| ours)),
        reference: token(d.reference, texts.map(|[_, reference]| reference)),
        margin: number(d.margin),
        relative: number(d.relative_margin),
        // A margin that is not a number is drawn as one that is far too large.
        bar: if share.is_nan() {
            100.0
        } else {
            share.min(100.0)
        },
        within: d.within,
    }
}
