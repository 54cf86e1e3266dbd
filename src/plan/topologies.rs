//! The slices that can be planned for.

use super::chips::{CHIPS, Chip};
use super::error::{Error, Result};

/// A slice: chips of one generation in a rectangle or a box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TpuSlice {
    /// Its name, in libtpu's own form: `v5e:2x2`.
    pub name: &'static str,
    /// Its chips.
    pub chip: &'static Chip,
    /// How many there are.
    pub chips: usize,
}

/// Slices of each generation, in the order of [`CHIPS`]: those that Google Cloud's pages list up to
/// 256 chips, and a single chip also of the generations of which no single chip is offered. libtpu
/// 0.0.52 accepts all of them.
const SLICES: [&[&str]; 4] = [
    &[
        "v4:1x1x1", "v4:2x2x1", "v4:2x2x2", "v4:2x2x4", "v4:2x4x4", "v4:4x4x4", "v4:4x4x8",
        "v4:4x8x8",
    ],
    &[
        "v5e:1x1",
        "v5e:2x2",
        "v5e:2x4",
        "v5e:4x4",
        "v5e:4x8",
        "v5e:8x8",
        "v5e:8x16",
        "v5e:16x16",
    ],
    &[
        "v5p:1x1x1",
        "v5p:2x2x1",
        "v5p:2x2x2",
        "v5p:2x2x4",
        "v5p:2x4x4",
        "v5p:4x4x4",
        "v5p:4x4x8",
        "v5p:4x8x8",
    ],
    &[
        "v6e:1x1",
        "v6e:2x2",
        "v6e:2x4",
        "v6e:4x4",
        "v6e:4x8",
        "v6e:8x8",
        "v6e:8x16",
        "v6e:16x16",
    ],
];

impl TpuSlice {
    /// All known slices, from the oldest generation and the smallest slice on.
    pub fn all() -> impl Iterator<Item = Self> {
        CHIPS.iter().zip(SLICES).flat_map(|(chip, names)| {
            names.iter().map(move |&name| Self {
                name,
                chip,
                chips: extents(name).product(),
            })
        })
    }

    /// Google Cloud's accelerator type of it: `v5litepod-8`, or `v5p-16`, where the number is that
    /// of cores.
    pub fn accelerator_type(&self) -> String {
        let cores = self.chips * self.chip.cores as usize;
        format!("{}-{cores}", self.chip.accelerator)
    }

    /// The slice of that name, which is libtpu's or Google Cloud's.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub fn named(name: &str) -> Result<Self> {
        Self::all()
            .find(|slice| slice.name == name || slice.accelerator_type() == name)
            .ok_or_else(|| Error::UnknownTopology {
                name: name.chars().take(64).collect(),
                known: Self::all()
                    .map(|slice| slice.name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

/// The chips along each side.
fn extents(name: &str) -> impl Iterator<Item = usize> {
    name.split([':', 'x'])
        .skip(1)
        .filter_map(|side| side.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_go_from_one_chip_to_256_in_every_generation() {
        for chip in &CHIPS {
            let sizes: Vec<_> = TpuSlice::all()
                .filter(|slice| slice.chip == chip)
                .map(|slice| slice.chips)
                .collect();
            assert_eq!(sizes.first(), Some(&1), "{}", chip.name);
            assert_eq!(sizes.last(), Some(&256), "{}", chip.name);
            assert!(sizes.is_sorted());
        }
        for slice in TpuSlice::all() {
            assert!(slice.name.starts_with(&format!("{}:", slice.chip.name)));
        }
    }

    #[test]
    fn accelerator_types_name_slices_too() {
        for (accelerator_type, name) in [
            ("v5litepod-1", "v5e:1x1"),
            ("v5litepod-8", "v5e:2x4"),
            ("v6e-4", "v6e:2x2"),
            ("v5p-8", "v5p:2x2x1"),
            ("v4-16", "v4:2x2x2"),
        ] {
            assert_eq!(TpuSlice::named(accelerator_type).unwrap().name, name);
        }
        let mut types: Vec<_> = TpuSlice::all().map(|s| s.accelerator_type()).collect();
        types.dedup();
        assert_eq!(types.len(), TpuSlice::all().count());
    }

    #[test]
    fn an_unknown_slice_is_answered_with_the_known_ones() {
        assert_eq!(TpuSlice::named("v5e:2x4").map(|s| s.chips).ok(), Some(8));
        let error = TpuSlice::named("v5e:3x3")
            .expect_err("not known")
            .to_string();
        for part in ["v5e:3x3", "v5e:2x2", "v4:2x2x4", "v6e:16x16"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(error.lines().count(), 1);
    }
}
