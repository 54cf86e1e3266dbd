//! The gated MLP (GeGLU, Shazeer 2020) and its activations.

use hlo::{ElementType, Tensor};

use super::super::parameters::{Part, Scope};
use super::super::pass::Pass;
use super::super::spec::MlpSpec;
use super::linear::Linear;
use crate::config::Activation;
use crate::sharding::Axis;

/// `down(up(x) · act(gate(x)))`.
#[derive(Clone, Debug)]
pub struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    activation: Activation,
}

impl Mlp {
    /// The MLP of a layer, which DeepMind calls `deepmind`.
    pub(in crate::model) fn new(
        scope: &Scope<'_>,
        hidden: Axis,
        spec: &MlpSpec,
        deepmind: &str,
    ) -> Self {
        let scope = scope.child("mlp", deepmind);
        // DeepMind stores gate and up in one array, either way round; the flat form of its trees
        // has the MLP's arrays under a `w` of their own.
        let gating = |part| {
            let (by_rows, by_columns) = (
                Part::of("2 d f", "d f", part),
                Part::of("2 f d", "d f", part),
            );
            [
                ("gating_einsum", by_rows),
                ("gating_einsum", by_columns),
                ("gating_einsum/w", by_rows),
                ("gating_einsum/w", by_columns),
            ]
        };
        let down = Part::whole("f d", "f d");
        let linear = |name, axes, deepmind: &[_]| Linear::new(&scope, name, axes, false, deepmind);
        Self {
            gate_proj: linear("gate_proj", [hidden, spec.inner], &gating(0)),
            up_proj: linear("up_proj", [hidden, spec.inner], &gating(1)),
            down_proj: linear(
                "down_proj",
                [spec.inner, hidden],
                &[("linear", down), ("linear/w", down)],
            ),
            activation: spec.activation,
        }
    }

    /// `x` [rows, hidden], all in the compute dtype.
    pub fn forward<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        pass.scoped("mlp", || {
            let up = self.up_proj.forward(pass, x);
            let gate = activate(self.activation, self.gate_proj.forward(pass, x));
            self.down_proj.forward(pass, up * gate)
        })
    }
}

/// An activation in the element type of `x`, operation by operation as `jax.nn` has it.
pub(super) fn activate(activation: Activation, x: Tensor<'_>) -> Tensor<'_> {
    match activation {
        // ½x(1 + tanh(√(2/π)(x + 0.044715x³))), Hendrycks and Gimpel 2016.
        Activation::GeluTanh => {
            let cube = x * (x * x);
            let inner = x + 0.044715 * cube;
            let tanh = ((2.0 / std::f64::consts::PI).sqrt() * inner).tanh();
            x * (0.5 * (1.0 + tanh))
        }
        // ½x·erfc(−x/√2). erfc(−y) is 1 + erf(y), which HLO has: summed in float32 and then
        // rounded, as a 16-bit erfc is.
        Activation::GeluExact => {
            let y = x * 0.5_f64.sqrt();
            let erfc = 1.0 + y.convert(ElementType::F32).erf();
            (0.5 * x) * erfc.convert(x.element_type())
        }
        Activation::QuickGelu => x * (1.702 * x).logistic(),
        Activation::Silu => x * x.logistic(),
        Activation::Relu => x.max(0.0),
        Activation::Tanh => x.tanh(),
    }
}
