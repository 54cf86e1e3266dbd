//! One decoder layer: attention and MLP, each behind a norm and added to the residual stream.

use hlo::Tensor;

use super::super::parameters::{ParameterId, Part, Role, Scope};
use super::super::pass::Pass;
use super::super::spec::{GemmaSpec, LayerSpec, Norms};
use super::attention::{Attention, Projected};
use super::experts::Experts;
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::per_layer::OwnInput;
use super::rope::Rotation;
use crate::sharding::Axis;

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
    experts: Option<ExpertsBeside>,
    after_mlp: Option<RmsNorm>,
    own_input: Option<OwnInput>,
    scalar: Option<ParameterId>,
}

/// Experts beside the MLP, with the norms of both branches.
#[derive(Clone, Debug)]
struct ExpertsBeside {
    after_mlp: RmsNorm,
    before: RmsNorm,
    experts: Experts,
    after: RmsNorm,
}

/// What flows through the layers.
#[derive(Clone, Copy)]
pub struct Stream<'b> {
    /// The residual stream, [tokens, hidden].
    pub x: Tensor<'b>,
    /// The inputs of all layers beside it, [tokens, layers · size], where the model has any.
    pub inputs: Option<Tensor<'b>>,
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
        (number, index): (usize, &str),
        gemma: &GemmaSpec,
        spec: &LayerSpec,
    ) -> Self {
        let scope = scope.child(format!("layers/{index}"), format!("layer_{index}"));
        let norm = |name, deepmind: &[&str]| {
            RmsNorm::new(&scope, name, gemma.hidden, gemma.norm, deepmind)
        };
        let around = spec.norms == Norms::Around;
        // DeepMind calls experts what the MLP is called elsewhere.
        let (mlp, before_mlp) = match &spec.experts {
            None => ("mlp", "pre_ffw_norm"),
            Some(_) => ("mlp2", "pre_ffw2_norm"),
        };
        Self {
            name: format!("layers/{index}"),
            before_attention: norm("input_layernorm", &["pre_attention_norm"]),
            self_attn: Attention::new(&scope, gemma, &spec.attention),
            after_attention: around
                .then(|| norm("post_attention_layernorm", &["post_attention_norm"])),
            before_mlp: match spec.norms {
                Norms::Before => norm("post_attention_layernorm", &[before_mlp]),
                Norms::Around => norm("pre_feedforward_layernorm", &[before_mlp]),
            },
            mlp: Mlp::new(&scope, gemma.hidden, &spec.mlp, mlp),
            experts: spec.experts.as_ref().map(|experts| ExpertsBeside {
                after_mlp: norm("post_feedforward_layernorm_1", &["post_ffw2_norm"]),
                before: norm("pre_feedforward_layernorm_2", &["pre_ffw_norm"]),
                experts: Experts::new(&scope, gemma, experts),
                after: norm("post_feedforward_layernorm_2", &["post_ffw1_norm"]),
            }),
            after_mlp: around.then(|| norm("post_feedforward_layernorm", &["post_ffw_norm"])),
            own_input: spec
                .own_input
                .map(|axis| OwnInput::new(&scope, number, gemma, spec, axis)),
            scalar: spec.scalar.then(|| {
                let one = Axis::whole("layer scalar", "layer_scalar", 1);
                let scalar = scope.parameter("layer_scalar", &[one], Role::Norm);
                scalar.deepmind("skip_scale", Part::whole("s", "s")).id
            }),
        }
    }

    /// Runs it on the stream of batch · length tokens.
    ///
    /// `attend` gets queries, keys and values of these tokens and gives what the queries find,
    /// [batch · length, heads · head_dim]: among these tokens in a prefill, in the cache with them
    /// written into it in a decode step.
    ///
    /// Where only the `kept` tokens of each row are wanted, as after the last layer of a prompt, it
    /// gives those of batch · kept tokens: all tokens give keys and values, but only these ask, and
    /// go through the MLP.
    pub fn forward<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        stream: Stream<'b>,
        tokens: &Tokens<'b>,
        kept: Kept<'b>,
        attend: impl FnOnce(&Attention, Projected<'b>) -> Tensor<'b>,
    ) -> Stream<'b> {
        let batch = tokens.batch;
        pass.scoped(&self.name, || {
            let x = stream.x;
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
            let mixed = match &self.experts {
                None => mixed,
                Some(beside) => {
                    let normed = beside.before.forward(pass, x);
                    let expert = beside.experts.forward(pass, x, normed);
                    let expert = beside.after.forward(pass, expert);
                    beside.after_mlp.forward(pass, mixed) + expert
                }
            };
            let x = x + branch(&self.after_mlp, mixed);
            let inputs = stream.inputs.map(kept_of);
            let x = match (&self.own_input, inputs) {
                (Some(own), Some(inputs)) => x + own.forward(pass, x, inputs),
                _ => x,
            };
            let x = match self.scalar {
                None => x,
                Some(scalar) => {
                    let scalar = pass.parameter(scalar).convert(x.element_type());
                    x * scalar.reshape(&[]).everywhere_in(x)
                }
            };
            Stream { x, inputs }
        })
    }
}

impl<'b> Tokens<'b> {
    /// The wanted ones.
    pub fn kept(&self, kept: Kept<'b>) -> Self {
        Self {
            batch: self.batch,
            rotations: self.rotations.iter().map(|r| r.kept(kept)).collect(),
        }
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
