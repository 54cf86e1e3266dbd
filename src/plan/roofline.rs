//! The least that a decode step can cost: reading what it needs from the chip's memory, once.

use super::chips::Chip;
use super::report::Roofline;
use crate::engine::BatchPrograms;
use crate::model::ModelSpec;

impl Roofline {
    /// That of a decode step of `programs` on each device.
    pub(super) fn of(spec: &ModelSpec, programs: &BatchPrograms, chip: &Chip) -> Self {
        let parameters: usize = spec
            .parameters
            .iter()
            .map(|parameter| {
                if parameter.is_embedding() && !spec.config.tie_word_embeddings {
                    programs.decode.rows * spec.config.hidden_size * parameter.dtype.size()
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
