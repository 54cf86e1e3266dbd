//! What can go wrong between a checkpoint and its tokens.

use crate::checkpoint;
use crate::config::ConfigError;
use crate::{pjrt, plugin};

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint cannot be used, or does not fit the configuration.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// No plugin for the device.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// The plugin, the compiler or the device failed.
    #[error(transparent)]
    Pjrt(#[from] pjrt::Error),
    /// The model could not be lowered.
    #[error("cannot lower the model: {0}")]
    Lowering(#[from] hlo::Error),
    /// The CPU's kernel was asked for in a form that is not there.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
    /// The model cannot be split over the mesh.
    #[error(transparent)]
    Split(#[from] crate::sharding::SplitError),
    /// An option of sampling cannot be used.
    #[error(transparent)]
    Sampling(#[from] crate::sampling::Error),
    /// Executables cannot be saved or loaded.
    #[error(transparent)]
    Executables(#[from] crate::executables::Error),
    /// The tokenizer cannot be read or used.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::Error),
    /// A conversation cannot be rendered.
    #[error(transparent)]
    Chat(#[from] crate::chat::Error),
    /// Text was given to a model without a tokenizer.
    #[error("the model has neither tokenizer.json nor tokenizer.model; give token ids")]
    NoTokenizer,
    /// A prompt without tokens.
    #[error("prompt {index} is empty")]
    EmptyPrompt {
        /// The prompt's place in the input, from 0.
        index: usize,
    },
    /// A continuation without tokens.
    #[error("the continuation of prompt {index} is empty")]
    EmptyContinuation {
        /// The prompt's place in the input, from 0.
        index: usize,
    },
    /// A prompt that leaves no position for a new token.
    #[error(
        "prompt {index} has {tokens} tokens; max_position_embeddings is {limit}, and at least one new token must fit"
    )]
    PromptTooLong {
        /// The prompt's place in the input, from 0.
        index: usize,
        /// Its length in tokens.
        tokens: usize,
        /// `max_position_embeddings`.
        limit: usize,
    },
    /// A token id that the embedding has no row for.
    #[error("prompt {index} has token id {id}, outside of the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The prompt's place in the input, from 0.
        index: usize,
        /// The offending id.
        id: u32,
        /// `vocab_size`.
        vocab_size: usize,
    },
    /// Arrays that do not have the shape they are said to have.
    #[error(
        "input_ids has {ids} and attention_mask {mask} elements, expected [{batch}, {length}] of both"
    )]
    InputShape {
        /// Rows.
        batch: usize,
        /// Tokens a row.
        length: usize,
        /// Elements of `input_ids`.
        ids: usize,
        /// Elements of `attention_mask`.
        mask: usize,
    },
    /// A reference of another model, or with nothing to compare.
    #[error("{}: {problem}", file.display())]
    Reference {
        /// Its file.
        file: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An argument whose value cannot be used.
    #[error("{argument}: {problem}")]
    Argument {
        /// The argument's name.
        argument: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// Something does not fit into memory.
    #[error(
        "{what} need {:.1} GB of memory, and {:.1} GB are {place}: {advice}",
        *needed as f64 / 1e9,
        *available as f64 / 1e9
    )]
    Memory {
        /// What needs it.
        what: String,
        /// The bytes that it needs.
        needed: u64,
        /// The bytes that there are.
        available: u64,
        /// Where they are.
        place: &'static str,
        /// What would fit.
        advice: String,
    },
    /// The device returned something other than what the program promises.
    #[error("program '{program}' returned {found}, expected {expected}")]
    UnexpectedResult {
        /// The program.
        program: &'static str,
        /// What was expected.
        expected: String,
        /// What came.
        found: String,
    },
}

/// A result of the engine.
pub type Result<T> = std::result::Result<T, Error>;
