//! Attention as a custom call of XLA programs.

use half::bf16;
use half::slice::HalfBitsSliceExt;

use super::super::call::form;
use super::super::pool::Pool;
use super::{Input, Sizes, attend};
use crate::pjrt::{CallResult, CustomCall, Operand};

/// The name that programs call attention by.
///
/// Operands: queries [rows, kv_heads, group, head_dim]; keys and values [rows, kv_heads, cache, head_dim]; a mask s32 [rows, cache];
/// a slot, s32. A row attends to the slots up to that one whose mask is positive. Result: as the queries. Queries and result are
/// float32 or bfloat16, keys and values float32 or the bits of bfloat16 as u16 (see [`crate::model::DeviceTraits::kernels`]). All
/// row-major.
pub const ATTENTION: &str = "gemma_xla_attention";

/// [`ATTENTION`].
pub(in crate::kernel) struct Attention;

impl CustomCall for Attention {
    const TARGET: &'static str = ATTENTION;

    fn call(operands: &[Operand<'_>], results: &mut [CallResult<'_>]) -> Result<(), String> {
        let ([queries, keys, values, mask, slot], [result]) = (operands, results) else {
            return Err("takes five operands and has one result".to_owned());
        };
        let sizes = sizes(queries, keys, values, mask, result)?;
        let mask = mask.as_s32().ok_or("the mask is not s32")?;
        let slot = match slot.as_s32() {
            Some(&[slot]) => usize::try_from(slot).map_err(|_| format!("slot {slot}"))?,
            _ => return Err("the slot is no s32 scalar".to_owned()),
        };
        let form = form()?;
        let unknown = format!(
            "{} over {} and {} is not offered",
            queries.element_type().name(),
            keys.element_type().name(),
            values.element_type().name()
        );
        if let (Some(queries), Some(result)) = (queries.as_f32(), result.as_f32_mut()) {
            let input = Input {
                queries,
                keys: keys.as_f32().ok_or_else(|| unknown.clone())?,
                values: values.as_f32().ok_or(unknown)?,
                mask,
                slot,
            };
            attend::<f32>(Pool::global(), form, sizes, &input, result);
        } else if let (Some(queries), Some(result)) = (queries.as_bf16(), result.as_bf16_mut()) {
            let keys = keys.as_u16().ok_or_else(|| unknown.clone())?;
            let values = values.as_u16().ok_or(unknown)?;
            let input = Input {
                queries,
                keys: keys.reinterpret_cast::<bf16>(),
                values: values.reinterpret_cast::<bf16>(),
                mask,
                slot,
            };
            attend::<bf16>(Pool::global(), form, sizes, &input, result);
        } else {
            return Err(unknown);
        }
        Ok(())
    }
}

/// The sizes of the attention, where the dimensions fit.
fn sizes(
    queries: &Operand<'_>,
    keys: &Operand<'_>,
    values: &Operand<'_>,
    mask: &Operand<'_>,
    result: &CallResult<'_>,
) -> Result<Sizes, String> {
    let fits = result.dims() == queries.dims() && values.dims() == keys.dims();
    let size = |dim: i64| usize::try_from(dim).map_err(|error| error.to_string());
    match (queries.dims(), keys.dims(), mask.dims()) {
        (&[rows, heads, group, dim], &[k_rows, k_heads, cache, k_dim], &[m_rows, m_cache])
            if fits
                && [rows, heads, dim] == [k_rows, k_heads, k_dim]
                && [rows, cache] == [m_rows, m_cache] =>
        {
            Ok(Sizes {
                rows: size(rows)?,
                kv_heads: size(heads)?,
                group: size(group)?,
                cache: size(cache)?,
                head_dim: size(dim)?,
            })
        }
        (queries, keys, mask) => Err(format!(
            "queries {queries:?}, keys {keys:?}, values {:?}, mask {mask:?} and result {:?} do not fit",
            values.dims(),
            result.dims()
        )),
    }
}
