//! Tables without lines, and the units of their figures.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

/// A table of a name and figures.
pub(super) fn figures<const N: usize>(header: [&str; N]) -> Table {
    let mut table = plain();
    table.set_header(header);
    align_right(&mut table, 1..N);
    table
}

/// A table without lines.
pub(super) fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

/// Aligns columns as numbers are, and the first column with the text around the table.
pub(super) fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Cycles in millions.
pub(super) fn millions(cycles: u64) -> String {
    format!("{:.2} M", cycles as f64 / 1e6)
}

/// Bytes in the decimal unit that suits them.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.3} GB", bytes as f64 / 1e9),
    }
}
