//! The report for people.

use comfy_table::Table;

use super::cells::{align_right, figures, millions, plain, size};
use super::instructions;
use crate::cli::terminal::Page;
use crate::plan::{Bound, Bounds, Limit, Memory, PerProgram, Report, SmallestMesh};

/// Lines for people.
pub(super) fn render(report: &Report) -> Page {
    let mut out = Page::default();
    // Writing into a page does not fail.
    let _ = lines(report, &mut out);
    out
}

fn lines(report: &Report, out: &mut Page) -> std::fmt::Result {
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
    throughput(report, out)?;
    replication(report, out)?;
    if let Some(manifest) = &report.saved {
        writeln!(out)?;
        writeln!(out, "saved: {}", manifest.display())?;
    }
    instructions::write(report, out)
}

fn fit(report: &Report, out: &mut Page) -> std::fmt::Result {
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
    if let Some(mesh) = &report.smallest_mesh {
        writeln!(out, "{}", smallest(mesh, report.topology))?;
    }
    if let Some(largest) = report.largest {
        let batch = bounds(largest.batch_size);
        writeln!(out, "batches of {} tokens: {batch}", report.max_length)?;
        let length = bounds(largest.max_length);
        writeln!(out, "tokens at a batch of {}: {length}", report.batch_size)?;
    }
    writeln!(out)
}

fn smallest(mesh: &SmallestMesh, topology: &str) -> String {
    match mesh {
        SmallestMesh::Fits { mesh, devices } => format!(
            "the smallest mesh of {topology} that fits: {mesh} ({})",
            counted(*devices, "device")
        ),
        SmallestMesh::MayFit { mesh, devices } => format!(
            "the smallest mesh of {topology} that may fit: {mesh} ({}), by its parameters and \
             caches alone; the search ended before it was compiled",
            counted(*devices, "device")
        ),
        SmallestMesh::None { larger_slice: None } => {
            format!("no mesh of {topology} fits, nor of a larger slice of these chips")
        }
        SmallestMesh::None {
            larger_slice: Some((larger, mesh)),
        } => format!(
            "no mesh of {topology} fits; {larger} with {mesh} may, by its parameters and caches \
             alone"
        ),
    }
}

fn bounds(bounds: Bounds) -> String {
    let known = match (bounds.fits, bounds.too_large) {
        (Some(fits), Some(too_large)) => format!("{fits} fit, {too_large} do not"),
        (Some(fits), None) => format!("{fits} fit"),
        (None, Some(too_large)) => format!("{too_large} do not fit"),
        (None, None) => "not known".to_owned(),
    };
    match bounds.exact {
        true if bounds.fits.is_none() => format!("{known}, nor do fewer"),
        true => known,
        false => format!("{known}; the search ran out of time before it found the limit"),
    }
}

fn memory(report: &Report, out: &mut Page) -> std::fmt::Result {
    let mut table = figures(["on each device", "prefill", "decode"]);
    let both = |value: u64| PerProgram {
        prefill: Some(value),
        decode: Some(value),
    };
    let parameters = both(report.parameter_bytes_per_device);
    row(&mut table, "parameters", &parameters, size);
    let caches = both(report.cache_bytes_per_device);
    row(&mut table, "caches", &caches, size);
    if report.cache_bytes_saved_by_windows > 0 {
        let saved = both(report.cache_bytes_saved_by_windows);
        row(&mut table, "saved by windows", &saved, size);
    }
    for (name, part) in [
        ("arguments", (|m| m.arguments) as fn(&Memory) -> u64),
        ("results", |m| m.outputs - m.aliased.min(m.outputs)),
        ("temporaries", |m| m.temporaries),
        ("code", |m| m.code),
        ("total", |m| m.total),
    ] {
        row(&mut table, name, &report.memory.map(part), size);
        if name == "temporaries" {
            let ratio = |ratio| format!("{ratio:.2}");
            let name = "temporaries / caches";
            row(&mut table, name, &report.temporaries_per_cache, ratio);
        }
    }
    out.push_lines(&table.trim_fmt());
    for (what, copies) in [
        ("copies", &report.cache_copies),
        ("writes back", &report.cache_write_backs),
    ] {
        for copy in copies {
            writeln!(
                out,
                "each {} of {} {what} {}, {}: {} and the like ({}, {} from {} to {})",
                copy.per,
                copy.program,
                counted(copy.count as usize, "whole cache"),
                size(copy.bytes),
                copy.name,
                copy.opcode,
                copy.shape,
                copy.from,
                copy.to,
            )?;
        }
    }
    writeln!(out)
}

