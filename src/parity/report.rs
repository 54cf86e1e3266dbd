//! What a comparison found.

use serde::Serialize;
use serde_json::{Map, Value};

use super::statistics::{Agreement, Histogram};
use crate::dtype::DType;
use crate::source::LoadedModel;
use crate::tokenizer::Tokenizer;

/// How far apart two outputs may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Largest difference of hidden states and logits, relative to the scale of each array.
    pub relative: f64,
    /// Largest Kullback–Leibler divergence at a position, in nats.
    pub kl: f64,
}

impl Tolerance {
    /// The tolerance for a compute dtype. In float32 only the order of summation differs.
    ///
    /// In bfloat16 it is what Flax's own runs differ by when the batch has another shape or the
    /// call is compiled: up to 2.6e-2 of the logits' scale over the checkpoints in tests/data,
    /// measured with `tools/flax/make_reference.py --measure-noise`. In float16 those runs are
    /// equal on a CPU, and it is a little more than their distance from float32, 3.9e-3.
    pub fn for_dtype(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self {
                relative: 1e-4,
                kl: 1e-5,
            },
            DType::F16 => Self {
                relative: 5e-3,
                kl: 1e-3,
            },
            DType::BF16 => Self {
                relative: 3e-2,
                kl: 0.015,
            },
        }
    }

    /// The larger of two tolerances: that of a comparison between two dtypes.
    #[must_use]
    pub fn or_larger(self, other: Self) -> Self {
        Self {
            relative: self.relative.max(other.relative),
            kl: self.kl.max(other.kl),
        }
    }

    /// A gap between two logits, relative to their scale, that this tolerance cannot tell from a
    /// tie: each of the two may be off by [`relative`](Self::relative).
    pub fn near_tie(&self) -> f64 {
        2.0 * self.relative
    }
}

/// A token whose outputs were compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Position {
    /// Row of the batch.
    pub row: usize,
    /// Its place among the tokens of its row, padding not counted.
    pub index: usize,
    /// The token.
    pub token_id: i32,
    /// Its text, where [`Report::about`] knows a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// One array compared, over the positions that are not padding.
#[derive(Clone, Debug, Serialize)]
pub struct ArrayReport {
    /// What it is.
    pub name: String,
    /// How far the two are apart.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// How many elements differ by how much.
    pub histogram: Histogram,
    /// The largest difference at each of [`Report::positions`], relative to the array's scale.
    pub at_positions: Vec<f64>,
    /// Whether that is within tolerance.
    pub within: bool,
}

/// The logits compared as distributions, over the positions that are not padding.
#[derive(Clone, Debug, Serialize)]
pub struct LogitsReport {
    /// Largest divergence at a position, in nats.
    pub kl_max: f64,
    /// Mean divergence, in nats.
    pub kl_mean: f64,
    /// Positions compared.
    pub positions: usize,
    /// Positions at which both prefer the same token.
    pub top1_agreements: usize,
    /// The divergence at each of [`Report::positions`], in nats.
    pub kl_at_positions: Vec<f64>,
    /// Whether both prefer the same token at each of [`Report::positions`].
    pub top1_at_positions: Vec<bool>,
    /// Whether the largest divergence is within tolerance.
    pub within: bool,
}

/// Where a generated row parts from the reference.
#[derive(Clone, Debug, Serialize)]
pub struct Divergence {
    /// Row of the batch.
    pub row: usize,
    /// New tokens that agree before it.
    pub step: usize,
    /// Our token.
    pub ours: i32,
    /// The reference's token.
    pub reference: i32,
    /// The texts of both, where [`Report::about`] knows a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub texts: Option<[String; 2]>,
    /// By how much our logit of our token exceeds our logit of the reference's, after the
    /// reference's tokens.
    pub margin: f64,
    /// The margin relative to the largest logit there.
    pub relative_margin: f64,
    /// Whether the margin is a near tie within tolerance.
    pub within: bool,
}

/// All that was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The dtype that was computed in here.
    pub dtype: String,
    /// The kind of device.
    pub device: String,
    /// The mesh of devices.
    pub mesh: String,
    /// What computed our side.
    pub ours: Map<String, Value>,
    /// How the reference was made.
    pub reference: Map<String, Value>,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// The positions that were compared, in order.
    pub positions: Vec<Position>,
    /// Hidden states in order, then logits.
    pub arrays: Vec<ArrayReport>,
    /// The first array that is beyond tolerance.
    pub first_beyond: Option<String>,
    /// Logits as distributions.
    pub logits: Option<LogitsReport>,
    /// Rows generated, and new tokens a row; none without sequences.
    pub generated: Option<[usize; 2]>,
    /// The first divergence of each row that has one.
    pub divergences: Vec<Divergence>,
    /// Whether everything is within tolerance.
    pub within: bool,
}

impl Report {
    /// Adds what is known of the model that computed our side: its folder, its checkpoint, and the
    /// texts of tokens.
    #[must_use]
    pub fn about(mut self, model: &LoadedModel) -> Self {
        self.ours = super::facts(model);
        let Some(tokenizer) = model.tokenizer() else {
            return self;
        };
        for position in &mut self.positions {
            position.text = Some(token_text(tokenizer, position.token_id));
        }
        for divergence in &mut self.divergences {
            let text = |id| token_text(tokenizer, id);
            divergence.texts = Some([text(divergence.ours), text(divergence.reference)]);
        }
        self
    }
}

/// The text of a token by itself; that of a special token is empty.
fn token_text(tokenizer: &Tokenizer, id: i32) -> String {
    let id = u32::try_from(id).ok();
    id.and_then(|id| tokenizer.decode_continuation(&[], &[id]).ok())
        .unwrap_or_default()
}
