//! The table of token embeddings, which is the head as well where the head is tied.

use hlo::{ElementType, Tensor};

use super::super::parameters::{ParameterId, Part, Role, Scope};
use super::super::pass::Pass;
use crate::sharding::Axis;

/// A table [vocab, hidden].
#[derive(Clone, Debug)]
pub struct Embedding {
    table: ParameterId,
    /// √hidden.
    scale: f64,
}

const NAME: &str = "embed_tokens";

impl Embedding {
    pub(in crate::model) fn new(scope: &Scope<'_>, vocabulary: Axis, hidden: Axis) -> Self {
        let table = scope
            .child(NAME, "embedder")
            .parameter("embedding", &[vocabulary, hidden], Role::Embedding)
            .pytorch("weight", "v d", "v d")
            .deepmind("input_embedding", Part::whole("v d", "v d"));
        Self {
            table: table.id,
            scale: (hidden.size() as f64).sqrt(),
        }
    }

    /// The table's place among the model's parameters.
    pub fn table(&self) -> ParameterId {
        self.table
    }

    /// Embeds `ids` [batch, length] (s32): rows of the table times √hidden, [batch · length,
    /// hidden] in the compute dtype. The constant is rounded to that dtype before it multiplies, as
    /// a Python scalar is in JAX.
    pub fn forward<'b>(&self, pass: &Pass<'_, 'b>, ids: Tensor<'b>) -> Tensor<'b> {
        pass.scoped(NAME, || {
            let tokens = ids.dims().iter().product();
            let vocabulary = &pass.spec.gemma.spec().vocabulary;
            rows(pass, self.table, vocabulary, ids.reshape(&[tokens])) * self.scale
        })
    }

    /// This device's logits of `x` [rows, hidden] with the table as head: [rows, its share of the
    /// vocabulary] in the compute dtype.
    pub fn logits<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        let to: ElementType = pass.compute();
        let x = x.convert(to);
        pass.ops.matmul(x, pass.parameter(self.table), 1, to)
    }
}

/// Rows `ids` \[rows\] of a table that is split over `vocabulary`: [rows, width]. Over a model
/// axis, the device that holds a row gives it and the others give zeros, so the sum over devices is
/// the row to the bit.
pub(super) fn rows<'b>(
    pass: &Pass<'_, 'b>,
    table: ParameterId,
    vocabulary: &Axis,
    ids: Tensor<'b>,
) -> Tensor<'b> {
    let table = pass.parameter(table);
    let Some(offset) = pass.first_unit(vocabulary) else {
        return pass.ops.take_rows(table, ids);
    };
    let local = ids - offset.everywhere_in(ids);
    let x = pass.ops.take_rows(table, local);
    let held = local.at_least(0.0) & local.less(table.size(0) as f64);
    let zeros = pass.b.filled(x.element_type(), &x.dims(), 0.0);
    let held = held.broadcast(&x.dims(), &[0]);
    pass.sum_over_model(held.select(x, zeros))
}