fn cost(report: &Report, out: &mut Page) -> std::fmt::Result {
    let mut table = figures(["estimated cost", "prefill", "decode step"]);
    let cycles = &report.estimated_cycles;
    row(&mut table, "sum of estimates, cycles", cycles, millions);
    let read = &report.bytes_accessed;
    row(&mut table, "bytes accessed", read, size);
    let bound = &report.bound;
    row(
        &mut table,
        "at the chip's bandwidth, cycles",
        &bound.map(|bound| bound.memory_cycles),
        millions,
    );
    row(
        &mut table,
        "bound (the greater), cycles",
        &bound.map(|bound| bound.cycles),
        millions,
    );
    let seconds = |bound: Bound| format!("{:.2} ms", bound.seconds * 1e3);
    row(&mut table, "bound, time", bound, seconds);
    let limit = |bound: Bound| match bound.limited_by {
        Limit::Compute => "compute".to_owned(),
        Limit::Memory => "memory".to_owned(),
    };
    row(&mut table, "limited by", bound, limit);
    let ratio = |bound: Bound| format!("{:.2}", bound.estimate_ratio);
    row(&mut table, "sum / bound", bound, ratio);
    out.push_lines(&table.trim_fmt());

    for (name, reasons) in [
        ("prefill", &report.unknown.prefill),
        ("decode step", &report.unknown.decode),
    ] {
        for reason in reasons.iter().flatten() {
            writeln!(out, "{name}: not known, since {reason}")?;
        }
    }
    for (name, collectives) in [
        ("prefill", &report.collectives.prefill),
        ("decode step", &report.collectives.decode),
    ] {
        for (kind, sum) in collectives.iter().flatten() {
            writeln!(out, "{name}: {} of {kind}, {}", sum.count, size(sum.bytes))?;
        }
    }
    if let Some(draw) = &report.draw {
        writeln!(
            out,
            "of a decode step, drawing the tokens: {} cycles, {:.1} % of the estimates, {:.3} ms; {}",
            millions(draw.cycles),
            draw.share * 100.0,
            draw.seconds * 1e3,
            size(draw.memory_bytes)
        )?;
        for instruction in &draw.unestimated {
            writeln!(
                out,
                "drawing the tokens: the compiler has no estimate for {instruction}"
            )?;
        }
    }
    if let Some(call) = &report.decode_call {
        writeln!(
            out,
            "around each call of up to {} decode steps: {} cycles, {:.2} ms",
            call.steps,
            millions(call.bound.cycles),
            call.bound.seconds * 1e3
        )?;
    }
    let roofline = &report.roofline;
    write!(
        out,
        "roofline of a decode step: {} at {:.0} GB/s, {} cycles",
        size(roofline.bytes),
        roofline.bandwidth / 1e9,
        millions(roofline.cycles)
    )?;
    match report.roofline_ratio {
        Some(ratio) => writeln!(out, "; the bound is {ratio:.2} of it")?,
        None => writeln!(out)?,
    }
    writeln!(out)
}

fn throughput(report: &Report, out: &mut Page) -> std::fmt::Result {
    let found = &report.throughput;
    let replicas = match found.replicas {
        1 => String::new(),
        replicas => format!(" ({replicas} meshes side by side)"),
    };
    writeln!(
        out,
        "at these bounds {}{replicas} gives at most",
        report.topology
    )?;
    let mut table = figures(["", "prefill", "decode"]);
    let rates = PerProgram {
        prefill: found.prefill_tokens_per_second,
        decode: found.decode_tokens_per_second,
    };
    row(&mut table, "tokens a second", &rates, |rate| {
        format!("{rate:.0}")
    });
    let share = PerProgram {
        prefill: found.prefill_share_of_peak,
        decode: None,
    };
    row(&mut table, "share of the bf16 peak", &share, |share| {
        format!("{share:.2}")
    });
    if let Some(cost) = &found.cost {
        let costs = PerProgram {
            prefill: cost.per_million_input_tokens,
            decode: cost.per_million_output_tokens,
        };
        let name = format!(
            "cost of a million tokens, {} chips at {}",
            cost.chips, cost.price_per_chip_hour
        );
        row(&mut table, &name, &costs, |cost| format!("{cost:.3}"));
    }
    out.push_lines(&table.trim_fmt());
    writeln!(out)
}

fn replication(report: &Report, out: &mut Page) -> std::fmt::Result {
    let totals = &report.parameters;
    writeln!(
        out,
        "parameters over all devices: {}; the model has {}; {:.2} % more in each group",
        size(totals.all_devices_bytes),
        size(totals.model_bytes),
        totals.excess * 100.0
    )?;
    if totals.replicated.is_empty() {
        return Ok(());
    }
    let mut table = plain();
    for replicated in &totals.replicated {
        let why = match replicated.copies {
            1 => "padding".to_owned(),
            copies => format!("on {copies} devices each"),
        };
        let bytes = size(replicated.excess_bytes);
        table.add_row([replicated.name.clone(), bytes, why]);
    }
    align_right(&mut table, 1..2);
    out.push_lines(&table.trim_fmt());
    Ok(())
}

fn row<T: Clone>(
    table: &mut Table,
    name: &str,
    values: &PerProgram<T>,
    text: impl Fn(T) -> String,
) {
    let text = |value: Option<T>| value.map_or_else(|| "-".to_owned(), &text);
    table.add_row([
        name.to_owned(),
        text(values.prefill.clone()),
        text(values.decode.clone()),
    ]);
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
