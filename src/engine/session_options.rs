//! How large a session is, and what it then has on each device.

use super::buckets::cache_bucket;
use crate::model::ModelSpec;
use crate::sampling::SamplingOptions;

/// The shortest part of a prompt that a program is compiled for.
pub(super) const SHORTEST_CHUNK: usize = 16;

/// The size of a session, and how it chooses tokens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Rows over the whole mesh, at least 1; rounded up to a multiple of the mesh's data axis. By
    /// default 8.
    pub rows: usize,
    /// Tokens of a row at most, prompt and continuation; by default 1024, or what the model has
    /// positions for.
    pub max_length: usize,
    /// Tokens of a prompt that are run at once, at most; by default 64.
    pub prefill_chunk: usize,
    /// How tokens are chosen where an admission does not say; greedily by default. Its stop texts
    /// and number of replies are for whoever admits prompts.
    pub sampling: SamplingOptions,
    /// Whether admissions may have sampling options, scores and sets of allowed tokens of their
    /// own, which takes more programs. Not by default.
    pub own_sampling: bool,
    /// Whether a prompt gets the free row that has most of its beginning, which is then not run
    /// again. Not by default: a prompt's keys and values are then rounded as those of the reply
    /// that computed them, so that in 16 bits its tokens can depend on what came before.
    pub reuse_prefixes: bool,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            rows: 8,
            max_length: 1024,
            prefill_chunk: 64,
            sampling: SamplingOptions::default(),
            own_sampling: false,
            reuse_prefixes: false,
        }
    }
}

/// What a session has on each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub rows_on_device: usize,
    pub max_length: usize,
    pub chunk: usize,
    pub cache: usize,
}

impl SessionOptions {
    pub(super) fn size(&self, spec: &ModelSpec) -> Size {
        let max_length = self.max_length.min(spec.config.max_position_embeddings());
        let chunk = self.prefill_chunk.next_power_of_two().clamp(
            SHORTEST_CHUNK,
            max_length.next_power_of_two().max(SHORTEST_CHUNK),
        );
        Size {
            rows_on_device: spec.decode_rows(self.rows.div_ceil(spec.mesh.data)),
            max_length,
            chunk,
            cache: cache_bucket(max_length + chunk),
        }
    }
}
