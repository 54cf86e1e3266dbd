//! The report as a table.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use super::{MeshSplit, Report};
use crate::cli::terminal::{Page, escaped_line};
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

/// The columns of the terminal that standard output is, if it is one.
pub(super) fn terminal_width() -> Option<u16> {
    let (_, width) = console::Term::stdout().size_checked()?;
    Some(width)
}

/// The report for a reader, in tables that are no wider than `width`.
pub(super) fn render(report: &Report, width: Option<u16>) -> Result<Page, std::fmt::Error> {
    let mut out = Page::default();
    lines(report, width, &mut out)?;
    Ok(out)
}

/// A table without lines. Column 0 is indented; where the table is wider than `width`, names wrap
/// at their slashes, and no other column does. `right` is the column with numbers.
fn table(rows: Vec<Vec<String>>, indent: u16, right: usize, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Before they are measured: a name may contain a line end.
    let cells = |row: Vec<String>| row.into_iter().map(|cell| escaped_line(&cell).into_owned());
    table.add_rows(rows.into_iter().map(cells));
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding(if index == 0 { (indent, 2) } else { (0, 2) });
        if index == 0 || index > right {
            column.set_delimiter('/');
        } else {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        if index == right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn lines(report: &Report, width: Option<u16>, out: &mut Page) -> std::fmt::Result {
    writeln!(out, "{}", report.path)?;
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
    tensors(report, width, out)?;
    fit(report, out)?;
    caches(report, out)?;
    match &report.split {
        Some(split) => mesh(split, width, out),
        None => Ok(()),
    }
}

fn mesh(split: &MeshSplit, width: Option<u16>, out: &mut Page) -> std::fmt::Result {
    let distribution = &split.distribution;
    let rows: Vec<Vec<String>> = distribution
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
            let bytes = format!("{} bytes", grouped(parameter.bytes_per_device));
            vec![
                parameter.name.clone(),
                how,
                format!("{:?}", parameter.share),
                bytes,
            ]
        })
        .collect();
    writeln!(out)?;
    writeln!(out, "mesh {}: {} devices", split.mesh, split.devices)?;
    out.push_lines(&table(rows, 2, 3, width));
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

fn tokenizer(report: &Report, out: &mut Page) -> std::fmt::Result {
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

fn config(report: &Report, out: &mut Page) -> std::fmt::Result {
    if let Some(name) = report.config.assumed {
        writeln!(
            out,
            "config      there is none; names and shapes are those of {name}"
        )?;
    }
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

fn tensors(report: &Report, width: Option<u16>, out: &mut Page) -> std::fmt::Result {
    let rows = report.tensors.iter().map(|row| {
        let mut cells = vec![
            row.name.clone(),
            format!("{:?}", row.shape),
            row.dtype.to_owned(),
            grouped(row.bytes),
        ];
        if row.stored_name != row.name {
            cells.push(format!("from {} {:?}", row.stored_name, row.stored_shape));
        }
        cells
    });
    writeln!(out)?;
    out.push_lines(&table(rows.collect(), 0, 3, width));
    Ok(())
}

fn caches(report: &Report, out: &mut Page) -> std::fmt::Result {
    let Some(caches) = &report.caches else {
        return Ok(());
    };
    write!(
        out,
        "caches      a row of {} tokens takes {} bytes",
        grouped(caches.tokens as u64),
        grouped(caches.bytes)
    )?;
    if caches.bytes < caches.bytes_without_windows {
        let all = grouped(caches.bytes_without_windows);
        write!(out, ", {all} if layers with a window kept all tokens")?;
    }
    writeln!(out)
}

fn fit(report: &Report, out: &mut Page) -> std::fmt::Result {
    let Some(fit) = &report.fit else {
        writeln!(out)?;
        return writeln!(out, "not compared: there is no usable configuration");
    };
    writeln!(out)?;
    if fit.fits {
        writeln!(
            out,
            "the tensors are those that the configuration describes"
        )?;
    }
    for part in &fit.other_parts {
        writeln!(out, "left out    {part}, not of the text model")?;
    }
    for name in &fit.left_out {
        writeln!(out, "left out    {name}")?;
    }
    if let Some(head) = &fit.untied_head {
        writeln!(
            out,
            "not tied    {head} differs from the embedding, \
             but config.json says that the two are tied"
        )?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let row = |name: &str, bytes: u64| {
            vec![
                name.to_owned(),
                "[2048, 256]".to_owned(),
                "bfloat16".to_owned(),
                grouped(bytes),
            ]
        };
        vec![
            row("model/layers/0/self_attn/q_proj/kernel", 1_048_576),
            row("model/norm/weight", 512),
        ]
    }

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        assert_eq!(
            table(rows(), 2, 3, None),
            "  model/layers/0/self_attn/q_proj/kernel  [2048, 256]  bfloat16  1,048,576\n  \
             model/norm/weight                       [2048, 256]  bfloat16        512"
        );
        assert_eq!(table(rows(), 2, 3, Some(100)), table(rows(), 2, 3, None));
    }

    #[test]
    fn in_a_narrow_terminal_names_wrap_at_their_slashes_and_figures_do_not() {
        let narrow = table(rows(), 0, 3, Some(60));
        for line in narrow.lines() {
            assert!(line.len() <= 60, "{narrow}");
        }
        let first = narrow.lines().next().expect("a line");
        assert!(first.starts_with("model/layers/"), "{narrow}");
        assert!(
            first.ends_with("[2048, 256]  bfloat16  1,048,576"),
            "{narrow}"
        );
        let second = narrow.lines().nth(1).expect("a second line");
        assert!(!second.contains("bfloat16"), "{narrow}");
    }
}
