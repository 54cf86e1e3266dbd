//! The model's operations by the CPU's kernels, where they are faster than XLA:CPU's.

use hlo::{ArrayShape, CustomCallOptions, ElementType, Shape, Tensor};

use super::{ARGMAX, ATTENTION, MATMUL, TAKE_ROWS, TOP_K};
use crate::dtype::DType;
use crate::model::{CachedAttention, Heads, KernelLayout, Ops, Place, Xla};

/// Rows up to which the kernel is faster than XLA:CPU's own product of bfloat16, measured with
/// `examples/kernel.rs`: by a quarter at this many, and level at 256. In float32 it is more than
/// twice as fast from two rows on.
const MOST_BF16_ROWS: i64 = 64;

/// The operations of a CPU whose plugin knows the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOps;

/// Those of the compared pass: XLA's products, and rows by the kernel, which copies them as they
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compared;

impl Ops for CpuOps {
    fn kernel_layout(&self) -> KernelLayout {
        Xla::CPU.kernel_layout()
    }

    fn decode_rows(&self, compute: DType, rows: usize) -> usize {
        match compute {
            // One row is as good as two here: the kernel keeps the weights bfloat16.
            DType::F32 | DType::BF16 => rows,
            DType::F16 => Xla::CPU.decode_rows(compute, rows),
        }
    }

    /// XLA:CPU widens bfloat16 arrays whole for most operations but dots, so a cache is kept as the
    /// bits of its numbers, u16, which it leaves alone.
    fn cache_type(&self, compute: DType) -> ElementType {
        match compute {
            DType::BF16 => ElementType::U16,
            DType::F16 | DType::F32 => compute.into(),
        }
    }

    fn rounding_options(&self, compute: DType) -> &'static [(&'static str, &'static str)] {
        Xla::CPU.rounding_options(compute)
    }

    fn compared(&self) -> &dyn Ops {
        &Compared
    }

    fn matmul<'b>(
        &self,
        x: Tensor<'b>,
        w: Tensor<'b>,
        contracting: i64,
        to: ElementType,
    ) -> Tensor<'b> {
        let rows = x.size(0);
        let faster = match x.element_type() {
            ElementType::BF16 => rows <= MOST_BF16_ROWS,
            ElementType::F32 => rows >= 2,
            _ => false,
        };
        if !faster || contracting != 1 {
            return Xla::CPU.matmul(x, w, contracting, to);
        }
        let result = ArrayShape::new(to, &[rows, w.size(0)]);
        row_major(x, MATMUL, &[w], result, String::new())
    }

    fn take_rows<'b>(&self, table: Tensor<'b>, ids: Tensor<'b>) -> Tensor<'b> {
        let result = ArrayShape::new(table.element_type(), &[ids.size(0), table.size(1)]);
        row_major(table, TAKE_ROWS, &[ids], result, String::new())
    }

    fn attend_cached<'b>(&self, heads: &Heads, call: CachedAttention<'b>) -> Tensor<'b> {
        if heads.compute == DType::F16 {
            return heads.attend_cached(call, 1);
        }
        let [rows, _, count, head_dim] = call.queries.sizes();
        let [_, kv_heads, slots, _] = call.cache.keys.sizes();
        let (slot, key_mask) = match (call.ring, call.place) {
            (Some(ring), _) => (ring.last, ring.seen),
            (None, Place::Shared { slot, key_mask }) => (slot, key_mask),
            (None, Place::Own { slots: own }) => {
                let b = own.builder();
                (own, b.filled(ElementType::S32, &[rows, slots], 1.0))
            }
        };
        let dims = [rows, kv_heads, count / kv_heads, head_dim];
        let queries = call.queries.reshape(&dims);
        let operands = [call.cache.keys, call.cache.values, key_mask, slot];
        let result = ArrayShape::new(heads.compute.into(), &dims);
        row_major(
            queries,
            ATTENTION,
            &operands,
            result,
            attributes(heads, head_dim),
        )
        .reshape(&[rows, count * head_dim])
    }

    fn argmax<'b>(&self, x: Tensor<'b>) -> (Tensor<'b>, Tensor<'b>) {
        if x.element_type() == ElementType::F16 {
            return x.argmax(1);
        }
        let rows = x.size(0);
        let results = Shape::Tuple(vec![
            Shape::array(x.element_type(), &[rows]),
            Shape::array(ElementType::S32, &[rows]),
        ]);
        let both = row_major(x, ARGMAX, &[], results, String::new());
        (both.element(0), both.element(1))
    }

    fn top_k<'b>(&self, x: Tensor<'b>, k: i64) -> (Tensor<'b>, Tensor<'b>) {
        if x.element_type() == ElementType::F16 {
            return Xla::CPU.top_k(x, k);
        }
        let rows = x.size(0);
        let results = Shape::Tuple(vec![
            Shape::array(x.element_type(), &[rows, k]),
            Shape::array(ElementType::S32, &[rows, k]),
        ]);
        let both = row_major(x, TOP_K, &[], results, String::new());
        (both.element(0), both.element(1))
    }
}

/// Calls a kernel. Its arrays are row-major, and that is binding: without it the compiler gives a
/// result the layout that its user prefers, and a kernel does not know of that.
fn row_major<'b>(
    x: Tensor<'b>,
    target: &str,
    others: &[Tensor<'b>],
    result: impl Into<Shape>,
    backend_config: String,
) -> Tensor<'b> {
    let operands = std::iter::once(&x).chain(others);
    let layouts = operands.map(|operand| operand.shape().map(Shape::from));
    let options = CustomCallOptions {
        backend_config,
        operand_layouts: layouts.collect(),
        ..CustomCallOptions::default()
    };
    x.custom_call(target, others, result, options)
}

/// What attention is to do otherwise than by default.
fn attributes(heads: &Heads, head_dim: i64) -> String {
    let mut attributes = Vec::new();
    if let Some(window) = heads.window {
        attributes.push(format!("window = {window} : i64"));
    }
    if let Some(cap) = heads.score_cap {
        attributes.push(format!("softcap = {cap:.9e} : f32"));
    }
    if heads.score_divisor != (head_dim as f64).sqrt() {
        attributes.push(format!("scale = {:.9e} : f32", 1.0 / heads.score_divisor));
    }
    match attributes.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", attributes.join(", ")),
    }
}

impl Ops for Compared {
    fn kernel_layout(&self) -> KernelLayout {
        CpuOps.kernel_layout()
    }

    fn decode_rows(&self, compute: DType, rows: usize) -> usize {
        CpuOps.decode_rows(compute, rows)
    }

    fn cache_type(&self, compute: DType) -> ElementType {
        CpuOps.cache_type(compute)
    }

    fn compared(&self) -> &dyn Ops {
        self
    }

    fn take_rows<'b>(&self, table: Tensor<'b>, ids: Tensor<'b>) -> Tensor<'b> {
        CpuOps.take_rows(table, ids)
    }
}
