//! Batch greedy generation: the batches in turn, or one session where there are more prompts than
//! rows.

use std::convert::Infallible;
use std::ops::ControlFlow;

use super::batch::{BatchRun, or_break};
use super::continuous::ContinuousRun;
use super::core::Engine;
use super::error::{Error, Result};
use super::generation::{Event, GenerateOptions, GenerateSummary, Generation};

impl Engine {
    /// Generates greedily after each prompt; results are in the order of the prompts.
    ///
    /// # Errors
    /// As [`generate_with`](Self::generate_with).
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
    ) -> Result<Vec<Generation>> {
        let mut generations = Vec::with_capacity(prompts.len());
        let collect = |event: Event<'_>| {
            if let Event::Finished(generation) = event {
                generations.push(generation);
            }
            ControlFlow::<Infallible>::Continue(())
        };
        self.generate_with(prompts, options, collect)?;
        Ok(generations)
    }

    /// Generates greedily after each prompt and tells `tell` of each result in order, and of what
    /// else happens. Where `tell` breaks, generation stops and gives what it broke with.
    ///
    /// Prompts that fit in one batch are padded on the left and run together, as Flax runs them.
    /// More prompts than rows are run in a session: a row that ends is given to the next prompt.
    ///
    /// # Errors
    /// An empty prompt, one that is too long, an id outside of the vocabulary (all checked before
    /// anything runs), or a device that fails.
    pub fn generate_with<B>(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        mut tell: impl FnMut(Event<'_>) -> ControlFlow<B>,
    ) -> Result<(GenerateSummary, ControlFlow<B>)> {
        for (argument, value) in [
            ("max_new_tokens", options.max_new_tokens),
            ("batch_size", options.batch_size),
        ] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(Error::Argument {
                    argument,
                    problem: format!("{value} is not between 1 and {}", i32::MAX),
                });
            }
        }
        self.check_prompts(prompts)?;
        let mut summary = GenerateSummary::default();
        let flow = self.run(prompts, options, &mut tell, &mut summary)?;
        Ok((summary, flow))
    }

    fn run<B>(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        tell: &mut dyn FnMut(Event<'_>) -> ControlFlow<B>,
        summary: &mut GenerateSummary,
    ) -> Result<ControlFlow<B>> {
        let positions = self.spec().config.max_position_embeddings();
        for (index, prompt) in prompts.iter().enumerate() {
            let to = positions - prompt.len();
            if to < options.max_new_tokens {
                or_break!(tell(Event::Shortened { index, to }));
            }
        }
        // Saved executables are those of batches.
        if prompts.len() > options.batch_size && !self.runs_saved_executables() {
            return ContinuousRun::new(self, prompts, options)?.run(tell, summary);
        }
        for (number, batch) in prompts.chunks(options.batch_size).enumerate() {
            // A short last batch runs in the program of the full ones.
            let size = options.batch_size.min(prompts.len());
            let mut run = BatchRun::new(self, batch, size, number * options.batch_size, options);
            or_break!(run.run(tell, summary)?);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn check_prompts(&self, prompts: &[Vec<u32>]) -> Result<()> {
        let positions = self.spec().config.max_position_embeddings();
        let mut numbered = prompts.iter().enumerate();
        numbered.try_for_each(|(index, prompt)| self.check_prompt(index, prompt, positions))
    }
}
