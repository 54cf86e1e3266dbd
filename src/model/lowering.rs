//! What every step of the lowering shares: the builder, the model's parameters as values of the
//! computation, and the projection.

use hlo::{ArrayShape, Builder, CustomCallOptions, DotDims, ElementType, Precision, Shape, Value};

use super::{KernelLayout, ModelSpec};
use crate::config::GemmaConfig;
use crate::dtype::DType;
use crate::kernel;

/// Rows up to which the kernel is faster than XLA:CPU's own product of bfloat16, measured with `examples/kernel.rs`: by a quarter at this
/// many, and level at 256. In float32 it is more than twice as fast from two rows on.
const MOST_KERNEL_ROWS: i64 = 64;

/// The lowering of one computation. Its parameters are values of that computation: entry parameters
/// outside of the decode loop, elements of the loop's state inside of it.
pub(super) struct Lowering<'a> {
    pub b: &'a Builder,
    pub spec: &'a ModelSpec,
    weights: &'a [Value],
    /// Whether the device's kernels that compute are called where they are faster.
    kernels: bool,
}

impl<'a> Lowering<'a> {
    /// `weights` are in the order of [`ModelSpec::parameters`].
    pub fn new(b: &'a Builder, spec: &'a ModelSpec, weights: &'a [Value]) -> Self {
        Self {
            b,
            spec,
            weights,
            kernels: spec.device.kernels,
        }
    }

    /// The same with the compiler's own products alone, for the compared pass: in 16 bits they are Flax's to the bit, as far as seen.
    pub fn for_comparing(b: &'a Builder, spec: &'a ModelSpec, weights: &'a [Value]) -> Self {
        Self {
            kernels: false,
            ..Self::new(b, spec, weights)
        }
    }

    pub fn config(&self) -> &'a GemmaConfig {
        &self.spec.config
    }

    /// The element type of activations.
    pub fn compute(&self) -> ElementType {
        self.spec.compute.into()
    }

    /// The parameter of this name, if the model has it.
    pub fn find_weight(&self, name: &str) -> Option<Value> {
        let index = self.spec.parameters.iter().position(|p| p.name == name)?;
        self.weights.get(index).copied()
    }

    /// The parameter of this name.
    pub fn weight(&self, name: &str) -> hlo::Result<Value> {
        self.find_weight(name).ok_or_else(|| hlo::Error::Module {
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
    ///
    /// Over a model axis, each device gives its share of the outputs.
    pub fn dense(&self, x: Value, path: &str) -> hlo::Result<Value> {
        let y = self.matmul(x, path)?;
        self.add_bias(self.convert(y, self.compute())?, path)
    }

    /// A projection whose inputs are split over the model axis: the devices' partial sums are added in float32, before the
    /// rounding to the compute dtype, so that the result is rounded once as on one device.
    pub fn dense_summed(&self, x: Value, path: &str) -> hlo::Result<Value> {
        let y = self.sum_over_model(self.matmul(x, path)?)?;
        self.add_bias(self.convert(y, self.compute())?, path)
    }

    /// `x` [rows, in] times the kernel at `path`: [rows, out] in float32.
    fn matmul(&self, x: Value, path: &str) -> hlo::Result<Value> {
        let kernel = self.weight(&format!("{path}/kernel"))?;
        let contracting = match self.spec.device.kernel_layout {
            KernelLayout::InOut => 0,
            KernelLayout::OutIn => 1,
        };
        self.project(x, kernel, contracting, ElementType::F32)
    }

    fn add_bias(&self, y: Value, path: &str) -> hlo::Result<Value> {
        let b = self.b;
        match self.find_weight(&format!("{path}/bias")) {
            None => Ok(y),
            Some(bias) => {
                let dims = b.dims(y)?;
                b.add(y, b.broadcast(bias, &dims, &[1])?)
            }
        }
    }

    /// `x` [rows, n], cast to the compute dtype, times `w`, whose dimension `contracting` has size n: [rows, m], summed in float32 and
    /// rounded to `to`, which is float32 or the compute dtype.
    pub fn project(
        &self,
        x: Value,
        w: Value,
        contracting: i64,
        to: ElementType,
    ) -> hlo::Result<Value> {
        let x = self.convert(x, self.compute())?;
        let rows = self.b.dims(x)?[0];
        if self.kernel_takes(rows, contracting) {
            let result = ArrayShape::new(to, &[rows, self.b.dims(w)?[0]]);
            let options = CustomCallOptions::default();
            return self.b.custom_call(kernel::MATMUL, &[x, w], result, options);
        }
        let dims = DotDims {
            lhs_contracting: vec![1],
            rhs_contracting: vec![contracting],
            ..DotDims::default()
        };
        self.convert(self.dot(x, w, dims)?, to)
    }

    /// Whether the device's programs can call the functions of [`crate::kernel`] in the compute dtype, and may.
    pub fn has_kernels(&self) -> bool {
        self.kernels && self.spec.compute != DType::F16
    }

    /// Whether the device's kernel is there for such a product and faster than its compiler's dot.
    fn kernel_takes(&self, rows: i64, contracting: i64) -> bool {
        let faster = match self.spec.compute {
            DType::BF16 => rows <= MOST_KERNEL_ROWS,
            DType::F32 => rows >= 2,
            DType::F16 => false,
        };
        self.has_kernels() && contracting == 1 && faster
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
