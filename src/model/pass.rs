//! What the modules share while one computation is being built: its builder, the parameters as its
//! values, the device's operations, and what the devices of a mesh tell each other.

use hlo::{BinaryOp, Builder, ElementType, Tensor};

use super::ModelSpec;
use super::ops::Ops;
use super::parameters::ParameterId;
use crate::dtype::DType;
use crate::sharding::Axis;

/// A pass through the model in one computation. Parameters are values of that computation: entry
/// parameters outside of the decode loop, elements of the loop's state inside of it.
pub struct Pass<'a, 'b> {
    /// The computation.
    pub b: &'b Builder,
    /// The model.
    pub spec: &'a ModelSpec,
    /// The device's operations.
    pub ops: &'a dyn Ops,
    parameters: Vec<Tensor<'b>>,
}

impl<'a, 'b> Pass<'a, 'b> {
    /// `parameters` are in the order of [`ModelSpec::parameters`].
    pub fn new(b: &'b Builder, spec: &'a ModelSpec, parameters: Vec<Tensor<'b>>) -> Self {
        Self {
            b,
            spec,
            ops: spec.ops.as_ref(),
            parameters,
        }
    }

    /// The same for the compared pass.
    pub fn compared(self) -> Self {
        Self {
            ops: self.ops.compared(),
            ..self
        }
    }

    /// The value of a parameter.
    pub fn parameter(&self, id: ParameterId) -> Tensor<'b> {
        self.parameters[id.0]
    }

    /// The values of all parameters.
    pub fn parameters(&self) -> &[Tensor<'b>] {
        &self.parameters
    }

    /// The dtype of activations.
    pub fn dtype(&self) -> DType {
        self.spec.compute
    }

    /// The element type of activations.
    pub fn compute(&self) -> ElementType {
        self.spec.compute.into()
    }

    /// Names what `build` adds, for dumps, profiles and errors.
    pub fn scoped<T>(&self, name: &str, build: impl FnOnce() -> T) -> T {
        self.b.scoped(name, build)
    }

    /// Padding ids, s32.
    pub fn padding(&self, dims: &[i64]) -> Tensor<'b> {
        let id = f64::from(self.spec.config.padding_id());
        self.b.filled(ElementType::S32, dims, id)
    }

    fn model_devices(&self) -> usize {
        self.spec.mesh.model
    }

    /// The sum of `x` over the devices of the model axis.
    pub fn sum_over_model(&self, x: Tensor<'b>) -> Tensor<'b> {
        match self.model_devices() {
            1 => x,
            _ => x.all_reduce(BinaryOp::Add, &self.spec.mesh.model_groups()),
        }
    }

    /// The devices' `x` one after another along `dim`, in the order of the model axis.
    pub fn gather_over_model(&self, x: Tensor<'b>, dim: i64) -> Tensor<'b> {
        match self.model_devices() {
            1 => x,
            _ => x.all_gather(dim, &self.spec.mesh.model_groups()),
        }
    }

    /// The groups' rows one after another along dimension 0, in the order of the data axis: results
    /// that the host reads, so that any device has them all. A host of a slice of several reaches
    /// its own devices only.
    pub fn gather_over_data(&self, x: Tensor<'b>) -> Tensor<'b> {
        match self.spec.mesh.data {
            1 => x,
            _ => x.all_gather(0, &self.spec.mesh.data_groups()),
        }
    }

    /// Whether `pred` (a scalar) holds on all devices of the data axis.
    pub fn all_over_data(&self, pred: Tensor<'b>) -> Tensor<'b> {
        match self.spec.mesh.data {
            1 => pred,
            _ => pred
                .convert(ElementType::S32)
                .all_reduce(BinaryOp::Min, &self.spec.mesh.data_groups())
                .convert(ElementType::Pred),
        }
    }

    /// The first unit of an axis that this device holds, a scalar s32; none where there is one
    /// device alone. The axis is split evenly, or padded.
    pub fn first_unit(&self, axis: &Axis) -> Option<Tensor<'b>> {
        let devices = self.model_devices();
        if devices == 1 {
            return None;
        }
        let replica = self.b.replica().convert(ElementType::S32);
        let index = replica % devices as f64;
        Some(index * axis.units_on_device(self.spec.mesh) as f64)
    }

    /// The first row of the vocabulary that this device holds, a scalar s32; none where it holds
    /// them all.
    pub fn vocabulary_offset(&self) -> Option<Tensor<'b>> {
        self.first_unit(&self.spec.gemma.spec().vocabulary)
    }
}
