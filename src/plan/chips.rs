//! What is published of each generation of TPU chips.
//!
//! Memory, bandwidth and peak are those of Google Cloud's pages "TPU v4"
//! (cloud.google.com/tpu/docs/v4), "TPU v5e" (…/v5e), "TPU v5p" (…/v5p) and "TPU v6e" (…/v6e), per
//! chip, with decimal gigabytes where those pages have GB and binary ones where they have GiB. They
//! agree with the table of the JAX scaling book (jax-ml.github.io/scaling-book/tpus).
//!
//! Clocks are not published. They follow from the peak: a matrix unit of n × n cells does n²
//! multiply-adds a cycle, so peak = cores · units · n² · 2 · clock. Every core has 4 units of 128 ×
//! 128 up to v5p; for v6e the scaling book has units of 256 × 256, and the same count gives the
//! same 1.75 GHz that v5p has.

use crate::model::Xla;

/// A generation of TPU chips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chip {
    /// Its name, as topologies begin with it.
    pub name: &'static str,
    /// What Google Cloud's accelerator types begin with.
    pub accelerator: &'static str,
    /// libtpu's name of the device.
    pub kind: &'static str,
    /// Bytes of its high-bandwidth memory, as published. A program can use a little less, and the
    /// compiler knows how much.
    pub memory: u64,
    /// Bytes that the chip reads from that memory in a second, at best.
    pub bandwidth: f64,
    /// bfloat16 operations a second at most.
    pub peak: f64,
    /// Its TensorCores. Two of them work as one device, "megacore".
    pub cores: u32,
    /// Cycles a second.
    pub clock: f64,
    /// libtpu's name of the configuration that joins both cores, where that is not the default.
    pub joined_cores: Option<&'static str>,
}

const GIB: u64 = 1 << 30;
const GB: u64 = 1_000_000_000;

/// All generations that can be planned for.
pub const CHIPS: [Chip; 4] = [
    Chip {
        name: "v4",
        accelerator: "v4",
        kind: "TPU v4",
        memory: 32 * GIB,
        bandwidth: 1200e9,
        peak: 275e12,
        cores: 2,
        clock: 1.05e9,
        joined_cores: Some("megacore"),
    },
    Chip {
        name: "v5e",
        accelerator: "v5litepod",
        kind: "TPU v5 lite",
        memory: 16 * GB,
        bandwidth: 819e9,
        peak: 197e12,
        cores: 1,
        clock: 1.5e9,
        joined_cores: None,
    },
    Chip {
        name: "v5p",
        accelerator: "v5p",
        kind: "TPU v5",
        memory: 95 * GB,
        bandwidth: 2765e9,
        peak: 459e12,
        cores: 2,
        clock: 1.75e9,
        joined_cores: Some("megacore"),
    },
    Chip {
        name: "v6e",
        accelerator: "v6e",
        kind: "TPU v6 lite",
        memory: 32 * GB,
        bandwidth: 1640e9,
        peak: 918e12,
        cores: 1,
        clock: 1.75e9,
        joined_cores: None,
    },
];

impl Chip {
    /// The operations of a program for it.
    pub(super) fn ops(&self) -> Xla {
        Xla::for_device("tpu", self.kind)
    }

    /// Cycles in which the chip reads `bytes` from its memory, at best.
    pub fn cycles_to_read(&self, bytes: u64) -> u64 {
        (bytes as f64 / self.bandwidth * self.clock).round() as u64
    }

    /// Seconds that `cycles` take.
    pub fn seconds(&self, cycles: u64) -> f64 {
        cycles as f64 / self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_clock_follows_from_the_peak() {
        for chip in CHIPS {
            let side = if chip.name == "v6e" { 256.0 } else { 128.0 };
            let per_cycle = f64::from(chip.cores) * 4.0 * side * side * 2.0;
            let clock = chip.peak / per_cycle;
            assert!(
                (clock / chip.clock - 1.0).abs() < 0.01,
                "{}: {clock}",
                chip.name
            );
        }
    }

    #[test]
    fn a_second_of_reading_is_a_second_of_cycles() {
        for chip in CHIPS {
            let cycles = chip.cycles_to_read(chip.bandwidth as u64);
            assert!((chip.seconds(cycles) - 1.0).abs() < 1e-6, "{}", chip.name);
        }
    }
}
