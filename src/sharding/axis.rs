//! The axes of a parameter, and the share of each that a device of a mesh holds.

use std::ops::Range;

use super::Mesh;

/// An axis of a parameter: what it runs over, and how it is split over a mesh's model axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// What it runs over, for reports.
    pub over: &'static str,
    /// The key of config.json that says how many units it has, for errors.
    pub key: &'static str,
    /// How many units it has: heads, rows, columns.
    pub units: usize,
    /// Elements of a unit: `head_dim` where the units are heads, else 1.
    pub unit: usize,
    /// How the units are split.
    pub split: Split,
}

/// How the units of an axis are split over the model axis of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Every device has all of them.
    Whole,
    /// Equal parts; the number of devices has to divide that of the units.
    Even,
    /// Equal parts, or one unit each that several devices share.
    Shared,
    /// Equal parts, the last padded with zeros.
    Padded,
}

/// The part of an axis that one device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AxisShare {
    /// The elements of the whole axis that it holds.
    pub range: Range<usize>,
    /// The size of its share, padding included: at least the range's length.
    pub size: usize,
}

/// An axis that cannot be split over a mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{mesh}: {key} ({units}) cannot be split over model={}; model can be {possible}", mesh.model)]
pub struct SplitError {
    mesh: Mesh,
    key: &'static str,
    units: usize,
    possible: String,
}

impl Axis {
    /// An axis that every device has whole.
    pub const fn whole(over: &'static str, key: &'static str, units: usize) -> Self {
        Self {
            over,
            key,
            units,
            unit: 1,
            split: Split::Whole,
        }
    }

    /// The number of elements.
    pub fn size(&self) -> usize {
        self.units * self.unit
    }

    /// Units of a device's share, padding included.
    pub fn units_on_device(&self, mesh: Mesh) -> usize {
        match self.split {
            Split::Whole => self.units,
            Split::Even => self.units / mesh.model,
            Split::Shared => (self.units / mesh.model).max(1),
            Split::Padded => self.units.div_ceil(mesh.model),
        }
    }

    /// Elements of a device's share, padding included.
    pub fn size_on_device(&self, mesh: Mesh) -> usize {
        self.units_on_device(mesh) * self.unit
    }

    /// What the device at `index` on the model axis holds.
    pub fn share(&self, mesh: Mesh, index: usize) -> AxisShare {
        let size = self.units_on_device(mesh);
        let first = match self.split {
            Split::Whole => 0,
            // Devices that share a head stand beside each other, as their query heads do.
            Split::Shared => index * self.units / mesh.model,
            Split::Even | Split::Padded => index * size,
        };
        let units = first.min(self.units)..(first + size).min(self.units);
        AxisShare {
            range: units.start * self.unit..units.end * self.unit,
            size: size * self.unit,
        }
    }

    /// How many devices of a group hold the same part.
    pub fn copies(&self, mesh: Mesh) -> usize {
        match self.split {
            Split::Whole => mesh.model,
            Split::Shared => (mesh.model / self.units).max(1),
            Split::Even | Split::Padded => 1,
        }
    }

    fn fits(&self, model: usize) -> bool {
        match self.split {
            Split::Whole | Split::Padded => true,
            Split::Even => self.units.is_multiple_of(model),
            Split::Shared => self.units.is_multiple_of(model) || model.is_multiple_of(self.units),
        }
    }
}

/// Checks that each of `axes` can be split over a mesh.
///
/// # Errors
/// The first that cannot, with the sizes of the model axis that would do for all of them.
pub fn check_split<'a>(
    mesh: Mesh,
    axes: impl Iterator<Item = &'a Axis> + Clone,
) -> Result<(), SplitError> {
    let Some(axis) = axes.clone().find(|axis| !axis.fits(mesh.model)) else {
        return Ok(());
    };
    let even = axes.clone().filter(|axis| axis.split == Split::Even);
    let most = even.map(|axis| axis.units).min().unwrap_or(axis.units);
    // Layers repeat the same few axes.
    let distinct: std::collections::HashSet<&Axis> = axes.collect();
    let possible: Vec<String> = (1..=most)
        .filter(|&model| distinct.iter().all(|axis| axis.fits(model)))
        .map(|model| model.to_string())
        .collect();
    Err(SplitError {
        mesh,
        key: axis.key,
        units: axis.units,
        possible: possible.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(units: usize, unit: usize, split: Split) -> Axis {
        Axis {
            over: "units",
            key: "num_units",
            units,
            unit,
            split,
        }
    }

    fn mesh(model: usize) -> Mesh {
        Mesh { data: 1, model }
    }

    fn heads(heads: usize, key_value_heads: usize) -> [Axis; 2] {
        [
            Axis {
                key: "num_attention_heads",
                ..axis(heads, 4, Split::Even)
            },
            Axis {
                key: "num_key_value_heads",
                ..axis(key_value_heads, 4, Split::Shared)
            },
        ]
    }

    #[test]
    fn every_element_is_held_and_only_shared_heads_twice() {
        for (count, kv, model) in [(8, 8, 4), (8, 2, 4), (8, 1, 8), (8, 4, 2), (12, 2, 6)] {
            let axes = heads(count, kv);
            check_split(mesh(model), axes.iter()).expect("it divides");
            let padded = [axis(30, 1, Split::Padded), axis(101, 1, Split::Padded)];
            for axis in axes.into_iter().chain(padded) {
                let mut held = vec![0; axis.size()];
                for index in 0..model {
                    let share = axis.share(mesh(model), index);
                    assert!(share.range.len() <= share.size, "{axis:?}");
                    assert_eq!(share.size, axis.size_on_device(mesh(model)));
                    held[share.range].iter_mut().for_each(|n| *n += 1);
                }
                let times = match axis.split {
                    Split::Shared => (model / kv).max(1),
                    _ => 1,
                };
                assert_eq!(held, vec![times; axis.size()], "{axis:?} over {model}");
                assert_eq!(axis.copies(mesh(model)), times);
            }
        }
    }

    #[test]
    fn a_device_holds_the_key_value_heads_of_its_query_heads() {
        for (count, kv, model) in [(8, 2, 4), (8, 1, 8), (8, 4, 2), (8, 4, 8), (8, 8, 8)] {
            let [queries, keys] = heads(count, kv);
            let group = queries.units_on_device(mesh(model)) / keys.units_on_device(mesh(model));
            for index in 0..model {
                let asking = queries.share(mesh(model), index).range;
                let held = keys.share(mesh(model), index).range;
                for (local, head) in (asking.start / 4..asking.end / 4).enumerate() {
                    assert_eq!(held.start / 4 + local / group, head / (count / kv));
                }
            }
        }
    }

    #[test]
    fn sizes_that_would_do_are_named() {
        let error = |count, kv, model| {
            let axes = heads(count, kv);
            let error = check_split(mesh(model), axes.iter());
            error.expect_err("it does not divide").to_string()
        };
        let found = error(8, 1, 3);
        assert!(found.contains("num_attention_heads (8)"), "{found}");
        assert!(found.ends_with("1, 2, 4, 8"), "{found}");
        let found = error(12, 4, 6);
        assert!(found.contains("num_key_value_heads (4)"), "{found}");
    }
}
