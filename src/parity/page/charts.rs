//! The pictures of arrays: how errors are distributed, and at which positions they are.
//!
//! Coordinates are in units of the `viewBox`, which the page stretches to its width. What must not
//! be stretched, such as text, is placed in percent beside the picture.

use serde::Serialize;

use super::super::report::{ArrayReport, Position, Report};
use super::super::statistics::Histogram;
use super::number;

/// The most columns that a picture over positions has: more positions share one.
const MOST_COLUMNS: usize = 240;
/// The height of a distribution.
const CURVE: f64 = 20.0;
/// The height of the bars of KL divergence.
const BARS: f64 = 60.0;
/// The lowest power of ten at which bars of KL divergence begin.
const LOWEST_KL: i32 = -14;

/// A mark at the edge of a picture, in percent of its width.
#[derive(Serialize)]
struct Mark {
    at: f64,
    label: String,
}

/// How the errors of each array are distributed, over powers of ten of its scale.
#[derive(Serialize)]
pub(super) struct Distribution {
    width: usize,
    height: f64,
    tolerance: f64,
    marks: Vec<Mark>,
    rows: Vec<Curve>,
}

#[derive(Serialize)]
struct Curve {
    name: String,
    path: String,
    largest: Option<f64>,
    note: String,
    title: String,
    within: bool,
}

impl Distribution {
    pub fn of(report: &Report) -> Option<Self> {
        if report.arrays.is_empty() {
            return None;
        }
        let per_decade = Histogram::PER_DECADE;
        let place = |relative: f64| {
            let decades = relative.log10() - f64::from(Histogram::LOWEST);
            (decades * per_decade as f64).clamp(0.0, Histogram::BINS as f64)
        };
        // Whole decades, from the smallest difference to the largest one and the tolerance.
        let filled = |array: &ArrayReport| {
            let first = array.histogram.counts.iter().position(|&count| count > 0)?;
            let last = array
                .histogram
                .counts
                .iter()
                .rposition(|&count| count > 0)?;
            Some((first, last))
        };
        let tolerance = place(report.tolerance.relative);
        let (mut low, mut high) = (tolerance.floor() as usize, tolerance.ceil() as usize);
        for (first, last) in report.arrays.iter().filter_map(filled) {
            low = low.min(first);
            high = high.max(last + 1);
        }
        let low = low / per_decade;
        let high = (high / per_decade + 1).min(Histogram::BINS / per_decade);
        let (begin, end) = (low * per_decade, high * per_decade);
        let decades = high - low;
        // At most five labels, so that they fit a narrow page.
        let step = decades.div_ceil(5).max(1);
        let marks = (low..high).step_by(step).map(|decade| Mark {
            at: (decade - low) as f64 / decades as f64 * 100.0,
            label: format!("1e{}", decade as i32 + Histogram::LOWEST),
        });
        let rows = report.arrays.iter().map(|array| {
            let a = &array.agreement;
            let largest = a.max_relative;
            let total = array.histogram.equal + array.histogram.counts.iter().sum::<usize>();
            let equal = array.histogram.equal as f64 / total.max(1) as f64 * 100.0;
            let relative = |value: f64| number(if value == 0.0 { 0.0 } else { value / a.scale });
            Curve {
                name: array.name.clone(),
                path: curve(&array.histogram.counts[begin..end]),
                largest: (largest > 0.0).then(|| {
                    let at = place(largest) - begin as f64;
                    at.clamp(0.0, (end - begin) as f64)
                }),
                note: number(largest),
                title: format!(
                    "{}: median {}, 99 % {}, largest {} of its scale; {equal:.0} % of {total} \
                     elements equal",
                    array.name,
                    relative(a.p50),
                    relative(a.p99),
                    number(largest)
                ),
                within: array.within,
            }
        });
        Some(Self {
            width: end - begin,
            height: CURVE,
            tolerance: tolerance - begin as f64,
            marks: marks.collect(),
            rows: rows.collect(),
        })
    }
}

