//! Loads a model, compiles its programs and runs them. The only place that knows files, model and
//! devices.

mod admission;
mod batch;
mod buckets;
mod choice;
mod compiled;
mod continuous;
mod core;
mod devices;
mod error;
mod forward;
mod generate;
mod generation;
mod load;
mod memory;
mod numerics;
mod options;
mod program_key;
mod prompts;
mod score;
mod session;
mod workload;

pub use admission::{Admission, Admitted, Prefilled};
pub use buckets::cache_lengths;
pub use core::{Engine, Times};
pub use error::{Error, Result};
pub use forward::ForwardOutput;
pub use generation::{
    Event, FinishReason, GenerateOptions, GenerateSummary, Generation, Job, Stop, TokenLogprob,
};
pub use load::checkpoint_dtype;
pub use numerics::NotFinite;
pub use options::{LoadOptions, SessionOptions, Workload};
pub use program_key::{BatchPrograms, ProgramKey};
pub use score::{Score, ScoreRequest, TextScore, Window, windows};
pub use session::{RowId, Session, Stepped};
