//! A report as a page that stands alone: pictures as inline SVG, no scripts and no other files.
//!
//! The modules here compute what is drawn where; `report.html` draws it.

mod charts;
mod sides;
mod tokens;

use std::io::{self, Write};

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use self::charts::{Distribution, Heat, Logits};
use self::sides::{Fact, SideBySide};
use self::tokens::Tokens;
use super::report::{ArrayReport, Report};

/// What the template is given.
#[derive(Serialize)]
struct Page {
    within: bool,
    subtitle: String,
    tiles: Vec<Tile>,
    sides: Vec<SideBySide>,
    details: Vec<Fact>,
    relative: String,
    kl: String,
    distribution: Option<Distribution>,
    heat: Option<Heat>,
    logits: Option<Logits>,
    tokens: Option<Tokens>,
    arrays: Vec<ArrayRow>,
}

/// A result in a few words.
#[derive(Serialize)]
struct Tile {
    label: &'static str,
    value: String,
    note: String,
    within: bool,
}

/// A row of the table of figures.
#[derive(Serialize)]
struct ArrayRow {
    name: String,
    cells: Vec<(&'static str, String)>,
    within: bool,
}

impl Report {
    /// Writes the report as one HTML page.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write_html(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut environment = Environment::new();
        environment
            .add_template("report.html", include_str!("report.html"))
            .map_err(io::Error::other)?;
        let template = environment
            .get_template("report.html")
            .map_err(io::Error::other)?;
        // The template's name ends in .html, so every value is escaped.
        let page = template
            .render(Serde(Page::of(self)))
            .map_err(io::Error::other)?;
        to.write_all(page.as_bytes())
    }
}

impl Page {
    fn of(report: &Report) -> Self {
        Self {
            within: report.within,
            subtitle: sides::subtitle(report),
            tiles: tiles(report),
            sides: sides::side_by_side(report),
            details: sides::details(report),
            relative: number(report.tolerance.relative),
            kl: number(report.tolerance.kl),
            distribution: Distribution::of(report),
            heat: Heat::of(report),
            logits: Logits::of(report),
            tokens: Tokens::of(report),
            arrays: report.arrays.iter().map(array_row).collect(),
        }
    }
}

fn tiles(report: &Report) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if !report.arrays.is_empty() {
        let worst = report.arrays.iter().max_by(|x, y| {
            let (x, y) = (x.agreement.max_relative, y.agreement.max_relative);
            x.total_cmp(&y)
        });
        tiles.push(Tile {
            label: "First beyond tolerance",
            value: report.first_beyond.clone().unwrap_or_else(|| "none".into()),
            note: format!("of {} arrays", report.arrays.len()),
            within: report.first_beyond.is_none(),
        });
        tiles.extend(worst.map(|array| Tile {
            label: "Largest error",
            value: number(array.agreement.max_relative),
            note: format!(
                "of its scale, in {}; allowed {}",
                array.name,
                number(report.tolerance.relative)
            ),
            within: array.within,
        }));
    }
    if let Some(logits) = &report.logits {
        tiles.push(Tile {
            label: "Largest KL divergence",
            value: format!("{} nats", number(logits.kl_max)),
            note: format!(
                "mean {}; allowed {}",
                number(logits.kl_mean),
                number(report.tolerance.kl)
            ),
            within: logits.within,
        });
        let (same, all) = (logits.top1_agreements, logits.positions);
        tiles.push(Tile {
            label: "Same most likely token",
            value: format!("{same} of {all}"),
            note: "positions".into(),
            within: true,
        });
    }
    if let Some([rows, new]) = report.generated {
        tiles.push(Tile {
            label: "Same greedy tokens",
            value: format!("{} of {rows}", rows - report.divergences.len()),
            note: format!("rows, over all {new} new tokens"),
            within: report.divergences.iter().all(|d| d.within),
        });
    }
    tiles
}

fn array_row(array: &ArrayReport) -> ArrayRow {
    let a = &array.agreement;
    ArrayRow {
        name: array.name.clone(),
        cells: vec![
            ("largest", number(a.max_abs)),
            ("mean", number(a.mean_abs)),
            ("median", number(a.p50)),
            ("90 %", number(a.p90)),
            ("99 %", number(a.p99)),
            ("99.9 %", number(a.p999)),
            ("scale", number(a.scale)),
            ("largest / scale", number(a.max_relative)),
            ("cosine", format!("{:.8}", a.cosine)),
        ],
        within: array.within,
    }
}

/// A figure of two digits.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if value.is_infinite() => "not finite".into(),
        value if (1e-2..1e4).contains(&value.abs()) => {
            let digits = match value.abs() {
                size if size < 0.1 => 3,
                size if size < 10.0 => 2,
                _ => 1,
            };
            let text = format!("{value:.digits$}");
            match text.trim_end_matches('0').trim_end_matches('.') {
                "" => text,
                short => short.to_owned(),
            }
        }
        value => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.03, "0.03"),
            (0.015, "0.015"),
            (1.5, "1.5"),
            (100.0, "100"),
            (1e-4, "1.0e-4"),
            (f64::INFINITY, "not finite"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
