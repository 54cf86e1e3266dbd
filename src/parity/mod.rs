//! Holds the program's own outputs against what Flax, or another run of this program, computed.
//!
//! A [`Reference`] is the npz file that `tools/flax/make_reference.py` writes, or what another of
//! our models computes; [`compare()`] runs the same inputs here and gives a [`Report`], which knows
//! its tolerance and whether it was kept.
//!
//! ```
//! use gemma_xla::dtype::DType;
//! use gemma_xla::parity::{Reference, Tolerance, compare};
//! use gemma_xla::{LoadOptions, Model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/random-mqa");
//! let mut options = LoadOptions::default();
//! options.dtype = Some(DType::F32);
//! let exact = Model::open(folder)?.load(&options)?;
//! // What the model computes in float32: a prompt of three tokens, and eight new ones.
//! let reference = Reference::computed(&exact, &[vec![2, 5, 9]], 8)?;
//!
//! options.dtype = Some(DType::BF16);
//! let model = Model::open(folder)?.load(&options)?;
//! let report = compare(model.engine(), &reference, Tolerance::for_dtype(DType::BF16))?;
//! println!("within tolerance: {}", report.within);
//! # assert!(report.within);
//! let mut page = Vec::new();
//! report.about(&model).write_html(&mut page)?;
//! # Ok(())
//! # }
//! ```

mod compare;
mod computed;
mod facts;
mod page;
mod reference;
mod report;
mod statistics;

pub use compare::compare;
pub use facts::facts;
pub use reference::{Reference, ReferenceError};
pub use report::{ArrayReport, Divergence, LogitsReport, Position, Report, Tolerance};
pub use statistics::{Agreement, Histogram, kl_divergence};
