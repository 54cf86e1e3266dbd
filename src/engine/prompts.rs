//! The prompts of a batch, padded on the left, and their way through the layers.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::core::{DeviceCaches, Engine};
use super::error::Result;
use super::program_key::BatchPrograms;
use crate::model::programs::{ExtendInputs, PromptInputs};

/// Prompts of a batch, padded on the left to one length.
pub(super) struct PaddedPrompts<'a> {
    prompts: &'a [Vec<u32>],
    length: usize,
    pad: i32,
}

impl<'a> PaddedPrompts<'a> {
    /// `length` is at least that of every prompt.
    pub fn new(prompts: &'a [Vec<u32>], length: usize, pad: i32) -> Self {
        Self {
            prompts,
            length,
            pad,
        }
    }

    /// Which slots of a cache hold tokens, [rows, cache]: ones for a prompt's tokens and for what
    /// follows it. Prompt i is row `row_of(i)`; a row without a prompt sees one token, so that its
    /// softmax is defined.
    pub fn key_mask(&self, rows: usize, cache: usize, row_of: impl Fn(usize) -> usize) -> Vec<i32> {
        let mut mask = vec![1; rows * cache];
        for mask in mask.chunks_exact_mut(cache) {
            mask[..self.length - 1].fill(0);
        }
        for (index, prompt) in self.prompts.iter().enumerate() {
            let start = row_of(index) * cache;
            mask[start + self.length - prompt.len()..start + self.length].fill(1);
        }
        mask
    }

    /// Runs the prompts through `programs`, in `rows` rows of all groups: the next token of each,
    /// the caches, and the time it took without compiling.
    pub fn prefill(
        &self,
        engine: &Engine,
        programs: &BatchPrograms,
        rows: usize,
    ) -> Result<(Vec<i32>, DeviceCaches, Duration)> {
        let first = engine.ready(programs.prefill)?;
        let further = match programs.extensions {
            0 => None,
            _ => Some(engine.ready(programs.extend)?),
        };
        let start = Instant::now();
        let devices = engine.devices();

        let columns = 0..programs.prefill.prompt;
        let dims = [programs.prefill.batch as i64, columns.len() as i64];
        let inputs = PromptInputs {
            input_ids: devices.upload_rows_s32(&self.ids(rows, &columns), &dims)?,
            attention_mask: devices.upload_rows_s32(&self.mask(rows, &columns), &dims)?,
        };
        let mut outcome = engine.call(&first, inputs.as_ref(), &[])?;

        if let Some(program) = further {
            let shape = programs.extend;
            let key_mask = self.key_mask(rows, shape.reach, |index| index);
            let mask_dims = [shape.batch as i64, shape.reach as i64];
            let mut key_mask = devices.upload_rows_s32(&key_mask, &mask_dims)?;
            let dims = [shape.batch as i64, shape.chunk as i64];
            for slot in (columns.end..self.length).step_by(shape.chunk) {
                let columns = slot..slot + shape.chunk;
                let position = self.positions(rows, &columns);
                let inputs = ExtendInputs {
                    input_ids: devices.upload_rows_s32(&self.ids(rows, &columns), &dims)?,
                    position: devices.upload_rows_s32(&position, &dims)?,
                    key_mask,
                    slot: devices.upload_scalar(slot as i32)?,
                };
                outcome = engine.call(&program, inputs.as_ref(), &outcome.caches)?;
                key_mask = inputs.key_mask;
            }
        }
        let tokens = devices.read_s32(&outcome.results.token)?;
        let took = start.elapsed();
        engine.record(|times| times.prefill += took);
        Ok((tokens, outcome.caches, took))
    }

    /// Token ids of some columns, [rows, columns].
    fn ids(&self, rows: usize, columns: &Range<usize>) -> Vec<i32> {
        self.each(rows, columns, |prompt, place| match place {
            Some(place) => prompt.get(place).map_or(self.pad, |&id| id as i32),
            None => self.pad,
        })
    }

    /// Which of them are no padding.
    fn mask(&self, rows: usize, columns: &Range<usize>) -> Vec<i32> {
        self.each(rows, columns, |_, place| i32::from(place.is_some()))
    }

    /// Their positions in the prompts; 0 for padding.
    fn positions(&self, rows: usize, columns: &Range<usize>) -> Vec<i32> {
        self.each(rows, columns, |_, place| place.unwrap_or(0) as i32)
    }

    /// A value for each row's prompt and the place in it that a column has, if it has one. A row
    /// without a prompt has one of a single token of padding.
    fn each(
        &self,
        rows: usize,
        columns: &Range<usize>,
        value: impl Fn(&[u32], Option<usize>) -> i32,
    ) -> Vec<i32> {
        let mut values = Vec::with_capacity(rows * columns.len());
        for row in 0..rows {
            let prompt = self.prompts.get(row).map_or(&[][..], Vec::as_slice);
            let padding = self.length - prompt.len().max(1);
            values.extend(
                columns
                    .clone()
                    .map(|column| value(prompt, column.checked_sub(padding))),
            );
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_masks_and_positions_are_cut_from_one_padded_matrix() {
        let prompts = vec![vec![7, 8, 9, 10, 11], vec![5]];
        let padded = PaddedPrompts::new(&prompts, 6, 99);
        assert_eq!(
            padded.ids(3, &(0..6)),
            [
                [99, 7, 8, 9, 10, 11],
                [99, 99, 99, 99, 99, 5],
                [99, 99, 99, 99, 99, 99]
            ]
            .concat()
        );
        let mask = [[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]];
        assert_eq!(padded.mask(3, &(0..6)), mask.concat());
        assert_eq!(padded.ids(2, &(4..6)), [10, 11, 99, 5]);
        assert_eq!(padded.positions(2, &(3..6)), [2, 3, 4, 0, 0, 0]);
    }

    #[test]
    fn the_mask_of_the_cache_has_the_prompts_in_their_rows_and_ones_behind() {
        let prompts = vec![vec![7, 8], vec![5, 6, 7]];
        let padded = PaddedPrompts::new(&prompts, 3, 0);
        assert_eq!(
            padded.key_mask(4, 5, |index| index * 2),
            [
                [0, 1, 1, 1, 1],
                [0, 0, 1, 1, 1],
                [1, 1, 1, 1, 1],
                [0, 0, 1, 1, 1]
            ]
            .concat()
        );
    }
}
