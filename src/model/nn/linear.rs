//! Projections.

use hlo::{ElementType, Tensor};

use super::super::parameters::{KernelLayout, ParameterId, Part, Role, Scope};
use super::super::pass::Pass;
use crate::sharding::{Axis, Split};

/// `x · kernel + bias`, as Flax's `Dense`: input, kernel and bias are cast to the compute dtype,
/// and so is the result.
#[derive(Clone, Debug)]
pub struct Linear {
    name: String,
    kernel: ParameterId,
    bias: Option<ParameterId>,
    /// Whether each device has a part of the inputs alone, so that devices have to add what they
    /// computed.
    summed: bool,
}

impl Linear {
    /// The kernel's place among the model's parameters.
    pub fn kernel(&self) -> ParameterId {
        self.kernel
    }

    /// The projection that `scope` calls `name`, from `input` to `output`; `deepmind` says what it
    /// is in DeepMind's tree.
    pub(in crate::model) fn new(
        scope: &Scope<'_>,
        name: &str,
        [input, output]: [Axis; 2],
        bias: bool,
        deepmind: &[(&str, Part)],
    ) -> Self {
        let scope = scope.child(name, "");
        let mut kernel = scope
            .parameter("kernel", &[input, output], Role::Kernel)
            .pytorch("weight", "o i", "i o");
        for (name, part) in deepmind {
            kernel = kernel.deepmind(name, *part);
        }
        Self {
            name: name.to_owned(),
            kernel: kernel.id,
            bias: bias.then(|| scope.parameter("bias", &[output], Role::Bias).id),
            summed: input.split != Split::Whole,
        }
    }

    /// `x` [rows, in]: [rows, out] in the compute dtype. Over a model axis, each device gives its
    /// share of the outputs.
    ///
    /// Where the inputs are split, the devices' partial sums are added in float32, before the
    /// rounding to the compute dtype, so that the result is rounded once as on one device.
    pub fn forward<'b>(&self, pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
        pass.scoped(&self.name, || {
            let contracting = match pass.ops.kernel_layout() {
                KernelLayout::InOut => 0,
                KernelLayout::OutIn => 1,
            };
            let x = x.convert(pass.compute());
            let kernel = pass.parameter(self.kernel);
            let mut y = pass.ops.matmul(x, kernel, contracting, ElementType::F32);
            if self.summed {
                y = pass.sum_over_model(y);
            }
            let y = y.convert(pass.compute());
            match self.bias {
                Some(bias) => y + pass.parameter(bias).broadcast(&y.dims(), &[1]),
                None => y,
            }
        })
    }
}
