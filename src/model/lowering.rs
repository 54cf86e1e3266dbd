//! What every step of the lowering shares: the builder, the model's parameters as values of the
//! computation, and the projection.

use hlo::{ArrayShape, Builder, DotDims, ElementType, Precision, Shape, Value};

use super::{KernelLayout, ModelSpec, Role};
use crate::config::GemmaConfig;

/// The lowering of one computation. Its parameters are values of that computation: entry parameters
/// outside of the decode loop, elements of the loop's state inside of it.
pub(super) struct Lowering<'a> {
    pub b: &'a Builder,
    pub spec: &'a ModelSpec,
    weights: &'a [Value],
}

impl<'a> Lowering<'a> {
    /// `weights` are in the order of [`ModelSpec::parameters`].
    pub fn new(b: &'a Builder, spec: &'a ModelSpec, weights: &'a [Value]) -> Self {
        Self { b, spec, weights }
    }

    pub fn config(&self) -> &'a GemmaConfig {
        &self.spec.config
    }

    /// The element type of activations.
    pub fn compute(&self) -> ElementType {
        self.spec.compute.into()
    }

    /// The parameter of this name, if the model has it.
    pub fn find_weight(&self, name: &str) -> Option<(Value, Role)> {
        let index = self.spec.parameters.iter().position(|p| p.name == name)?;
        Some((*self.weights.get(index)?, self.spec.parameters[index].role))
    }

    /// The parameter of this name.
    pub fn weight(&self, name: &str) -> hlo::Result<Value> {
        self.find_weight(name)
            .map(|(value, _)| value)
            .ok_or_else(|| hlo::Error::Module {
                module: self.b.name().to_owned(),
                reason: format!("the model has no parameter '{name}'"),
            })
    }

    /// `x` in another element type.
    pub fn convert(&self, x: Value, to: ElementType) -> hlo::Result<Value> {
        if self.b.element_type(x)? == to {
            Ok(x)
        } else {
            self.b.convert(x, to)
        }
    }

    /// A projection: `x` [rows, in] times the kernel at `path` [in, out], plus its bias where there is
    /// one: [rows, out] in the compute dtype. Flax's `Dense` casts input, kernel and bias to that dtype.
    pub fn dense(&self, x: Value, path: &str) -> hlo::Result<Value> {
        let b = self.b;
        let x = self.convert(x, self.compute())?;
        let kernel = self.weight(&format!("{path}/kernel"))?;
        let contracting = match self.spec.device.kernel_layout {
            KernelLayout::InOut => 0,
            KernelLayout::OutIn => 1,
        };
        let y = self.project(x, kernel, contracting)?;
        match self.find_weight(&format!("{path}/bias")) {
            None => Ok(y),
            Some((bias, _)) => {
                let dims = b.dims(y)?;
                b.add(y, b.broadcast(bias, &dims, &[1])?)
            }
        }
    }

    /// `x` [rows, n] times `w`, whose dimension `contracting` has size n: [rows, m] in the compute dtype.
    pub fn project(&self, x: Value, w: Value, contracting: i64) -> hlo::Result<Value> {
        let dims = DotDims {
            lhs_contracting: vec![1],
            rhs_contracting: vec![contracting],
            ..DotDims::default()
        };
        let y = self.dot(x, w, dims)?;
        self.convert(y, self.compute())
    }

    /// A dot with a float32 result. Products of two 16-bit floats are summed in float32 anyway; asking
    /// for that result and rounding it afterwards reaches the fast kernels, which a 16-bit result does not.
    pub fn dot(&self, lhs: Value, rhs: Value, dims: DotDims) -> hlo::Result<Value> {
        self.b
            .dot_general(lhs, rhs, dims, Some(ElementType::F32), Precision::Default)
    }
}

/// The shape of a parameter or result, from sizes that the configuration has checked.
pub(super) fn shape(element_type: ElementType, dims: &[usize]) -> Shape {
    let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
    ArrayShape::new(element_type, &dims).into()
}
