//! `gemma-xla parity`: the same inputs here and in Flax, or in another of our own runs, compared.

use std::io::BufWriter;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::Outcome;
use super::input::{Encoder, InputFormat, Prompts};
use super::model::{ModelArgs, device_name, load_opened};
use super::output::Output;
use super::terminal::{self, Page};
use crate::bench::random_prompts;
use crate::dtype::DType;
use crate::parity::{Reference, Report, Tolerance, compare};
use crate::sharding::Mesh;
use crate::source::Model;

/// The prompts of `--against` where none are given: of several lengths, so that the batch has
/// padding, with words, numbers, code and other alphabets.
const PROMPTS: [&str; 4] = [
    "The quick brown fox jumps over the lazy dog.",
    "The train leaves at 7:45 from platform 3 and reaches the coast 2 hours and 10 minutes later; \
     a ticket costs 12.50 in advance, or 18 on the day, and children under six travel free of \
     charge when somebody is with them.",
    "fn main() {\n    let sum: u64 = (1..=10).map(|n| n * n).sum();",
    "Größe, naïveté, Ελλάδα, 東京, привет",
];
/// The tokens of each prompt of a model without a tokenizer.
const LENGTHS: [usize; 4] = [6, 11, 17, 24];

/// Options of `parity`.
#[derive(Args)]
pub struct ParityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What Flax computed, as tools/flax/make_reference.py writes it; with --against, prompts
    /// instead [default: a few of several lengths]
    #[arg(
        value_name = "REFERENCE.npz|PROMPT",
        required_unless_present = "against"
    )]
    reference: Vec<String>,
    /// Compare with another of our own runs, which differs in this: a folder or Hub model, a dtype
    /// (f32), a mesh (model=2), or a device (cpu, a plugin's path); may be given several times
    #[arg(long, value_name = "DIR|DTYPE|MESH|DEVICE")]
    against: Vec<Against>,
    /// File with prompts, or - for standard input
    #[arg(long, value_name = "FILE", requires = "against")]
    input: Option<PathBuf>,
    /// Format of the input [default: by its name, else by its first line]
    #[arg(long, value_enum, requires = "input")]
    input_format: Option<InputFormat>,
    /// Tokens that are generated after each prompt
    #[arg(long, value_name = "N", default_value_t = 20, requires = "against", value_parser = RangedU64ValueParser::<usize>::new().range(1..=i32::MAX as u64))]
    max_new_tokens: usize,
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

/// In what the other run differs.
#[derive(Clone, Debug, PartialEq)]
enum Against {
    Model(PathBuf),
    DType(DType),
    Mesh(Mesh),
    Device(String),
}

impl FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plugin = || {
            let name = text.rsplit('/').next().unwrap_or(text);
            name.ends_with(".so") || name.contains(".so.")
        };
        if let Ok(dtype) = text.parse() {
            return Ok(Against::DType(dtype));
        }
        match text {
            "" => Err("is empty".into()),
            "cpu" | "tpu" | "cuda" | "gpu" => match device_name(text) {
                Ok(name) => Ok(Against::Device(name)),
                Err(never) => match never {},
            },
            _ if is_plugin() => Ok(Against::Device(text.to_owned())),
            _ if text.contains('=') && !PathBuf::from(text).exists() => match text.parse() {
                Ok(mesh) => Ok(Against::Mesh(mesh)),
                Err(error) => Err(format!("{error}")),
            },
            _ => Ok(Against::Model(text.into())),
        }
    }
}

impl Against {
    /// Changes the arguments of the model to those of the other run.
    fn apply(&self, model: &mut ModelArgs) {
        match self {
            Against::Model(path) => {
                model.model.clone_from(path);
                model.revision = None;
            }
            Against::DType(dtype) => model.dtype = Some(*dtype),
            Against::Mesh(mesh) => {
                model.mesh = *mesh;
                // As many as this mesh needs.
                model.devices = None;
            }
            Against::Device(device) => model.device.clone_from(device),
        }
    }
}

