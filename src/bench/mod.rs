//! Measures how fast a loaded model runs, and how far that is from what the machine's memory
//! allows.
//!
//! A decode step of a small batch reads every weight once and computes little, so the time it
//! should take is that of reading them. [`bandwidth`] measures how fast this machine reads,
//! [`work`] counts what a step has to read and a prompt has to compute, and [`measure`] sets the
//! times of real runs against both.

pub mod bandwidth;
mod growth;
mod jobs;
mod memory;
mod run;
pub mod work;

pub use growth::{Growth, GrowthOptions, GrowthPoint, StepsOfARun, growth};
pub use jobs::{JobsOptions, JobsReport, measure_jobs};
pub use memory::peak_resident_bytes;
pub use run::{BenchOptions, Runs, measure, measure_in_turns, random_prompts, warm_up};

/// The middle of `values`; of an even number of them, the upper of the two in the middle. `None`
/// where there are none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(3.0));
    }
}
