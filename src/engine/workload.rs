//! What an engine will run, held against the memory that there is before the checkpoint is read.

use super::batch::batch_programs;
use super::choice::Chooser;
use super::continuous::session_options;
use super::devices::Devices;
use super::error::Result;
use super::generation::GenerateOptions;
use super::memory::{self, Parameters};
use super::options::{SessionOptions, Workload};
use super::program_key::ProgramKey;
use crate::model::ModelSpec;

impl Workload {
    /// Checks that parameters, caches and temporaries fit, as far as they are known. `compile`
    /// makes a program and checks it.
    ///
    /// What cannot be run at all is left to whoever runs it.
    ///
    /// # Errors
    /// [`Error::Memory`](super::Error::Memory), and what `compile` says.
    pub(super) fn check(
        &self,
        spec: &ModelSpec,
        devices: &Devices,
        compile: impl Fn(ProgramKey) -> Result<()>,
    ) -> Result<()> {
        let (prompts, options, is_batch) = match self {
            Self::Session(options) => return check_session(spec, devices, options),
            Self::Jobs(prompts, options) => (prompts, options, false),
            Self::Prompts(prompts, options) => {
                let rows = prompts.len() * options.sampling.num_return_sequences;
                (prompts, options, rows <= options.batch_size)
            }
        };
        let Some(longest) = prompts.iter().copied().max() else {
            return Ok(());
        };
        let vocabulary = spec.gemma.spec().vocabulary.size();
        let is_valid = longest < spec.config.max_position_embeddings()
            && options.max_new_tokens > 0
            && options.batch_size > 0
            && options
                .sampling
                .validate(vocabulary, options.max_new_tokens)
                .is_ok();
        if !is_valid {
            return Ok(());
        }
        if !is_batch {
            return check_session(spec, devices, &session_options(spec, longest, options));
        }
        keys(spec, prompts, options)
            .into_iter()
            .try_for_each(compile)
    }
}

fn check_session(spec: &ModelSpec, devices: &Devices, options: &SessionOptions) -> Result<()> {
    let size = options.size(spec);
    let (rows, length) = (size.rows_on_device, size.cache);
    memory::check_caches(rows, length, Parameters::Expected, spec, devices)
}

/// The programs that one batch of prompts runs in.
fn keys(spec: &ModelSpec, prompts: &[usize], options: &GenerateOptions) -> Vec<ProgramKey> {
    let replies = options.sampling.num_return_sequences;
    let longest = prompts.iter().copied().max().unwrap_or(1);
    let positions = spec.config.max_position_embeddings();
    let limits = prompts
        .iter()
        .map(|&prompt| options.limit(prompt, longest, positions));
    let new_tokens = limits.max().unwrap_or(1);
    let choice = Chooser::new(spec, &options.sampling).choice();
    let rows = prompts.len() * replies;
    let programs = batch_programs(spec, rows, longest, new_tokens).choosing(choice);
    // The first token is the prefill's.
    let steps = usize::from(new_tokens > 1);
    let most = programs.keys().count() - 1 + steps;
    programs.keys().take(most).collect()
}
