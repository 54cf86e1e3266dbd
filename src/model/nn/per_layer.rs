//! Inputs that layers get beside the residual stream, from tables and projections of all layers
//! together (Gemma 4's E models).

use hlo::Tensor;

use super::super::parameters::{ParameterId, Part, Role, Scope};
use super::super::pass::Pass;
use super::super::spec::{GemmaSpec, LayerSpec, PerLayerSpec};
use super::embedding;
use super::linear::Linear;
use super::mlp::activate;
use super::norm::RmsNorm;
use crate::config::Activation;
use crate::sharding::Axis;

/// What makes the inputs of all layers.
#[derive(Clone, Debug)]
pub struct PerLayerInputs {
    spec: PerLayerSpec,
    table: ParameterId,
    projection: Linear,
    norm: RmsNorm,
    /// What projections are multiplied by, hidden^-½.
    scale: f64,
}

/// What a layer does with its own.
#[derive(Clone, Debug)]
pub struct OwnInput {
    /// The layer's index.
    layer: usize,
    size: usize,
    gate: Linear,
    projection: Linear,
    norm: RmsNorm,
    activation: Activation,
}

impl PerLayerInputs {
    /// Declares them in `scope`, that of the whole model.
    pub(in crate::model) fn new(scope: &Scope<'_>, gemma: &GemmaSpec, spec: &PerLayerSpec) -> Self {
        let table = scope
            .child("embed_tokens_per_layer", "embedder")
            .parameter("embedding", &[spec.vocabulary, spec.all], Role::Table)
            .pytorch("weight", "v p", "v p")
            .deepmind("per_layer_embeddings", Part::whole("v l p", "v (l p)"));
        let size = Axis {
            units: spec.size,
            unit: 1,
            ..spec.all
        };
        let projected = (
            "embedder/per_layer_model_projection/w",
            Part::whole("d l p", "d (l p)"),
        );
        let (name, norm) = ("per_layer_model_projection", "per_layer_projection_norm");
        Self {
            table: table.id,
            projection: Linear::new(scope, name, [gemma.hidden, spec.all], false, &[projected]),
            norm: RmsNorm::new(
                scope,
                norm,
                size,
                gemma.norm,
                &[&format!("embedder/{norm}")],
            ),
            scale: (gemma.hidden.size() as f64).powf(-0.5),
            spec: spec.clone(),
        }
    }

    /// The inputs of all layers for `ids` (s32 \[tokens\]), whose scaled embeddings are `x`
    /// [tokens, hidden]: [tokens, layers · size]. Ids beyond the table count as 0.
    pub fn forward<'b>(&self, pass: &Pass<'_, 'b>, ids: Tensor<'b>, x: Tensor<'b>) -> Tensor<'b> {
        pass.scoped("per_layer_inputs", || {
            let vocabulary = &self.spec.vocabulary;
            let ids = match vocabulary.units < pass.spec.gemma.spec().vocabulary.units {
                false => ids,
                true => {
                    let zeros = pass.b.filled(ids.element_type(), &ids.dims(), 0.0);
                    ids.less(vocabulary.units as f64).select(ids, zeros)
                }
            };
            let rows = embedding::rows(pass, self.table, vocabulary, ids);
            let rows = rows * (self.spec.size as f64).sqrt();

            let projected = self.projection.forward(pass, x) * self.scale;
            let [tokens, all] = projected.sizes();
            let size = self.spec.size as i64;
            let by_layer = projected.reshape(&[tokens, all / size, size]);
            let normed = self.norm.forward(pass, by_layer).reshape(&[tokens, all]);
            (normed + rows) * 0.5_f64.sqrt()
        })
    }
}

impl OwnInput {
    /// Declares what layer number `layer` needs for an input over `axis`.
    pub(in crate::model) fn new(
        scope: &Scope<'_>,
        layer: usize,
        gemma: &GemmaSpec,
        spec: &LayerSpec,
        axis: Axis,
    ) -> Self {
        let linear = |name: &str, axes, stored| {
            let deepmind = format!("{name}/w");
            let part = Part::whole(stored, stored);
            Linear::new(scope, name, axes, false, &[(&deepmind, part)])
        };
        let norm = "post_per_layer_input_norm";
        Self {
            layer,
            size: axis.size(),
            gate: linear("per_layer_input_gate", [gemma.hidden, axis], "d p"),
            projection: linear("per_layer_projection", [axis, gemma.hidden], "p d"),
            norm: RmsNorm::new(scope, norm, gemma.hidden, gemma.norm, &[norm]),
            activation: spec.mlp.activation,
        }
    }

    /// What is added to the residual stream `x` [tokens, hidden] for the inputs of all layers
    /// [tokens, layers · size].
    pub fn forward<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        x: Tensor<'b>,
        inputs: Tensor<'b>,
    ) -> Tensor<'b> {
        let first = (self.layer * self.size) as i64;
        let own = inputs.slice(1, first, first + self.size as i64);
        let gate = activate(self.activation, self.gate.forward(pass, x));
        self.norm
            .forward(pass, self.projection.forward(pass, gate * own))
    }
}
