//! Runs a reference's inputs here and measures the differences.

use serde::Serialize;

use super::reference::Reference;
use super::statistics::{Agreement, kl_divergence, top1};
use crate::dtype::DType;
use crate::engine::{Engine, Error, ForwardOutput, GenerateOptions, Result};

/// How far apart two outputs may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Largest difference of hidden states and logits, relative to the scale of each array.
    pub relative: f64,
    /// Largest Kullback–Leibler divergence at a position, in nats.
    pub kl: f64,
}

impl Tolerance {
    /// The tolerance for a compute dtype. In float32 only the order of summation differs.
    ///
    /// In bfloat16 it is what Flax's own runs differ by when the batch has another shape or the
    /// call is compiled: up to 2.6e-2 of the logits' scale over the checkpoints in tests/data,
    /// measured with `tools/flax/make_reference.py --measure-noise`. In float16 those runs are
    /// equal on a CPU, and it is a little more than their distance from float32, 3.9e-3.
    pub fn for_dtype(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self {
                relative: 1e-4,
                kl: 1e-5,
            },
            DType::F16 => Self {
                relative: 5e-3,
                kl: 1e-3,
            },
            DType::BF16 => Self {
                relative: 3e-2,
                kl: 0.015,
            },
        }
    }

    /// A gap between two logits, relative to their scale, that this tolerance cannot tell from a
    /// tie: each of the two may be off by [`relative`](Self::relative).
    pub fn near_tie(&self) -> f64 {
        2.0 * self.relative
    }
}

/// One array compared, over the positions that are not padding.
#[derive(Clone, Debug, Serialize)]
pub struct ArrayReport {
    /// What it is.
    pub name: String,
    /// How far the two are apart.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// Whether that is within tolerance.
    pub within: bool,
}

/// The logits compared as distributions, over the positions that are not padding.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LogitsReport {
    /// Largest divergence at a position, in nats.
    pub kl_max: f64,
    /// Mean divergence, in nats.
    pub kl_mean: f64,
    /// Positions compared.
    pub positions: usize,
    /// Positions at which both prefer the same token.
    pub top1_agreements: usize,
    /// Whether the largest divergence is within tolerance.
    pub within: bool,
}

/// Where a generated row parts from the reference.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Divergence {
    /// Row of the batch.
    pub row: usize,
    /// New tokens that agree before it.
    pub step: usize,
    /// Our token.
    pub ours: i32,
    /// The reference's token.
    pub reference: i32,
    /// By how much our logit of our token exceeds our logit of the reference's, after the
    /// reference's tokens.
    pub margin: f64,
    /// The margin relative to the largest logit there.
    pub relative_margin: f64,
    /// Whether the margin is a near tie within tolerance.
    pub within: bool,
}

/// All that was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The dtype that was computed in here.
    pub dtype: String,
    /// The kind of device.
    pub device: String,
    /// The mesh of devices.
    pub mesh: String,
    /// How the reference was made.
    pub reference: serde_json::Map<String, serde_json::Value>,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// Hidden states in order, then logits.
    pub arrays: Vec<ArrayReport>,
    /// Logits as distributions.
    pub logits: Option<LogitsReport>,
    /// Rows generated, and new tokens a row; none without sequences.
    pub generated: Option<[usize; 2]>,
    /// The first divergence of each row that has one.
    pub divergences: Vec<Divergence>,
    /// Whether everything is within tolerance.
    pub within: bool,
}

/// Runs the inputs of `reference` on `engine` and compares what comes out.
///
/// # Errors
/// A reference made for another geometry, or one that holds nothing to compare; a device that
/// fails.
pub fn compare(engine: &Engine, reference: &Reference, tolerance: Tolerance) -> Result<Report> {
    check_geometry(engine, reference)?;
    let mut arrays = Vec::new();
    let mut logits = None;
    if reference.logits.is_some() || reference.hidden_states.is_some() {
        let ours = engine.forward(
            reference.batch,
            reference.length,
            &reference.input_ids,
            &reference.attention_mask,
        )?;
        arrays = compare_arrays(reference, &ours, tolerance);
        logits = reference.logits.as_ref().map(|(vocab, theirs)| {
            compare_logits(reference, *vocab, theirs, &ours.logits, tolerance)
        });
    }
    let (generated, divergences) = match &reference.sequences {
        Some((total, sequences)) if *total > reference.length => {
            let new = *total - reference.length;
            let divergences = compare_sequences(engine, reference, sequences, new, tolerance)?;
            (Some([reference.batch, new]), divergences)
        }
        _ => (None, Vec::new()),
    };
    let within = arrays.iter().all(|a| a.within)
        && logits.is_none_or(|l| l.within)
        && divergences.iter().all(|d| d.within);
    Ok(Report {
        dtype: engine.spec().compute.to_string(),
        device: engine.device_kind().to_owned(),
        mesh: engine.spec().mesh.to_string(),
        reference: reference.metadata.clone(),
        tolerance,
        arrays,
        logits,
        generated,
        divergences,
        within,
    })
}

/// A reference of another model is refused by name, rather than compared element by element with
/// the wrong one.
fn check_geometry(engine: &Engine, reference: &Reference) -> Result<()> {
    let config = &engine.spec().config;
    let mismatch = |array: &str, found: usize, key: &str, expected: usize| Error::Reference {
        file: reference.file.clone(),
        problem: format!("{array} is of size {found}, but the model's {key} is {expected}"),
    };
    if let Some((vocab, _)) = &reference.logits
        && *vocab != config.vocab_size()
    {
        return Err(mismatch(
            "logits",
            *vocab,
            "vocab_size",
            config.vocab_size(),
        ));
    }
    if let Some((hidden, layers)) = &reference.hidden_states {
        if *hidden != config.hidden_size() {
            return Err(mismatch(
                "hidden_states",
                *hidden,
                "hidden_size",
                config.hidden_size(),
            ));
        }
        let expected = config.num_hidden_layers() + 1;
        if layers.len() != expected {
            let key = "num_hidden_layers + 1";
            return Err(mismatch("hidden_states", layers.len(), key, expected));
        }
    }
    if reference.logits.is_none()
        && reference.hidden_states.is_none()
        && reference.sequences.is_none()
    {
        return Err(Error::Reference {
            file: reference.file.clone(),
            problem: "has neither logits, hidden_states nor sequences".into(),
        });
    }
    Ok(())
}

