//! The costliest instructions, and sums by scope.

use comfy_table::Table;

use super::cells::{align_right, figures, millions, plain, size};
use crate::cli::terminal::Page;
use crate::plan::{Executed, Report, ScopeCost};

/// Writes both for the prefill and for a decode step, where they were asked for.
pub(super) fn write(report: &Report, out: &mut Page) -> std::fmt::Result {
    let (Some(instructions), Some(scopes)) = (&report.instructions, &report.scopes) else {
        return Ok(());
    };
    for (name, instructions, scopes) in [
        ("prefill", &instructions.prefill, &scopes.prefill),
        ("decode step", &instructions.decode, &scopes.decode),
    ] {
        let (Some(instructions), Some(scopes)) = (instructions, scopes) else {
            continue;
        };
        writeln!(out)?;
        writeln!(out, "costliest instructions of the {name}")?;
        out.push_lines(&instruction_table(instructions).trim_fmt());
        writeln!(out)?;
        writeln!(out, "the {name} by scope")?;
        out.push_lines(&scope_table(scopes).trim_fmt());
    }
    Ok(())
}

fn instruction_table(instructions: &[Executed]) -> Table {
    let mut table = plain();
    table.set_header(["cycles", "times", "bytes", "source", "instruction"]);
    for executed in instructions {
        let kind = executed
            .fusion_kind
            .as_ref()
            .map(|kind| format!(" {kind}"))
            .unwrap_or_default();
        let cycles = match executed.cycles {
            Some(cycles) => cycles.to_string(),
            None if executed.unestimated => "not known".to_owned(),
            None => "-".to_owned(),
        };
        table.add_row([
            cycles,
            executed.times.to_string(),
            executed.memory_bytes.to_string(),
            executed.source.clone(),
            format!(
                "{} {}{kind} {}",
                executed.name, executed.opcode, executed.shape
            ),
        ]);
    }
    align_right(&mut table, 0..3);
    table
}

fn scope_table(scopes: &[ScopeCost]) -> Table {
    let all: u64 = scopes.iter().map(|sum| sum.cycles).sum();
    let mut table = figures(["scope", "cycles", "share", "bytes", "instructions"]);
    for sum in scopes {
        table.add_row([
            sum.scope.clone().unwrap_or_else(|| "(none)".to_owned()),
            millions(sum.cycles),
            format!("{:.1} %", sum.cycles as f64 / all.max(1) as f64 * 100.0),
            size(sum.memory_bytes),
            sum.instructions.to_string(),
        ]);
    }
    table
}
