//! The report as a table.

use std::fmt::Write;

use crate::plan::{Bounds, Executed, Memory, PerProgram, Report};

/// Lines for people.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing into a string does not fail.
    let _ = lines(report, &mut out);
    out
}

fn lines(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{} in {}, batch of {}, up to {} tokens (prompts of {}, caches of {})",
        report.model,
        report.dtype,
        report.batch_size,
        report.max_length,
        report.prompt_tokens,
        report.cache_length
    )?;
    writeln!(
        out,
        "{}: {} devices on {}; mesh {} uses {}",
        report.topology,
        report.topology_devices,
        counted(report.topology_hosts, "host"),
        report.mesh,
        report.devices
    )?;
    writeln!(out, "compiled by {}", report.compiler)?;
    writeln!(out)?;
    fit(report, out)?;
    memory(report, out)?;
    cost(report, out)?;
    replication(report, out)?;
    if let Some(manifest) = &report.saved {
        writeln!(out, "\nsaved: {}", manifest.display())?;
    }
    if let Some(instructions) = &report.instructions {
        instruction_table("prefill", instructions.prefill.as_deref(), out)?;
        instruction_table("decode step", instructions.decode.as_deref(), out)?;
    }
    Ok(())
}

fn fit(report: &Report, out: &mut String) -> std::fmt::Result {
    let of = report
        .memory_limit
        .map(|limit| format!(" of {}", size(limit)))
        .unwrap_or_default();
    let bytes = report.bytes_per_device.map_or_else(|| "?".into(), size);
    let verdict = if report.fits { "fits" } else { "does not fit" };
    writeln!(out, "{verdict}: {bytes}{of} on each device")?;
    for why in &report.too_large {
        writeln!(out, "  {}", why.message)?;
    }
    if let Some(largest) = report.largest {
        let batch = bounds(largest.batch_size);
        writeln!(out, "batches of {} tokens: {batch}", report.max_length)?;
        let length = bounds(largest.max_length);
        writeln!(out, "tokens at a batch of {}: {length}", report.batch_size)?;
    }
    writeln!(out)
}

fn memory(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{:<26}{:>14}{:>14}",
        "on each device", "prefill", "decode"
    )?;
    let both = |value: u64| PerProgram {
        prefill: Some(value),
        decode: Some(value),
    };
    row(
        out,
        "parameters",
        both(report.parameter_bytes_per_device),
        size,
    )?;
    row(out, "caches", both(report.cache_bytes_per_device), size)?;
    for (name, part) in [
        ("arguments", (|m| m.arguments) as fn(&Memory) -> u64),
        ("results", |m| m.outputs - m.aliased.min(m.outputs)),
        ("temporaries", |m| m.temporaries),
        ("code", |m| m.code),
        ("total", |m| m.total),
    ] {
        let values = PerProgram {
            prefill: report.memory.prefill.as_ref().map(part),
            decode: report.memory.decode.as_ref().map(part),
        };
        row(out, name, values, size)?;
    }
    writeln!(out)
}

fn cost(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{:<26}{:>14}{:>14}",
        "estimated cost", "prefill", "decode step"
    )?;
    row(out, "cycles", report.estimated_cycles.clone(), |n| {
        format!("{:.2} M", n as f64 / 1e6)
    })?;
    row(
        out,
        "at the chip's clock",
        report.estimated_seconds.clone(),
        |s| format!("{:.2} ms", s * 1e3),
    )?;
    row(out, "bytes accessed", report.bytes_accessed.clone(), size)?;
    for (name, collectives) in [
        ("prefill", &report.collectives.prefill),
        ("decode step", &report.collectives.decode),
    ] {
        for (kind, sum) in collectives.iter().flatten() {
            writeln!(out, "{name}: {} of {kind}, {}", sum.count, size(sum.bytes))?;
        }
    }
    let roofline = &report.roofline;
    write!(
        out,
        "roofline of a decode step: {} at {:.0} GB/s, {:.2} M cycles",
        size(roofline.bytes),
        roofline.bandwidth / 1e9,
        roofline.cycles as f64 / 1e6
    )?;
    match report.roofline_ratio {
        Some(ratio) => writeln!(out, "; the estimate is {ratio:.2} of it")?,
        None => writeln!(out)?,
    }
    writeln!(out)
}

fn replication(report: &Report, out: &mut String) -> std::fmt::Result {
    let totals = &report.parameters;
    writeln!(
        out,
        "parameters over all devices: {}; the model has {}; {:.2} % more in each group",
        size(totals.all_devices_bytes),
        size(totals.model_bytes),
        totals.excess * 100.0
    )?;
    for replicated in &totals.replicated {
        let why = match replicated.copies {
            1 => "padding".to_owned(),
            copies => format!("on {copies} devices each"),
        };
        writeln!(
            out,
            "  {:<44}{:>14}  {why}",
            replicated.name,
            size(replicated.excess_bytes)
        )?;
    }
    Ok(())
}

fn instruction_table(
    name: &str,
    instructions: Option<&[Executed]>,
    out: &mut String,
) -> std::fmt::Result {
    let Some(instructions) = instructions else {
        return Ok(());
    };
    writeln!(out)?;
    writeln!(out, "costliest instructions of the {name}")?;
    writeln!(
        out,
        "{:>12}{:>7}{:>14}  instruction",
        "cycles", "times", "bytes"
    )?;
    for executed in instructions {
        let kind = executed
            .fusion_kind
            .as_ref()
            .map(|kind| format!(" {kind}"))
            .unwrap_or_default();
        let cycles = executed
            .cycles
            .map_or_else(|| "-".to_owned(), |cycles| cycles.to_string());
        writeln!(
            out,
            "{cycles:>12}{:>7}{:>14}  {} {}{kind} {} {}",
            executed.times,
            executed.memory_bytes,
            executed.name,
            executed.opcode,
            executed.shape,
            executed.source
        )?;
    }
    Ok(())
}

fn bounds(bounds: Bounds) -> String {
    let fits = bounds
        .fits
        .map_or_else(|| "none seen to fit".into(), |n| format!("{n} fit"));
    match bounds.too_large {
        Some(n) => format!("{fits}, {n} do not"),
        None => fits,
    }
}

fn row<T>(
    out: &mut String,
    name: &str,
    values: PerProgram<T>,
    text: impl Fn(T) -> String,
) -> std::fmt::Result {
    let text = |value: Option<T>| value.map_or_else(|| "-".to_owned(), &text);
    writeln!(
        out,
        "{name:<26}{:>14}{:>14}",
        text(values.prefill),
        text(values.decode)
    )
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Bytes in the decimal unit that suits them.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.3} GB", bytes as f64 / 1e9),
    }
}