fn compare_arrays(
    reference: &Reference,
    ours: &ForwardOutput,
    tolerance: Tolerance,
) -> Vec<ArrayReport> {
    let report = |name: String, width: usize, ours: &[f32], theirs: &[f32]| {
        let agreement = Agreement::between(
            positions(reference, width, ours, theirs).flat_map(|(x, y)| x.iter().zip(y)),
        );
        ArrayReport {
            name,
            agreement,
            within: agreement.max_relative <= tolerance.relative,
        }
    };
    let mut reports = Vec::new();
    if let Some((hidden, layers)) = &reference.hidden_states {
        for (index, (theirs, ours)) in layers.iter().zip(&ours.hidden_states).enumerate() {
            let name = match index {
                0 => "embedding".to_owned(),
                _ if index + 1 == layers.len() => format!("layer {} + norm", index - 1),
                _ => format!("layer {}", index - 1),
            };
            reports.push(report(name, *hidden, ours, theirs));
        }
    }
    if let Some((vocab, theirs)) = &reference.logits {
        reports.push(report("logits".into(), *vocab, &ours.logits, theirs));
    }
    reports
}

/// The vectors of both arrays [B, S, width] at every position that is not padding.
fn positions<'a>(
    reference: &'a Reference,
    width: usize,
    ours: &'a [f32],
    theirs: &'a [f32],
) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let pairs = ours.chunks_exact(width).zip(theirs.chunks_exact(width));
    pairs
        .zip(&reference.attention_mask)
        .filter(|&(_, &mask)| mask != 0)
        .map(|(pair, _)| pair)
}

fn compare_logits(
    reference: &Reference,
    vocab: usize,
    theirs: &[f32],
    ours: &[f32],
    tolerance: Tolerance,
) -> LogitsReport {
    let (mut sum, mut kl_max, mut count, mut top1_agreements) = (0.0, 0.0_f64, 0_usize, 0);
    for (ours, theirs) in positions(reference, vocab, ours, theirs) {
        let kl = kl_divergence(theirs, ours);
        sum += kl;
        kl_max = kl_max.max(kl);
        count += 1;
        top1_agreements += usize::from(top1(ours) == top1(theirs));
    }
    LogitsReport {
        kl_max,
        kl_mean: sum / count.max(1) as f64,
        positions: count,
        top1_agreements,
        within: kl_max <= tolerance.kl,
    }
}

fn compare_sequences(
    engine: &Engine,
    reference: &Reference,
    sequences: &[i32],
    new: usize,
    tolerance: Tolerance,
) -> Result<Vec<Divergence>> {
    let total = reference.length + new;
    let prompts: Vec<Vec<u32>> = (0..reference.batch)
        .map(|row| reference.prompt(row))
        .collect();
    let options = GenerateOptions {
        max_new_tokens: new,
        batch_size: reference.batch,
        ..GenerateOptions::default()
    };
    let ours = engine.generate(&prompts, &options)?;

    let pad = engine.spec().config.padding_id() as i32;
    let mut parted = Vec::new();
    for generation in &ours {
        let row = generation.index;
        let theirs = &sequences[row * total + reference.length..(row + 1) * total];
        let ours = generation.token_ids.iter().map(|&id| id as i32);
        let ours = ours.chain(std::iter::repeat(pad));
        if let Some((step, (ours, &reference))) =
            ours.zip(theirs).enumerate().find(|(_, (x, y))| x != *y)
        {
            parted.push((row, step, ours, reference));
        }
    }
    if parted.is_empty() {
        return Ok(Vec::new());
    }
    margins(engine, reference, sequences, total, &parted, tolerance)
}

/// Our logits after the reference's own tokens, at each place where a row parts from it.
fn margins(
    engine: &Engine,
    reference: &Reference,
    sequences: &[i32],
    total: usize,
    parted: &[(usize, usize, i32, i32)],
    tolerance: Tolerance,
) -> Result<Vec<Divergence>> {
    let vocab = engine.spec().config.vocab_size();
    let mut mask = Vec::with_capacity(sequences.len());
    for row in reference.attention_mask.chunks_exact(reference.length) {
        mask.extend_from_slice(row);
        mask.resize(mask.len() + total - reference.length, 1);
    }
    let forward = engine.forward(reference.batch, total, sequences, &mask)?;
    Ok(parted
        .iter()
        .map(|&(row, step, ours, reference_token)| {
            let position = row * total + reference.length + step - 1;
            let logits = &forward.logits[position * vocab..][..vocab];
            let logit = |id: i32| {
                let id = usize::try_from(id).ok();
                f64::from(
                    id.and_then(|id| logits.get(id))
                        .copied()
                        .unwrap_or(f32::NAN),
                )
            };
            let margin = logit(ours) - logit(reference_token);
            let scale = logits
                .iter()
                .fold(0.0_f64, |m, &x| m.max(f64::from(x).abs()));
            let relative_margin = margin.abs() / scale;
            Divergence {
                row,
                step,
                ours,
                reference: reference_token,
                margin,
                relative_margin,
                within: relative_margin <= tolerance.near_tie(),
            }
        })
        .collect())
}
