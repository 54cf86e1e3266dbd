//! The whole model: embedding, layers, final norm and head.

use hlo::{ElementType, Tensor};

use super::super::parameters::{ParameterId, Scope};
use super::super::pass::Pass;
use super::super::spec::GemmaSpec;
use super::block::{Block, Stream};
use super::embedding::Embedding;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::per_layer::PerLayerInputs;

/// A Gemma.
#[derive(Clone, Debug)]
pub struct Gemma {
    spec: GemmaSpec,
    embed_tokens: Embedding,
    per_layer_inputs: Option<PerLayerInputs>,
    /// The layers, in order.
    pub layers: Vec<Block>,
    norm: RmsNorm,
    lm_head: Option<Linear>,
}

impl Gemma {
    /// Declares the model; `index` gives what names have for a layer's number.
    pub(in crate::model) fn new(
        root: &Scope<'_>,
        spec: GemmaSpec,
        index: impl Fn(usize) -> String,
    ) -> Self {
        let scope = root.child("model", "");
        Self {
            embed_tokens: Embedding::new(&scope, spec.vocabulary, spec.hidden),
            per_layer_inputs: spec
                .per_layer_inputs
                .as_ref()
                .map(|inputs| PerLayerInputs::new(&scope, &spec, inputs)),
            layers: spec
                .layers
                .iter()
                .enumerate()
                .map(|(number, layer)| Block::new(&scope, (number, &index(number)), &spec, layer))
                .collect(),
            norm: RmsNorm::new(&scope, "norm", spec.hidden, spec.norm, &["final_norm"]),
            lm_head: (!spec.tied_head)
                .then(|| Linear::new(root, "lm_head", [spec.hidden, spec.vocabulary], false, &[])),
            spec,
        }
    }

    /// What it is made from.
    pub fn spec(&self) -> &GemmaSpec {
        &self.spec
    }

    /// The embedding's place among the model's parameters.
    pub fn embedding(&self) -> ParameterId {
        self.embed_tokens.table()
    }

    /// The head's place among the model's parameters, where it has one of its own.
    pub fn head(&self) -> Option<ParameterId> {
        self.lm_head.as_ref().map(Linear::kernel)
    }

    /// Embeds `ids` [batch, length] (s32): the stream of batch · length tokens, in the compute
    /// dtype.
    pub fn embed<'b>(&self, pass: &Pass<'_, 'b>, ids: Tensor<'b>) -> Stream<'b> {
        let x = self.embed_tokens.forward(pass, ids);
        let tokens = x.size(0);
        let inputs = self.per_layer_inputs.as_ref();
        Stream {
            x,
            inputs: inputs.map(|inputs| inputs.forward(pass, ids.reshape(&[tokens]), x)),
        }
    }

    /// The final norm of `x` [rows, hidden].
    pub fn final_norm<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        self.norm.forward(pass, x)
    }

    /// This device's logits of normed hidden states `x` [rows, hidden]: [rows, its share of the
    /// vocabulary], rounded to the compute dtype, as Flax's are: 16-bit logits tie often, and the
    /// tie's winner is part of the result. Where the share is padded, the logits past the
    /// vocabulary are −∞.
    pub fn logits<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        pass.scoped("logits", || {
            let logits = match &self.lm_head {
                None => self.embed_tokens.logits(pass, x),
                Some(head) => head.forward(pass, x),
            };
            let logits = match self.spec.logits_cap {
                None => logits,
                Some(cap) => {
                    let capped = cap * (logits.convert(ElementType::F32) / cap).tanh();
                    capped.convert(pass.compute())
                }
            };
            let Some(offset) = pass.vocabulary_offset() else {
                return logits;
            };
            let vocabulary = self.spec.vocabulary.size();
            let dims = logits.dims();
            if logits.size(1) as usize * pass.spec.mesh.model == vocabulary {
                return logits;
            }
            let id = pass.b.indices(&dims, 1);
            let id = id + offset.everywhere_in(id);
            let lowest = pass.b.filled(pass.compute(), &dims, f64::NEG_INFINITY);
            id.less(vocabulary as f64).select(logits, lowest)
        })
    }

    /// The logits of the whole vocabulary, [rows, vocab], from the devices' shares.
    pub fn whole_logits<'b>(&self, pass: &Pass<'_, 'b>, share: Tensor<'b>) -> Tensor<'b> {
        let gathered = pass.gather_over_model(share, 1);
        let vocabulary = self.spec.vocabulary.size() as i64;
        match gathered.size(1) == vocabulary {
            true => gathered,
            false => gathered.slice(1, 0, vocabulary),
        }
    }

    /// `x` [batch · length, width] as [batch, length, width] in float32, of all groups of the data
    /// axis, for reports.
    pub fn reported<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>, batch: usize) -> Tensor<'b> {
        let [tokens, width] = x.sizes();
        let batch = batch as i64;
        let x = x
            .convert(ElementType::F32)
            .reshape(&[batch, tokens / batch, width]);
        pass.gather_over_data(x)
    }
}
