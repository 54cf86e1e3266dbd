//! Operations that kinds of devices do in ways of their own. XLA's way is the default of each; a
//! device with a better one implements the trait beside its kernels, and whoever loads a model
//! chooses.

use std::fmt::Debug;

use hlo::{DotDims, ElementType, Tensor};

use super::nn::{CachedAttention, Heads};
use super::parameters::KernelLayout;
use crate::dtype::DType;

/// What the lowering asks of a kind of device. A choice here changes speed, never what is computed
/// beyond the order of sums.
pub trait Ops: Debug + Send + Sync {
    /// How projection kernels lie in device memory.
    fn kernel_layout(&self) -> KernelLayout;

    /// Rows that a decode step is run with for `rows` rows that are wanted.
    fn decode_rows(&self, compute: DType, rows: usize) -> usize;

    /// The element type that caches are kept in: the compute dtype, or another one for its bits.
    fn cache_type(&self, compute: DType) -> ElementType {
        compute.into()
    }

    /// Options of XLA, by name, that every program is compiled with.
    fn compile_options(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Further options of XLA with which programs round to 16 bits after every operation, as they
    /// are written.
    fn rounding_options(&self, _compute: DType) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The operations of the compared pass: the compiler's own products alone, whose 16-bit results
    /// equal Flax's to the bit.
    fn compared(&self) -> &dyn Ops;

    /// `x` [rows, n] times `w`, both in the compute dtype; dimension `contracting` of `w` has size
    /// n. [rows, m], summed in float32 and rounded to `to`, which is float32 or the compute dtype.
    fn matmul<'b>(
        &self,
        x: Tensor<'b>,
        w: Tensor<'b>,
        contracting: i64,
        to: ElementType,
    ) -> Tensor<'b> {
        let dims = DotDims {
            lhs_contracting: vec![1],
            rhs_contracting: vec![contracting],
            ..DotDims::default()
        };
        // Products of two 16-bit floats are summed in float32 anyway; asking for that result and
        // rounding it afterwards reaches the fast kernels of XLA:CPU, which a 16-bit result does
        // not.
        x.dot(w, dims, ElementType::F32).convert(to)
    }

    /// Rows `ids` \[n\] (s32) of `table`: [n, width].
    fn take_rows<'b>(&self, table: Tensor<'b>, ids: Tensor<'b>) -> Tensor<'b> {
        table.rows(ids)
    }

    /// Attention of one token a row over the caches: [rows, heads · head_dim].
    fn attend_cached<'b>(&self, heads: &Heads, call: CachedAttention<'b>) -> Tensor<'b> {
        heads.attend_cached(call, 1)
    }

    /// The greatest of each row of `x` [rows, n] and its index (s32), the lowest on ties: both
    /// \[rows\].
    fn argmax<'b>(&self, x: Tensor<'b>) -> (Tensor<'b>, Tensor<'b>) {
        x.argmax(1)
    }
}

/// XLA's own operations, arranged for a kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xla {
    kernel_layout: KernelLayout,
    min_rows_16bit: usize,
    /// The fewest rows that each key and value head's queries have in the dots of attention over a
    /// cache.
    min_query_rows: usize,
    compile_options: &'static [(&'static str, &'static str)],
    float16_rounding: &'static [(&'static str, &'static str)],
}

impl Xla {
    /// XLA:CPU reads bfloat16 weights at memory speed only when the contracted dimension is
    /// innermost, and keeps them bfloat16 only for dots of two or more rows: one row is lowered to
    /// a float32 loop whose converted weights are then hoisted out of the decode loop.
    pub const CPU: Self = Self {
        kernel_layout: KernelLayout::OutIn,
        min_rows_16bit: 2,
        min_query_rows: 1,
        compile_options: &[],
        // With AVX512-FP16 it computes in float16 what Flax computes in float32 and rounds.
        float16_rounding: &[("xla_cpu_max_isa", "AVX2")],
    };

    /// A TPU's compiler chooses its own tiled layouts, and sends a dot with a single row to the
    /// vector unit, at more than twice the cost of two rows on the matrix unit. With few query rows
    /// a key and value head it also wants other layouts of the caches inside of the decode loop
    /// than at its entry, and copies all of them at each call; with eight, a sublane's rows, it
    /// does neither.
    pub const TPU: Self = Self {
        kernel_layout: KernelLayout::InOut,
        min_rows_16bit: 2,
        min_query_rows: 8,
        compile_options: &[],
        float16_rounding: &[],
    };

    /// A TPU with one core a chip and 128 MiB of vector memory (v5e, v6e). libtpu lets one operation
    /// use 16 MiB of that. With 64, products read their weights and caches from the chip's memory in
    /// larger pieces, and at the memory's speed; caches then stay where they are, where the compiler
    /// otherwise fetches them to the core and writes them back whole in each step.
    const TPU_LITE: Self = Self {
        compile_options: &[("xla_tpu_scoped_vmem_limit_kib", "65536")],
        ..Self::TPU
    };

    /// A GPU's matrix library takes either layout and any number of rows.
    pub const GPU: Self = Self {
        kernel_layout: KernelLayout::InOut,
        min_rows_16bit: 1,
        min_query_rows: 1,
        compile_options: &[],
        float16_rounding: &[],
    };

    /// The arrangement for a kind of device on a PJRT platform, by the names that the plugin gives
    /// them: `cpu`, `tpu`, `cuda`, …, and `TPU v5 lite`, ….
    pub fn for_device(platform: &str, kind: &str) -> Self {
        let lite = ["lite", "v5e", "v6e"]
            .iter()
            .any(|name| kind.contains(name));
        match platform.to_ascii_lowercase().as_str() {
            "cpu" | "host" => Self::CPU,
            "tpu" if lite => Self::TPU_LITE,
            "tpu" => Self::TPU,
            _ => Self::GPU,
        }
    }
}

impl Ops for Xla {
    fn kernel_layout(&self) -> KernelLayout {
        self.kernel_layout
    }

    fn decode_rows(&self, compute: DType, rows: usize) -> usize {
        match compute {
            DType::F32 => rows,
            DType::F16 | DType::BF16 => rows.max(self.min_rows_16bit),
        }
    }

    fn attend_cached<'b>(&self, heads: &Heads, call: CachedAttention<'b>) -> Tensor<'b> {
        heads.attend_cached(call, self.min_query_rows)
    }

    fn compile_options(&self) -> &'static [(&'static str, &'static str)] {
        self.compile_options
    }

    fn rounding_options(&self, compute: DType) -> &'static [(&'static str, &'static str)] {
        match compute {
            DType::F16 => self.float16_rounding,
            DType::BF16 | DType::F32 => &[],
        }
    }

    fn compared(&self) -> &dyn Ops {
        self
    }
}