/// Runs the command.
pub fn run(args: &ParityArgs) -> anyhow::Result<Outcome> {
    if let Some(relative) = args.tolerance {
        ensure!(
            relative.is_finite() && relative >= 0.0,
            "--tolerance {relative}: not a finite number of at least 0"
        );
    }
    // Before anything is computed: a name that no file can have is known at once.
    let page = match &args.report {
        Some(path) => Some(Output::open("--report", Some(path))?),
        None => None,
    };
    let mut model = args.model.clone();
    let (reference, allowed) = match args.against.is_empty() {
        true => {
            let [file] = args.reference.as_slice() else {
                bail!("one REFERENCE.npz at a time; prompts need --against");
            };
            let reference = Reference::read(file.as_ref())?;
            // A comparison across dtypes is possible, but only on request.
            model.dtype = model.dtype.or_else(|| reference.dtype());
            (reference, None)
        }
        false => {
            model = model.located()?;
            let (reference, allowed) = other_run(args, &model)?;
            (reference, Some(allowed))
        }
    };
    let loaded = model.load()?;
    let engine = loaded.engine();
    let mut tolerance = Tolerance::for_dtype(engine.spec().compute);
    if let Some(allowed) = allowed {
        tolerance = tolerance.or_larger(allowed);
    }
    if let Some(relative) = args.tolerance {
        tolerance.relative = relative;
    }
    let report = compare(engine, &reference, tolerance)?.about(&loaded);
    if let Some(mut page) = page {
        let mut writer = BufWriter::new(page.writer());
        report.write_html(&mut writer)?;
        writer.into_inner().map_err(|error| error.into_error())?;
        page.finish()?;
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

/// What the run that `--against` describes computes, and the tolerance of its dtype. It has left
/// the devices when this returns: two models need not fit at once.
fn other_run(args: &ParityArgs, ours: &ModelArgs) -> anyhow::Result<(Reference, Tolerance)> {
    let mut other = ours.clone();
    for (index, against) in args.against.iter().enumerate() {
        let kind = std::mem::discriminant(against);
        let again = args.against[..index]
            .iter()
            .any(|earlier| std::mem::discriminant(earlier) == kind);
        ensure!(!again, "--against: two of one kind; a run has one of each");
        against.apply(&mut other);
    }
    let other = other.located()?;
    // Our side is opened too, so that what is wrong with it is known before anything runs.
    let model = Model::open(&ours.model)?;
    let prompts = prompts(args, &model)?;
    let loaded = load_opened(Model::open(&other.model)?, &other.options())?;
    let reference = Reference::computed(&loaded, &prompts, args.max_new_tokens)
        .context("--against: the other run failed")?;
    Ok((
        reference,
        Tolerance::for_dtype(loaded.engine().spec().compute),
    ))
}

/// The prompts of the arguments and of `--input`, else a few of several lengths.
fn prompts(args: &ParityArgs, model: &Model) -> anyhow::Result<Vec<Vec<u32>>> {
    let config = model.config();
    let given = !args.reference.is_empty() || args.input.is_some();
    let texts: Vec<String> = match (given, model.tokenizer()) {
        (true, _) => args.reference.clone(),
        (false, Some(_)) => PROMPTS.map(str::to_owned).to_vec(),
        (false, None) => {
            let most = LENGTHS.iter().max().copied().unwrap_or(0);
            let ids = random_prompts(LENGTHS.len(), most, config.vocab_size());
            let cut = ids.into_iter().zip(LENGTHS).map(|(mut ids, length)| {
                ids.truncate(length);
                ids
            });
            return Ok(cut.collect());
        }
    };
    let encoder = Encoder {
        tokenizer: model.tokenizer(),
        chat: None,
        model: model.folder(),
        positions: config.max_position_embeddings(),
    };
    Prompts::open(&texts, args.input.as_deref(), args.input_format)?
        .map(|prompt| prompt.map_err(|bad| bad.error)?.ids(encoder))
        .collect()
}

fn print(report: &Report) -> anyhow::Result<()> {
    let mut out = Page::default();
    let verdict = |within: bool| if within { "ok" } else { "BEYOND" };
    writeln!(
        out,
        "{} on {}; allowed: {:.1e} of each array's scale, KL {}",
        report.dtype, report.device, report.tolerance.relative, report.tolerance.kl
    )?;
    let fact = |name| report.reference.get(name).and_then(|value| value.as_str());
    if let Some(model) = fact("model") {
        let dtype = fact("dtype").unwrap_or("a dtype that is not stated");
        writeln!(out, "reference: {model} in {dtype}")?;
    }
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
    if let Some(name) = &report.first_beyond {
        writeln!(out, "first beyond tolerance: {name}")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_run_differs_in_is_told_by_its_form() {
        let parsed = |text: &str| text.parse::<Against>();
        assert_eq!(parsed("float32"), Ok(Against::DType(DType::F32)));
        let mesh = Mesh { data: 1, model: 2 };
        assert_eq!(parsed("model=2"), Ok(Against::Mesh(mesh)));
        assert_eq!(parsed("gpu"), Ok(Against::Device("cuda".into())));
        let plugin = "/lib/plugin.so";
        assert_eq!(parsed(plugin), Ok(Against::Device(plugin.into())));
        let folder = "checkpoints/other";
        assert_eq!(parsed(folder), Ok(Against::Model(folder.into())));
        assert!(parsed("rows=2").is_err_and(|error| error.contains("'rows'")));
        assert!(parsed("").is_err());
    }
}
