//! Experts: MLPs of which each token uses a few, that a router chooses (Gemma 4's A4B).

use hlo::{ElementType, Tensor};

use super::super::parameters::{KernelLayout, ParameterId, Part, Role, Scope};
use super::super::pass::Pass;
use super::super::spec::{ExpertsSpec, GemmaSpec};
use super::linear::Linear;
use super::mlp::activate;
use super::norm::RmsNorm;

/// The experts of a layer and their router.
///
/// They are computed as one MLP whose inner columns are those of all experts, weighted by the
/// router before the down projection: columns of experts that a token does not use weigh nothing. A
/// decode step of a batch reads nearly all experts anyway.
#[derive(Clone, Debug)]
pub struct Experts {
    spec: ExpertsSpec,
    router_norm: RmsNorm,
    router_scale: ParameterId,
    router: Linear,
    expert_scale: ParameterId,
    gate: ParameterId,
    up: ParameterId,
    down: ParameterId,
    /// What the router's input is multiplied by, hidden^-½.
    scale: f64,
}

impl Experts {
    pub(in crate::model) fn new(scope: &Scope<'_>, gemma: &GemmaSpec, spec: &ExpertsSpec) -> Self {
        let hidden = gemma.hidden;
        let every = crate::sharding::Axis {
            split: crate::sharding::Split::Whole,
            ..spec.experts
        };
        let router = scope.child("router", "mlp");
        let scale = |name: &str, axis, stored, letters| {
            let scale = router.parameter(name, &[axis], Role::Norm);
            scale.deepmind(stored, Part::whole(letters, letters)).id
        };
        let logits = ("router_logits/w", Part::whole("d e", "d e"));
        let experts = scope.child("experts", "mlp");
        let inner = |name: &str, part| {
            let axes = [hidden, spec.experts, spec.inner];
            experts
                .parameter(&format!("{name}/kernel"), &axes, Role::Kernel)
                .pytorch_part("gate_up_proj", Part::of("e (2 f) d", "d e f", part))
                .deepmind("gating_einsum/w", Part::of("e 2 f d", "d e f", part))
                .id
        };
        let down = experts
            .parameter(
                "down_proj/kernel",
                &[spec.experts, spec.inner, hidden],
                Role::Kernel,
            )
            .pytorch_part("down_proj", Part::whole("e d f", "e f d"))
            .deepmind("linear/w", Part::whole("e f d", "e f d"));
        Self {
            router_norm: RmsNorm::unweighted("router_norm", gemma.norm),
            router_scale: scale("scale", hidden, "router_scale", "d"),
            router: Linear::new(&router, "proj", [hidden, every], false, &[logits]),
            expert_scale: scale("per_expert_scale", every, "per_expert_scale", "e"),
            gate: inner("gate_proj", 0),
            up: inner("up_proj", 1),
            down: down.id,
            scale: (hidden.size() as f64).powf(-0.5),
            spec: spec.clone(),
        }
    }

    /// The experts' result for `normed` [tokens, hidden], chosen by the residual stream `x` of the
    /// same tokens: [tokens, hidden] in the compute dtype.
    pub fn forward<'b>(
        &self,
        pass: &Pass<'_, 'b>,
        x: Tensor<'b>,
        normed: Tensor<'b>,
    ) -> Tensor<'b> {
        pass.scoped("experts", || {
            let weights = self.own_weights(pass, self.weights(pass, x));
            let [tokens, experts] = weights.sizes();
            let inner = self.spec.inner.size() as i64;
            let columns = experts * inner;
            // As the device holds kernels, whose experts are the middle one of three dimensions.
            let (contracting, by_expert, at) = match pass.ops.kernel_layout() {
                KernelLayout::InOut => (0, [tokens, experts, inner], [0, 1]),
                KernelLayout::OutIn => (1, [tokens, inner, experts], [0, 2]),
            };
            let matrix = |id, rows: i64| {
                let dims = match contracting {
                    0 => [rows, -1],
                    _ => [-1, rows],
                };
                let kernel = pass.parameter(id);
                let elements: i64 = kernel.dims().iter().product();
                kernel.reshape(&dims.map(|dim| if dim < 0 { elements / rows } else { dim }))
            };
            let hidden = normed.size(1);
            let normed = normed.convert(pass.compute());
            let project = |id| {
                let kernel = matrix(id, hidden);
                pass.ops.matmul(normed, kernel, contracting, pass.compute())
            };
            let gate = activate(self.spec.activation, project(self.gate));
            let mixed = (project(self.up) * gate).convert(ElementType::F32);
            let weights = weights.broadcast(&by_expert, &at);
            let weighted = mixed.reshape(&by_expert) * weights;
            let weighted = weighted.reshape(&[tokens, columns]).convert(pass.compute());
            let down = matrix(self.down, columns);
            let y = pass
                .ops
                .matmul(weighted, down, contracting, ElementType::F32);
            pass.sum_over_model(y).convert(pass.compute())
        })
    }

    /// What the router gives each expert, [tokens, experts] in float32: 0 where a token does not
    /// use it, else its share of the probabilities of those that it uses, times the expert's own
    /// scale.
    fn weights<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        let normed = self.router_norm.forward(pass, x);
        let scale = pass.parameter(self.router_scale).convert(pass.compute());
        let asked = normed * scale.broadcast(&normed.dims(), &[1]) * self.scale;
        let logits = self.router.forward(pass, asked).convert(ElementType::F32);
        let dims = logits.dims();
        let over = |x: Tensor<'b>| x.broadcast(&dims, &[0]);
        let shifted = (logits - over(logits.greatest(&[1]))).exp();
        let probabilities = shifted / over(shifted.sum(&[1]));

        // One after the other, the lowest index of equals.
        let index = pass.b.indices(&dims, 1);
        let nothing = pass.b.filled(ElementType::F32, &dims, -1.0);
        let (mut left, mut chosen) = (probabilities, pass.b.falses(&dims));
        for _ in 0..self.spec.used {
            let (_, best) = left.argmax(1);
            let this = index.equals(over(best));
            chosen = chosen | this;
            left = this.select(nothing, left);
        }
        let zeros = pass.b.filled(ElementType::F32, &dims, 0.0);
        let used = chosen.select(probabilities, zeros);
        let scale = pass.parameter(self.expert_scale).convert(ElementType::F32);
        used / over(used.sum(&[1])) * scale.broadcast(&dims, &[1])
    }

    /// The weights of this device's experts.
    fn own_weights<'b>(&self, pass: &Pass<'_, 'b>, weights: Tensor<'b>) -> Tensor<'b> {
        let Some(first) = pass.first_unit(&self.spec.experts) else {
            return weights;
        };
        let own = self.spec.experts.units_on_device(pass.spec.mesh) as i64;
        let tokens = weights.size(0);
        weights.dynamic_slice(&[pass.b.integer(0), first], &[tokens, own])
    }
}
