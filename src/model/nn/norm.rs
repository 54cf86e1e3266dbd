//! RMSNorm (Zhang and Sennrich, 2019) with Gemma's `1 + weight`, or `weight` in Gemma 4.

use hlo::{ElementType, Tensor};

use super::super::parameters::{ParameterId, Part, Role, Scope};
use super::super::pass::Pass;
use super::super::spec::{NormRounding, NormSpec};
use crate::sharding::Axis;

/// `(offset + weight) · x / √(mean(x²) + epsilon)` over the last axis; without the factor where
/// there is no weight.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    name: String,
    weight: Option<ParameterId>,
    spec: NormSpec,
}

impl RmsNorm {
    /// The norm that `scope` calls `name`, over `width`; DeepMind calls it one of
    /// `deepmind`.
    pub(in crate::model) fn new(
        scope: &Scope<'_>,
        name: &str,
        width: Axis,
        spec: NormSpec,
        deepmind: &[&str],
    ) -> Self {
        // The letter of the axis tells the width of the residual stream from others.
        let axes = match width.over {
            "head" => "h",
            "input of a layer" => "p",
            _ => "d",
        };
        let place = scope.child(name, "");
        let mut weight = place.parameter("weight", &[width], Role::Norm);
        for deepmind in deepmind {
            weight = weight.deepmind(&format!("{deepmind}/scale"), Part::whole(axes, axes));
        }
        Self {
            weight: Some(weight.id),
            ..Self::unweighted(name, spec)
        }
    }

    /// A norm without weights.
    pub fn unweighted(name: &str, spec: NormSpec) -> Self {
        Self {
            name: name.to_owned(),
            weight: None,
            spec,
        }
    }

    /// Normalises `x` […, width].
    ///
    /// Mean, root and division are in float32. Rounded once, the rest is too, and the result is in
    /// the compute dtype.
    ///
    /// As Flax has it, `(1 + w) · cast(x / √(mean(x²) + eps))`: the cast is to the compute dtype,
    /// the sum in the weight's own dtype. A float32 weight makes the result float32 even where the
    /// compute dtype has 16 bits.
    pub fn forward<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        pass.scoped(&self.name, || {
            let dims = x.dims();
            let last = dims.len().saturating_sub(1);
            let before: Vec<i64> = (0..last as i64).collect();
            let x = x.convert(ElementType::F32);
            let mean = (x * x).sum(&[last as i64]) / x.size(last) as f64;
            let root = (mean + self.spec.epsilon).sqrt();
            let normed = x / root.broadcast(&dims, &before);
            let Some(weight) = self.weight else {
                return normed.convert(pass.compute());
            };
            let weight = pass.parameter(weight);
            let shifted = |weight: Tensor<'b>| match self.spec.offset {
                0.0 => weight,
                offset => offset + weight,
            };
            if self.spec.rounding == NormRounding::Once {
                let scale = shifted(weight.convert(ElementType::F32));
                let scale = scale.broadcast(&dims, &[last as i64]);
                return (scale * normed).convert(pass.compute());
            }
            let normed = normed.convert(pass.compute());
            let scale = shifted(weight);
            let to = match scale.element_type() {
                same if same == pass.compute() => same,
                // Two different float types promote to float32.
                _ => ElementType::F32,
            };
            scale.convert(to).broadcast(&dims, &[last as i64]) * normed.convert(to)
        })
    }
}
