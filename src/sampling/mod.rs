//! How the next token is chosen: the options, the random keys behind a seed, and the texts that end
//! a generation.
//!
//! What is here runs on the host and knows nothing of a device. It names things as Transformers'
//! `generate` does.

mod error;
mod key;
mod options;
mod stop;

pub use error::{Error, Result};
pub use key::{Key, StepKeys, threefry2x32};
pub use options::{MAX_LOGPROBS, SamplingOptions, parse_seed};
pub use stop::{Released, StopMatcher, StopStrings};