/// A curve whose area over a bin grows with the root of its count, so that few large errors are
/// seen beside many small ones.
fn curve(counts: &[usize]) -> String {
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let mut path = format!("M0 {CURVE}");
    for (bin, &count) in counts.iter().enumerate() {
        let top = CURVE * (1.0 - (count as f64 / most).sqrt() * 0.95);
        path.push_str(&format!("V{top:.2}H{}", bin + 1));
    }
    path.push_str(&format!("V{CURVE}Z"));
    path
}

/// Neighbouring positions that share a column.
fn columns(positions: &[Position]) -> Vec<(usize, &[Position])> {
    let size = positions.len().div_ceil(MOST_COLUMNS).max(1);
    let chunks = positions.chunks(size).enumerate();
    chunks.map(|(i, chunk)| (i * size, chunk)).collect()
}

/// The columns at which the rows of the batch begin. At most 16 have a label.
fn row_marks(columns: &[(usize, &[Position])]) -> Vec<Mark> {
    let mut begins: Vec<(usize, usize)> = Vec::new();
    for (column, (_, chunk)) in columns.iter().enumerate() {
        let row = chunk.first().map_or(0, |position| position.row);
        if begins.last().is_none_or(|&(_, last)| last != row) {
            begins.push((column, row));
        }
    }
    let step = begins.len().div_ceil(16).max(1);
    let of_all = columns.len().max(1) as f64;
    let marks = begins.iter().step_by(step).map(|&(column, row)| Mark {
        at: column as f64 / of_all * 100.0,
        label: row.to_string(),
    });
    marks.collect()
}

/// Where a column is, in words.
fn place(chunk: &[Position]) -> String {
    let Some(first) = chunk.first() else {
        return String::new();
    };
    let text = match &first.text {
        Some(text) if !text.trim().is_empty() => format!(" “{}”", text.trim()),
        _ => String::new(),
    };
    let more = match chunk.len() {
        1 => String::new(),
        count => format!(" and the next {}", count - 1),
    };
    format!(
        "row {}, position {}, token {}{text}{more}",
        first.row, first.index, first.token_id
    )
}

