//! Generation for lists of prompts: the batches in turn, or one session where there are more
//! prompts than rows.

use std::convert::Infallible;
use std::ops::ControlFlow;

use super::batch::{BatchRun, or_break};
use super::choice::Chooser;
use super::continuous::ContinuousRun;
use super::core::Engine;
use super::error::{Error, Result};
use super::generation::{Event, GenerateOptions, GenerateSummary, Generation, Job};

impl Engine {
    /// Generates after each prompt, greedily unless `options.sampling` says otherwise; results are
    /// in the order of the prompts.
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

    /// Generates after each prompt and tells `tell` of each result in order, and of what
    /// else happens. Where `tell` breaks, generation stops and gives what it broke with.
    ///
    /// Prompts that fit in one batch are padded on the left and run together, as Flax runs them:
    /// sampled tokens are those of one call of Flax's `generate` with `PRNGKey(seed)`. More prompts
    /// than rows are run in a session: a row that ends is given to the next prompt, and prompt i
    /// has the sampled tokens of a call by itself with `fold_in(PRNGKey(seed), i)`. A prompt with
    /// several replies counts as so many prompts; reply n of it then has `fold_in` of that and n.
    ///
    /// # Errors
    /// Options that cannot be used, an empty prompt, one that is too long, an id outside of the
    /// vocabulary (all checked before anything runs), or a device that fails.
    pub fn generate_with<B>(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        mut tell: impl FnMut(Event<'_>) -> ControlFlow<B>,
    ) -> Result<(GenerateSummary, ControlFlow<B>)> {
        self.check_options(options)?;
        self.check_prompts(prompts)?;
        let mut summary = GenerateSummary::default();
        let flow = self.run(prompts, options, &mut tell, &mut summary)?;
        Ok((summary, flow))
    }

    /// Generates after prompts that are read as they are needed, as many as there are, and tells
    /// `tell` of each result in their order. However many there are, memory holds a bounded number
    /// of them. Where `tell` breaks, generation stops and gives what it broke with.
    ///
    /// The prompts run in a session, and prompt i has the sampled tokens of a call by itself with
    /// `fold_in(PRNGKey(seed), i)`, where i is its job's index.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use gemma_xla::engine::{Event, GenerateOptions, Job};
    /// use gemma_xla::{LoadOptions, Model};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/random-mqa");
    /// let model = Model::open(folder)?.load(&LoadOptions::default())?;
    /// // As many as there are: they are made when they are needed.
    /// let mut jobs = (0..100).map(|index| Job {
    ///     index,
    ///     prompt: vec![2, 5 + index as u32],
    ///     new_tokens: None,
    /// });
    /// let mut options = GenerateOptions::default();
    /// options.max_new_tokens = 4;
    /// let mut finished = 0;
    /// model.engine().generate_jobs(&mut jobs, &options, |event| {
    ///     if let Event::Finished(reply) = event {
    ///         assert_eq!(reply.index, finished);
    ///         finished += 1;
    ///     }
    ///     ControlFlow::<()>::Continue(())
    /// })?;
    /// assert_eq!(finished, 100);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Options that cannot be used, a prompt that is empty, too long or has an id outside of the
    /// vocabulary (see [`check_job`](Self::check_job)), a device that fails.
    pub fn generate_jobs<B>(
        &self,
        jobs: &mut dyn Iterator<Item = Job>,
        options: &GenerateOptions,
        mut tell: impl FnMut(Event<'_>) -> ControlFlow<B>,
    ) -> Result<(GenerateSummary, ControlFlow<B>)> {
        self.check_options(options)?;
        let mut summary = GenerateSummary::default();
        let flow = ContinuousRun::new(self, jobs, options).run(&mut tell, &mut summary)?;
        Ok((summary, flow))
    }

    fn check_options(&self, options: &GenerateOptions) -> Result<()> {
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
        let vocabulary = self.spec().gemma.spec().vocabulary.size();
        let sampling = &options.sampling;
        Ok(sampling.validate(vocabulary, options.max_new_tokens)?)
    }

    fn run<B>(
        &self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        tell: &mut dyn FnMut(Event<'_>) -> ControlFlow<B>,
        summary: &mut GenerateSummary,
    ) -> Result<ControlFlow<B>> {
        let positions = self.spec().config.max_position_embeddings();
        let replies = options.sampling.num_return_sequences;
        let is_one_batch = prompts.len() * replies <= options.batch_size;
        // Saved executables are those of batches.
        if !is_one_batch && !self.runs_saved_executables() {
            let mut jobs = prompts.iter().enumerate().map(|(index, prompt)| Job {
                index,
                prompt: prompt.clone(),
                new_tokens: None,
            });
            return ContinuousRun::new(self, &mut jobs, options).run(tell, summary);
        }
        for (index, prompt) in prompts.iter().enumerate() {
            let to = positions - prompt.len();
            if to < options.max_new_tokens {
                or_break!(tell(Event::Shortened { index, to }));
            }
        }
        let rows: Vec<&[u32]> = prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt.as_slice(), replies))
            .collect();
        let chooser = Chooser::new(self.spec(), &options.sampling);
        // A short last batch runs in the program of the full ones.
        let size = options.batch_size.min(rows.len());
        for (number, batch) in rows.chunks(options.batch_size).enumerate() {
            let first = number * options.batch_size;
            let batch = batch.to_vec();
            let mut run = BatchRun::new(self, batch, size, first, options, &chooser, is_one_batch);
            or_break!(run.run(tell, summary)?);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Checks that a prompt can be run: that it has tokens, leaves a position for a new one, and
    /// has ids of the vocabulary.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_job(&self, job: &Job) -> Result<()> {
        let positions = self.spec().config.max_position_embeddings();
        self.check_prompt(job.index, &job.prompt, positions)
    }

    fn check_prompts(&self, prompts: &[Vec<u32>]) -> Result<()> {
        let positions = self.spec().config.max_position_embeddings();
        let mut numbered = prompts.iter().enumerate();
        numbered.try_for_each(|(index, prompt)| self.check_prompt(index, prompt, positions))
    }
}
