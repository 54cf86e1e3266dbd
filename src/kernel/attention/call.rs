//! Attention as a custom call of XLA programs.

use std::num::NonZero;

use half::bf16;
use half::slice::HalfBitsSliceExt;

use super::super::pool::Pool;
use super::super::switch::instruction_set;
use super::{AttentionSizes, Input, Variant, attend};
use crate::pjrt::{Attributes, CallResult, CustomCall, Operand};

/// The name that programs call attention by.
///
/// Operands: queries [rows, kv_heads, group, head_dim]; keys and values
/// [rows, kv_heads, cache, head_dim]; a mask s32 [rows, cache]; the slot of the rows' tokens, s32
/// [] for all rows or s32 \[rows\] for each, not negative. A row attends to the slots up to its own
/// whose mask is positive; a row without any gives zeros. Result: as the queries. Queries and
/// result are float32 or bfloat16, keys and values float32 or the bits of bfloat16 as u16 (see
/// [`crate::model::Ops::cache_type`]). All row-major.
///
/// Attributes, which may be left out:
/// - `window`, i64: a row at slot p sees the key at slot j only if p - j < window; 0, the default,
///   means no window;
/// - `softcap`, f32: scores become softcap · tanh(score / softcap) after the scale and before the
///   mask; 0, the default, leaves them as they are;
/// - `scale`, f32: the factor on scores. Without it, they are divided by √head_dim. Either is
///   applied to queries of float32 before the product, and to the scores of bfloat16 queries after
///   it.
pub const ATTENTION: &str = "gemma_xla_attention";

/// [`ATTENTION`].
pub(in crate::kernel) struct AttentionCall;

impl CustomCall for AttentionCall {
    const TARGET: &'static str = ATTENTION;

    fn call(
        attributes: &Attributes<'_>,
        operands: &[Operand<'_>],
        results: &mut [CallResult<'_>],
    ) -> Result<(), String> {
        let variant = variant(attributes)?;
        let ([queries, keys, values, mask, slots], [result]) = (operands, results) else {
            return Err("takes five operands and has one result".to_owned());
        };
        let sizes = sizes(queries, keys, values, mask, result)?;
        let mask = mask.as_s32().ok_or("the mask is not s32")?;
        let slots = &of_rows(slots, sizes.rows)?;
        let instructions = instruction_set()?;
        let unknown = format!(
            "{} over {} and {} is not supported",
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
                slots,
                variant,
            };
            attend::<f32>(Pool::global(), instructions, sizes, &input, result);
        } else if let (Some(queries), Some(result)) = (queries.as_bf16(), result.as_bf16_mut()) {
            let keys = keys.as_u16().ok_or_else(|| unknown.clone())?;
            let values = values.as_u16().ok_or(unknown)?;
            let input = Input {
                queries,
                keys: keys.reinterpret_cast::<bf16>(),
                values: values.reinterpret_cast::<bf16>(),
                mask,
                slots,
                variant,
            };
            attend::<bf16>(Pool::global(), instructions, sizes, &input, result);
        } else {
            return Err(unknown);
        }
        Ok(())
    }
}

/// What the attributes ask for.
fn variant(attributes: &Attributes<'_>) -> Result<Variant, String> {
    attributes.only(&["window", "softcap", "scale"])?;
    let window = attributes.i64("window")?.unwrap_or(0);
    let softcap = attributes.f32("softcap")?.unwrap_or(0.0);
    let scale = attributes.f32("scale")?;
    if !(softcap >= 0.0 && softcap.is_finite()) {
        return Err(format!("softcap {softcap} is not a positive number or 0"));
    }
    if let Some(scale) = scale.filter(|scale| !scale.is_finite()) {
        return Err(format!("scale {scale} is not a number"));
    }
    Ok(Variant {
        window: NonZero::new(
            usize::try_from(window).map_err(|_| format!("window {window} is negative"))?,
        ),
        softcap: (softcap > 0.0).then_some(softcap),
        scale,
    })
}

/// The slot of each row.
fn of_rows(slots: &Operand<'_>, rows: usize) -> Result<Vec<usize>, String> {
    let checked = |slot: i32| usize::try_from(slot).map_err(|_| format!("slot {slot} is negative"));
    match (slots.as_s32(), slots.dims()) {
        (Some(&[slot]), []) => Ok(vec![checked(slot)?; rows]),
        (Some(slots), [_]) if slots.len() == rows => slots.iter().copied().map(checked).collect(),
        _ => Err(format!(
            "the slots are {}{:?}, not s32[] or s32[{rows}]",
            slots.element_type().name(),
            slots.dims()
        )),
    }
}

/// The sizes of the attention, where the dimensions fit.
fn sizes(
    queries: &Operand<'_>,
    keys: &Operand<'_>,
    values: &Operand<'_>,
    mask: &Operand<'_>,
    result: &CallResult<'_>,
) -> Result<AttentionSizes, String> {
    let fits = result.dims() == queries.dims() && values.dims() == keys.dims();
    let size = |dim: i64| usize::try_from(dim).map_err(|error| error.to_string());
    match (queries.dims(), keys.dims(), mask.dims()) {
        (&[rows, heads, group, dim], &[k_rows, k_heads, cache, k_dim], &[m_rows, m_cache])
            if fits
                && [rows, heads, dim] == [k_rows, k_heads, k_dim]
                && [rows, cache] == [m_rows, m_cache] =>
        {
            Ok(AttentionSizes {
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
