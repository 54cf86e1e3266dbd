//! One decoder layer: attention and MLP, each behind a norm and added to the residual stream.

use hlo::Tensor;

use super::super::parameters::Scope;
use super::super::pass::Pass;
use super::super::spec::{GemmaSpec, LayerSpec, Norms};
use super::attention::{Attention, Projected};
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::Rotation;

/// A layer.
#[derive(Clone, Debug)]
pub struct Block {
    name: String,
    before_attention: RmsNorm,
    /// Its attention.
    pub self_attn: Attention,
    after_attention: Option<RmsNorm>,
    before_mlp: RmsNorm,
    mlp: Mlp,
    after_mlp: Option<RmsNorm>,
}

/// Which tokens of each row are wanted after a layer.
#[derive(Clone, Copy)]
pub enum Kept<'b> {
    /// All of them.
    All,
    /// So many at the end of the row.
    Last(usize),
    /// The one at this index (s32), in so many copies.
    At(Tensor<'b>, usize),
}

/// Tokens on their way through the layers.
#[derive(Clone)]
pub struct Tokens<'b> {
    /// Rows; each has as many tokens.
    pub batch: usize,
    /// Of each token's position, one for each of [`GemmaSpec::ropes`].
    pub rotations: Vec<Rotation<'b>>,
}

impl Block {
    pub(in crate::model) fn new(
        scope: &Scope<'_>,
        index: &str,
        gemma: &GemmaSpec,
        spec: &LayerSpec,
    ) -> Self {
        let scope = scope.child(format!("layers/{index}"), format!("layer_{index}"));
        let norm =
            |name, deepmind| RmsNorm::new(&scope, name, gemma.hidden, gemma.norm_epsilon, deepmind);
        let around = spec.norms == Norms::Around;
        Self {
            name: format!("layers/{index}"),
            before_attention: norm("input_layernorm", "pre_attention_norm"),
            self_attn: Attention::new(&scope, gemma, &spec.attention),
            after_attention: around
                .then(|| norm("post_attention_layernorm", "post_attention_norm")),
            before_mlp: match spec.norms {
                Norms::Before => norm("post_attention_layernorm", "pre_ffw_norm"),
                Norms::Around => norm("pre_feedforward_layernorm", "pre_ffw_norm"),
            },
            mlp: Mlp::new(&scope, gemma.hidden, &spec.mlp),
            after_mlp: around.then(|| norm("post_feedforward_layernorm", "post_ffw_norm")),
        }
    }

    /// Runs it on `x` [batch · length, hidden].
    ///
    /// `attend` gets queries, keys and values of these tokens and gives what the queries find,
    /// [batch · length, heads · head_dim]: among these tokens in a prefill, in the cache with them
    /// written into it in a decode step.
    ///
    /// Where only the `kept` tokens of each row are wanted, as after the last layer of a prompt, it
    /// gives [batch · kept, hidden]: all tokens give keys and values, but only these ask, and go
    /// through the MLP.
    pub fn forward<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        x: Tensor<'b>,
        tokens: &Tokens<'b>,
        kept: Kept<'b>,
        attend: impl FnOnce(&Attention, Projected<'b>) -> Tensor<'b>,
    ) -> Tensor<'b> {
        let batch = tokens.batch;
        pass.scoped(&self.name, || {
            let normed = self.before_attention.forward(pass, x);
            let rotations = &tokens.rotations;
            let asking: Vec<_> = rotations.iter().map(|r| r.kept(kept)).collect();
            let kept_of = |x: Tensor<'b>| kept.of_flat(x, batch);
            let projected = Projected {
                queries: self
                    .self_attn
                    .queries(pass, kept_of(normed), batch, &asking),
                cache: self.self_attn.key_values(pass, normed, batch, rotations),
            };
            let x = kept_of(x);
            let attended = attend(&self.self_attn, projected);
            let branch = |norm: &Option<RmsNorm>, branch| match norm {
                Some(norm) => norm.forward(pass, branch),
                None => branch,
            };
            let attended = self.self_attn.output(pass, attended);
            let x = x + branch(&self.after_attention, attended);
            let mixed = self.mlp.forward(pass, self.before_mlp.forward(pass, x));
            x + branch(&self.after_mlp, mixed)
        })
    }
}

impl<'b> Kept<'b> {
    /// The wanted of `x` [batch, length, width]: [batch, kept, width].
    pub fn of(self, x: Tensor<'b>) -> Tensor<'b> {
        let [batch, length, width] = x.sizes();
        match self {
            Kept::All => x,
            Kept::Last(kept) => x.slice(1, length - kept as i64, length),
            Kept::At(index, copies) => {
                let zero = x.builder().integer(0);
                let one = x.dynamic_slice(&[zero, index, zero], &[batch, 1, width]);
                match copies {
                    1 => one,
                    copies => one.concat(&vec![one; copies - 1], 1),
                }
            }
        }
    }

    /// The wanted of `x` [batch · length, width]: [batch · kept, width].
    fn of_flat(self, x: Tensor<'b>, batch: usize) -> Tensor<'b> {
        if matches!(self, Kept::All) {
            return x;
        }
        let batch = batch as i64;
        let [tokens, width] = x.sizes();
        let kept = self.of(x.reshape(&[batch, tokens / batch, width]));
        kept.reshape(&[batch * kept.size(1), width])
    }
}

impl<'b> Rotation<'b> {
    /// Those of the wanted tokens.
    fn kept(self, kept: Kept<'b>) -> Self {
        self.map(|_, x| kept.of(x))
    }
}
