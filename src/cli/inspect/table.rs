//! The report as a table.

use std::fmt::Write;

use super::{MeshSplit, Report};
use crate::model::SplitDimension;

/// Keys of the configuration that a reader looks for first.
const KEYS: [&str; 14] = [
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "hidden_act",
    "hidden_activation",
    "tie_word_embeddings",
];

/// Lines for people.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = lines(report, &mut out);
    out
}

fn lines(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", report.path.display())?;
    writeln!(
        out,
        "format      {}, {} names",
        report.format, report.naming
    )?;
    for file in &report.files {
        let size = file.bytes.map_or_else(|| "?".to_owned(), grouped);
        writeln!(out, "file        {}, {size} bytes", file.name)?;
    }
    for (dtype, totals) in &report.dtypes {
        writeln!(
            out,
            "dtype       {dtype}: {} tensors, {} parameters, {} bytes",
            totals.tensors,
            grouped(totals.parameters),
            grouped(totals.bytes)
        )?;
    }
    writeln!(
        out,
        "total       {} tensors, {} parameters, {} bytes",
        report.total.tensors,
        grouped(report.total.parameters),
        grouped(report.total.bytes)
    )?;
    tokenizer(report, out)?;
    config(report, out)?;
    tensors(report, out)?;
    fit(report, out)?;
    match &report.split {
        Some(split) => mesh(split, out),
        None => Ok(()),
    }
}

fn mesh(split: &MeshSplit, out: &mut String) -> std::fmt::Result {
    let distribution = &split.distribution;
    let rows: Vec<[String; 4]> = distribution
        .parameters
        .iter()
        .map(|parameter| {
            let how = match parameter.split {
                None if split.devices == 1 => "whole".to_owned(),
                None => "whole on each".to_owned(),
                Some(SplitDimension { dimension, over }) => {
                    let copies = match parameter.copies {
                        1 => String::new(),
                        copies => format!(", each part on {copies}"),
                    };
                    format!("dimension {dimension} ({over}){copies}")
                }
            };
            let bytes = grouped(parameter.bytes_per_device);
            [
                parameter.name.clone(),
                how,
                format!("{:?}", parameter.share),
                bytes,
            ]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (name, how, share, bytes) = (width(0), width(1), width(2), width(3));
    writeln!(out, "\nmesh {}: {} devices", split.mesh, split.devices)?;
    for [n, h, s, b] in &rows {
        writeln!(
            out,
            "  {n:<name$}  {h:<how$}  {s:<share$}  {b:>bytes$} bytes"
        )?;
    }
    writeln!(
        out,
        "{} bytes on each device; {} on the devices of a group, {:.2} % more than the model's {}",
        grouped(distribution.bytes_per_device),
        grouped(distribution.bytes_per_group),
        distribution.excess * 100.0,
        grouped(distribution.model_bytes)
    )?;
    for replicated in &distribution.replicated {
        let why = match replicated.copies {
            1 => "padding".to_owned(),
            copies => format!("on {copies} devices each"),
        };
        let bytes = grouped(replicated.excess_bytes);
        writeln!(out, "  {}: {bytes} bytes more, {why}", replicated.name)?;
    }
    Ok(())
}

fn tokenizer(report: &Report, out: &mut String) -> std::fmt::Result {
    let tokenizer = &report.tokenizer;
    match (
        tokenizer.file,
        tokenizer.vocabulary_size,
        &tokenizer.problem,
    ) {
        (None, ..) => writeln!(out, "tokenizer   none"),
        (Some(file), Some(size), _) => {
            writeln!(out, "tokenizer   {file}, {} pieces", grouped(size as u64))
        }
        (Some(file), None, Some(problem)) => {
            writeln!(out, "tokenizer   {file}, unusable: {problem}")
        }
        (Some(file), None, None) => writeln!(out, "tokenizer   {file}"),
    }
}

fn config(report: &Report, out: &mut String) -> std::fmt::Result {
    if let Some(problem) = &report.config.problem {
        writeln!(out, "config      {problem}")?;
    }
    let Some(values) = &report.config.values else {
        return Ok(());
    };
    for key in KEYS {
        if let Some(value) = values.get(key) {
            writeln!(out, "config      {key} {value}")?;
        }
    }
    Ok(())
}

fn tensors(report: &Report, out: &mut String) -> std::fmt::Result {
    let rows = &report.tensors;
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let shapes: Vec<String> = rows.iter().map(|row| format!("{:?}", row.shape)).collect();
    let shape = shapes.iter().map(String::len).max().unwrap_or(0);
    writeln!(out)?;
    for (row, text) in rows.iter().zip(&shapes) {
        write!(
            out,
            "{:name$}  {text:shape$}  {:8}  {:>14}",
            row.name,
            row.dtype,
            grouped(row.bytes)
        )?;
        if row.stored_name != row.name {
            write!(out, "  from {} {:?}", row.stored_name, row.stored_shape)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn fit(report: &Report, out: &mut String) -> std::fmt::Result {
    let Some(fit) = &report.fit else {
        return writeln!(out, "\nnot compared: there is no usable configuration");
    };
    if fit.fits {
        return writeln!(
            out,
            "\nthe tensors are those that the configuration asks for"
        );
    }
    writeln!(out)?;
    for tensor in &fit.missing {
        writeln!(out, "missing     {} {:?}", tensor.name, tensor.shape)?;
    }
    for tensor in &fit.wrong_shape {
        writeln!(
            out,
            "wrong shape {} {:?}, expected {:?}",
            tensor.name, tensor.found, tensor.expected
        )?;
    }
    for tensor in &fit.left_over {
        writeln!(out, "left over   {} {:?}", tensor.name, tensor.shape)?;
    }
    Ok(())
}

/// A number with its digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
