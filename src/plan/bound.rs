//! The least time that a program, and that any program, can take.

use serde::Serialize;

use super::chips::Chip;
use super::optimized::Costs;
use crate::engine::BatchPrograms;
use crate::model::ModelSpec;

/// The least time of a program.
///
/// The sum of the compiler's estimates leaves out the wait for what is fetched from memory during
/// the computation. So it can be less than reading the bytes takes, and a program cannot be faster
/// than either. Neither includes transfers between devices that overlap the computation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The sum of the compiler's estimates, in cycles.
    pub compute_cycles: u64,
    /// Cycles in which the chip's memory reads and writes the bytes.
    pub memory_cycles: u64,
    /// The greater of the two.
    pub cycles: u64,
    /// The same at the chip's clock, in seconds.
    pub seconds: f64,
    /// Which of them it is.
    pub limited_by: Limit,
    /// The sum of the estimates over the bound: 1, or less where memory is the limit.
    pub estimate_ratio: f64,
}

/// What a program's time is bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The compiler's estimates.
    Compute,
    /// The bandwidth of the chip's memory.
    Memory,
}

/// What a call of the decode program costs apart from its steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CallBound {
    /// The most steps that one call runs.
    pub steps: usize,
    /// The least time of the rest of the call.
    pub bound: Bound,
}

/// The least that a decode step can take on a chip: the time in which its memory gives what has to
/// be read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Bytes that have to be read: the device's parameters (of an embedding that is not the head as
    /// well only the rows' own) and the caches when they are full.
    pub bytes: u64,
    /// The chip's memory bandwidth, bytes a second.
    pub bandwidth: f64,
    /// The chip's clock, cycles a second.
    pub clock: f64,
    /// Cycles in which the bytes are read.
    pub cycles: u64,
}

impl Bound {
    /// The bound of these costs, which read `least_bytes` at least. None where the sum of cycles is
    /// not known.
    pub(super) fn of(costs: &Costs, least_bytes: u64, chip: &Chip) -> Option<Self> {
        let compute_cycles = costs.cycles()?;
        // What is fetched ahead in slices may be counted a little short.
        let bytes = costs.memory_bytes()?.max(least_bytes);
        Some(Self::new(compute_cycles, chip.cycles_to_read(bytes), chip))
    }

    fn new(compute_cycles: u64, memory_cycles: u64, chip: &Chip) -> Self {
        let cycles = compute_cycles.max(memory_cycles);
        Self {
            compute_cycles,
            memory_cycles,
            cycles,
            seconds: chip.seconds(cycles),
            limited_by: if compute_cycles < memory_cycles {
                Limit::Memory
            } else {
                Limit::Compute
            },
            estimate_ratio: compute_cycles as f64 / cycles.max(1) as f64,
        }
    }
}

impl Roofline {
    /// That of a decode step of `programs` on each device.
    pub(super) fn of(spec: &ModelSpec, programs: &BatchPrograms, chip: &Chip) -> Self {
        let parameters: usize = spec
            .parameters
            .iter()
            .map(|parameter| {
                if parameter.is_looked_up(spec.config.tie_word_embeddings()) {
                    programs.decode.rows * parameter.row_bytes()
                } else {
                    parameter.byte_size(spec.mesh)
                }
            })
            .sum();
        let bytes = parameters as u64 + cache_bytes(spec, programs);
        Self {
            bytes,
            bandwidth: chip.bandwidth,
            clock: chip.clock,
            cycles: chip.cycles_to_read(bytes),
        }
    }
}

/// Bytes of a device's keys and values.
pub(super) fn cache_bytes(spec: &ModelSpec, programs: &BatchPrograms) -> u64 {
    let decode = &programs.decode;
    spec.cache_bytes(decode.rows, decode.cache) as u64
}

/// Bytes that windows save of a device's keys and values.
pub(super) fn cache_bytes_saved(spec: &ModelSpec, programs: &BatchPrograms) -> u64 {
    let decode = &programs.decode;
    let whole = spec.cache_bytes_without_windows(decode.rows, decode.cache) as u64;
    whole - cache_bytes(spec, programs)
}

/// Bytes of a device's parameters and caches: what every program that runs steps has to hold.
pub(super) fn least_bytes(spec: &ModelSpec, programs: &BatchPrograms) -> u64 {
    spec.parameter_bytes() as u64 + cache_bytes(spec, programs)
}

#[cfg(test)]
mod tests {
    use super::super::chips::CHIPS;
    use super::super::optimized::Executed;
    use super::*;

    #[test]
    fn the_bound_is_the_greater_of_estimate_and_memory() {
        let chip = &CHIPS[1];
        let costs = |cycles, memory_bytes| Costs {
            executed: vec![Executed {
                cycles: Some(cycles),
                memory_bytes,
                times: 2,
                ..Executed::default()
            }],
            ..Costs::default()
        };
        // 819 bytes take 1.5 cycles.
        let bound = Bound::of(&costs(1000, 819_000), 0, chip).expect("known");
        assert_eq!((bound.compute_cycles, bound.memory_cycles), (2000, 3000));
        assert_eq!((bound.cycles, bound.limited_by), (3000, Limit::Memory));
        assert!((bound.seconds - 2e-6).abs() < 1e-12);
        assert!((bound.estimate_ratio - 2.0 / 3.0).abs() < 1e-9);

        let bound = Bound::of(&costs(2000, 819_000), 0, chip).expect("known");
        assert_eq!((bound.cycles, bound.limited_by), (4000, Limit::Compute));
        let bound = Bound::of(&costs(1000, 0), 819_000 * 3, chip).expect("known");
        assert_eq!(bound.cycles, 4500);
    }

    #[test]
    fn what_is_not_known_has_no_bound() {
        let unestimated = Costs {
            executed: vec![Executed {
                unestimated: true,
                times: 1,
                ..Executed::default()
            }],
            ..Costs::default()
        };
        assert_eq!(Bound::of(&unestimated, 0, &CHIPS[0]), None);
        let unknown_trips = Costs {
            unknown_trips: vec!["while.7".into()],
            ..Costs::default()
        };
        assert_eq!(Bound::of(&unknown_trips, 0, &CHIPS[0]), None);
        assert!(unknown_trips.unknown()[0].contains("while.7"));
        let too_many = Costs {
            executed: vec![Executed {
                cycles: Some(1 << 40),
                times: 1 << 40,
                ..Executed::default()
            }],
            ..Costs::default()
        };
        assert_eq!(too_many.cycles(), None);
        assert!(!too_many.unknown().is_empty());
    }
}
