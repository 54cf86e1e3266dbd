//! `gemma-xla parity`: the same inputs here and in Flax, compared.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Outcome;
use super::model::ModelArgs;
use super::output::Output;
use super::terminal::{self, Page};
use crate::parity::{Reference, Report, Tolerance, compare};

/// Options of `parity`.
#[derive(Args)]
pub struct ParityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What Flax computed, as tools/flax/make_reference.py writes it
    #[arg(value_name = "REFERENCE.npz")]
    reference: PathBuf,
    /// Largest difference allowed, relative to each array's largest value [default: by dtype]
    #[arg(long, value_name = "R")]
    tolerance: Option<f64>,
    /// Write the report as an HTML page
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &ParityArgs) -> anyhow::Result<Outcome> {
    let reference = Reference::read(&args.reference)?;
    let mut model = args.model.clone();
    // A comparison across dtypes is possible, but only on request.
    model.dtype = model.dtype.or_else(|| reference.dtype());
    // What is wrong with it is said before anything runs.
    let page = match &args.report {
        Some(path) => Some((path, Output::open("--report", Some(path))?)),
        None => None,
    };
    let loaded = model.load()?;
    let engine = loaded.engine();
    let mut tolerance = Tolerance::for_dtype(engine.spec().compute);
    if let Some(relative) = args.tolerance {
        anyhow::ensure!(
            relative.is_finite() && relative >= 0.0,
            "--tolerance {relative}: not a finite number of at least 0"
        );
        tolerance.relative = relative;
    }
    let report = compare(engine, &reference, tolerance)?;
    if let Some((path, mut file)) = page {
        let written = file.writer().write_all(report.to_html().as_bytes());
        written.with_context(|| format!("--report {}", path.display()))?;
        file.finish()?;
    }
    if args.json {
        terminal::print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.within {
        Outcome::Done
    } else {
        Outcome::Negative
    })
}

fn print(report: &Report) -> anyhow::Result<()> {
    let mut out = Page::default();
    let verdict = |within: bool| if within { "ok" } else { "BEYOND" };
    writeln!(
        out,
        "{} on {}; allowed: {:.1e} of each array's scale, KL {}",
        report.dtype, report.device, report.tolerance.relative, report.tolerance.kl
    )?;
    if !report.arrays.is_empty() {
        writeln!(
            out,
            "{:<18} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9}",
            "", "max abs", "mean abs", "p50", "p90", "p99", "p99.9", "cosine", "max/scale"
        )?;
    }
    for array in &report.arrays {
        let a = &array.agreement;
        writeln!(
            out,
            "{:<18} {:>9.2e} {:>9.2e} {:>9.2e} {:>9.2e} {:>9.2e} {:>9.2e} {:>11.8} {:>9.2e} {}",
            array.name,
            a.max_abs,
            a.mean_abs,
            a.p50,
            a.p90,
            a.p99,
            a.p999,
            a.cosine,
            a.max_relative,
            verdict(array.within)
        )?;
    }
    if let Some(logits) = &report.logits {
        writeln!(
            out,
            "KL per position: max {:.3e}, mean {:.3e} {}; same top token at {} of {} positions",
            logits.kl_max,
            logits.kl_mean,
            verdict(logits.within),
            logits.top1_agreements,
            logits.positions
        )?;
    }
    if let Some([rows, new]) = report.generated {
        writeln!(
            out,
            "greedy: {} of {rows} rows agree over all {new} new tokens",
            rows - report.divergences.len()
        )?;
    }
    for d in &report.divergences {
        writeln!(
            out,
            "  row {} diverges after {} tokens: ours {}, reference {}; margin {:.3e}, {:.2e} of scale {}",
            d.row,
            d.step,
            d.ours,
            d.reference,
            d.margin,
            d.relative_margin,
            if d.within { "(near tie)" } else { "BEYOND" }
        )?;
    }
    writeln!(
        out,
        "{}",
        if report.within {
            "within tolerance"
        } else {
            "BEYOND tolerance"
        }
    )?;
    out.print()
}