/// The largest of some values, none of which is a number where one is not.
fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// The errors of each array at each position.
#[derive(Serialize)]
pub(super) struct Heat {
    columns: usize,
    marks: Vec<Mark>,
    rows: Vec<HeatRow>,
    legend: Vec<(usize, &'static str)>,
}

#[derive(Serialize)]
struct HeatRow {
    name: String,
    within: bool,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    at: usize,
    level: usize,
    title: String,
}

/// What the levels of the heat map mean, as shares of the tolerance.
const LEVELS: [&str; 8] = [
    "0",
    "up to 0.0001",
    "up to 0.001",
    "up to 0.01",
    "up to 0.1",
    "up to 1",
    "beyond: up to 10",
    "beyond: more",
];

/// The level of an error that is this share of the tolerance.
fn level(share: f64) -> usize {
    match share {
        0.0 => 0,
        share if share <= 1e-4 => 1,
        share if share <= 1e-3 => 2,
        share if share <= 1e-2 => 3,
        share if share <= 1e-1 => 4,
        share if share <= 1.0 => 5,
        share if share <= 10.0 => 6,
        _ => 7,
    }
}

impl Heat {
    pub fn of(report: &Report) -> Option<Self> {
        let columns = columns(&report.positions);
        if columns.is_empty() || report.arrays.is_empty() {
            return None;
        }
        let rows = report.arrays.iter().map(|array| HeatRow {
            name: array.name.clone(),
            within: array.within,
            cells: columns
                .iter()
                .enumerate()
                .map(|(at, (begin, chunk))| {
                    let found = largest(&array.at_positions[*begin..begin + chunk.len()]);
                    Cell {
                        at,
                        level: match found {
                            0.0 => 0,
                            found => level(found / report.tolerance.relative),
                        },
                        title: format!(
                            "{}; {}: {} of its scale",
                            array.name,
                            place(chunk),
                            number(found)
                        ),
                    }
                })
                .collect(),
        });
        let rows: Vec<HeatRow> = rows.collect();
        let used = |level: &usize| {
            let mut cells = rows.iter().flat_map(|row| &row.cells);
            cells.any(|cell| cell.level == *level)
        };
        Some(Self {
            columns: columns.len(),
            marks: row_marks(&columns),
            legend: (0..LEVELS.len())
                .filter(used)
                .map(|level| (level, LEVELS[level]))
                .collect(),
            rows,
        })
    }
}

/// KL divergence and the preferred token at each position.
#[derive(Serialize)]
pub(super) struct Logits {
    columns: usize,
    height: f64,
    tolerance: f64,
    top: String,
    bottom: String,
    marks: Vec<Mark>,
    bars: Vec<Bar>,
    differing: usize,
}

#[derive(Serialize)]
struct Bar {
    at: usize,
    top: f64,
    size: f64,
    beyond: bool,
    same: bool,
    title: String,
}

impl Logits {
    pub fn of(report: &Report) -> Option<Self> {
        let logits = report.logits.as_ref()?;
        let columns = columns(&report.positions);
        let largest_kl = match logits.kl_max {
            kl if kl.is_finite() => kl,
            _ => 1.0,
        };
        let highest = largest_kl.max(report.tolerance.kl).log10().floor() as i32 + 1;
        // A decade below the smallest divergence, so that the differences between positions show.
        let smallest = logits.kl_at_positions.iter().filter(|&&kl| kl > 0.0);
        let smallest = smallest.copied().fold(report.tolerance.kl, f64::min);
        let lowest = (smallest.log10().floor() as i32 - 1).max(LOWEST_KL);
        let highest = highest.max(lowest + 1);
        let height = |kl: f64| {
            let decades = kl.log10() - f64::from(lowest);
            let share = decades / f64::from(highest - lowest);
            // Whatever is not 0 can be seen.
            share.clamp(0.02, 1.0) * BARS
        };
        let bars = columns.iter().enumerate().map(|(at, (begin, chunk))| {
            let range = *begin..begin + chunk.len();
            let kl = largest(&logits.kl_at_positions[range.clone()]);
            let size = if kl == 0.0 { 0.0 } else { height(kl) };
            let same = logits.top1_at_positions[range].iter().all(|&same| same);
            let preferred = match same {
                true => "the same token preferred",
                false => "another token preferred",
            };
            Bar {
                at,
                top: BARS - size,
                size,
                beyond: kl > report.tolerance.kl,
                same,
                title: format!("{}: {} nats, {preferred}", place(chunk), number(kl)),
            }
        });
        Some(Self {
            columns: columns.len(),
            height: BARS,
            tolerance: BARS - height(report.tolerance.kl),
            top: format!("1e{highest}"),
            bottom: format!("1e{lowest}"),
            marks: row_marks(&columns),
            bars: bars.collect(),
            differing: logits.positions - logits.top1_agreements,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(rows: usize, tokens: usize) -> Vec<Position> {
        let of_row = |row| {
            (0..tokens).map(move |index| Position {
                row,
                index,
                token_id: 7,
                text: None,
            })
        };
        (0..rows).flat_map(of_row).collect()
    }

    #[test]
    fn many_positions_share_columns_and_none_is_lost() {
        let all = positions(3, 500);
        let columns = columns(&all);
        assert!(columns.len() <= MOST_COLUMNS);
        let covered: usize = columns.iter().map(|(_, chunk)| chunk.len()).sum();
        assert_eq!(covered, all.len());
        let labels: Vec<String> = row_marks(&columns).into_iter().map(|m| m.label).collect();
        assert_eq!(labels, ["0", "1", "2"]);
    }

    #[test]
    fn levels_are_shares_of_the_tolerance() {
        for (share, expected) in [
            (0.0, 0),
            (1e-9, 1),
            (5e-4, 2),
            (0.5, 5),
            (1.0, 5),
            (1.1, 6),
            (f64::INFINITY, 7),
        ] {
            assert_eq!(level(share), expected, "{share}");
        }
    }
}
