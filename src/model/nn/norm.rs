//! RMSNorm (Zhang and Sennrich, 2019) with Gemma's `1 + weight`.

use hlo::{ElementType, Tensor};

use super::super::parameters::{ParameterId, Part, Role, Scope};
use super::super::pass::Pass;
use crate::sharding::Axis;

/// `(1 + weight) · x / √(mean(x²) + epsilon)` over the last axis.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    name: String,
    weight: ParameterId,
    epsilon: f64,
}

impl RmsNorm {
    /// The norm that `scope` calls `name`, over `width`; DeepMind calls it `deepmind`.
    pub(in crate::model) fn new(
        scope: &Scope<'_>,
        name: &str,
        width: Axis,
        epsilon: f64,
        deepmind: &str,
    ) -> Self {
        // The letter of the axis tells the width of the residual stream from that of a head.
        let axes = match width.over {
            "head" => "h",
            _ => "d",
        };
        let weight = scope
            .child(name, deepmind)
            .parameter("weight", &[width], Role::Norm)
            .deepmind("scale", Part::whole(axes, axes));
        Self {
            name: name.to_owned(),
            weight: weight.id,
            epsilon,
        }
    }

    /// Normalises `x` […, width].
    ///
    /// `(1 + w) · cast(x / √(mean(x²) + eps))`: mean, root and division in float32, the cast to the
    /// compute dtype, the sum in the weight's own dtype. A float32 weight makes the result float32
    /// even where the compute dtype has 16 bits.
    pub fn forward<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        pass.scoped(&self.name, || {
            let dims = x.dims();
            let last = dims.len().saturating_sub(1);
            let before: Vec<i64> = (0..last as i64).collect();
            let x = x.convert(ElementType::F32);
            let mean = (x * x).sum(&[last as i64]) / x.size(last) as f64;
            let root = (mean + self.epsilon).sqrt();
            let normed = (x / root.broadcast(&dims, &before)).convert(pass.compute());

            let scale = 1.0 + pass.parameter(self.weight);
            let to = match scale.element_type() {
                same if same == pass.compute() => same,
                // Two different float types promote to float32.
                _ => ElementType::F32,
            };
            scale.convert(to).broadcast(&dims, &[last as i64]) * normed.convert(to)
        })
    }
}
