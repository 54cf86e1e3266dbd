//! Runs a reference's inputs here and measures the differences.

use super::facts::engine_facts;
use super::reference::Reference;
use super::report::{ArrayReport, Divergence, LogitsReport, Position, Report, Tolerance};
use super::statistics::{Agreement, kl_divergence, largest_difference, top1};
use crate::engine::{Engine, Error, ForwardOutput, GenerateOptions, Result};

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
        && logits.as_ref().is_none_or(|l| l.within)
        && divergences.iter().all(|d| d.within);
    Ok(Report {
        dtype: engine.spec().compute.to_string(),
        device: engine.device_kind().to_owned(),
        mesh: engine.spec().mesh.to_string(),
        ours: engine_facts(engine),
        reference: reference.metadata.clone(),
        tolerance,
        positions: match arrays.is_empty() {
            true => Vec::new(),
            false => compared_positions(reference),
        },
        first_beyond: arrays.iter().find(|a| !a.within).map(|a| a.name.clone()),
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
        let pairs = || positions(reference, width, ours, theirs);
        let elements = pairs().flat_map(|(x, y)| x.iter().zip(y));
        let (agreement, histogram) = Agreement::with_histogram(elements);
        let relative = |difference: f64| match difference {
            0.0 => 0.0,
            difference => difference / agreement.scale,
        };
        ArrayReport {
            name,
            agreement,
            histogram,
            at_positions: pairs()
                .map(|(x, y)| relative(largest_difference(x, y)))
                .collect(),
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

/// The positions that are not padding.
fn compared_positions(reference: &Reference) -> Vec<Position> {
    let length = reference.length;
    let mut found = Vec::new();
    for row in 0..reference.batch {
        let range = row * length..(row + 1) * length;
        let ids = reference.input_ids[range.clone()].iter();
        let tokens = ids
            .zip(&reference.attention_mask[range])
            .filter(|&(_, &mask)| mask != 0);
        found.extend(tokens.enumerate().map(|(index, (&token_id, _))| Position {
            row,
            index,
            token_id,
            text: None,
        }));
    }
    found
}

fn compare_logits(
    reference: &Reference,
    vocab: usize,
    theirs: &[f32],
    ours: &[f32],
    tolerance: Tolerance,
) -> LogitsReport {
    let pairs = || positions(reference, vocab, ours, theirs);
    let kl: Vec<f64> = pairs().map(|(x, y)| kl_divergence(y, x)).collect();
    let same: Vec<bool> = pairs().map(|(x, y)| top1(x) == top1(y)).collect();
    let kl_max = kl.iter().copied().fold(0.0, f64::max);
    LogitsReport {
        kl_max,
        kl_mean: kl.iter().sum::<f64>() / kl.len().max(1) as f64,
        positions: kl.len(),
        top1_agreements: same.iter().filter(|&&same| same).count(),
        kl_at_positions: kl,
        top1_at_positions: same,
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
                texts: None,
                margin,
                relative_margin,
                within: relative_margin <= tolerance.near_tie(),
            }
        })
        .collect())
}
