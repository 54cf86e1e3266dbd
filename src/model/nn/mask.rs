//! Which tokens queries see: masks of predicates, and the additive masks that scores get.

use hlo::{ElementType, Tensor};

use super::super::spec::GemmaSpec;
use crate::dtype::DType;

/// Where a mask of tokens (s32, 1 for a token and 0 for padding) has a token: pred.
pub fn is_token(mask: Tensor<'_>) -> Tensor<'_> {
    mask.greater(0.0)
}

/// The mask of a whole prompt, [batch, length, length] (pred): a query sees the keys that are not
/// padding, not after it, and within the window. `attention_mask` [batch, length] is s32, 1 for a
/// token and 0 for padding.
pub fn causal_mask(attention_mask: Tensor<'_>, window: Option<usize>) -> Tensor<'_> {
    let b = attention_mask.builder();
    let [batch, length] = attention_mask.sizes();
    let dims = [batch, length, length];
    let (query, key) = (b.indices(&dims, 1), b.indices(&dims, 2));
    let causal = within(window, query, key, query.at_least(key));
    causal & is_token(attention_mask).broadcast(&dims, &[0, 2])
}

/// Where `visible` holds and a key at `key` is in the window of a query at `query`, all of the same
/// dimensions: fewer than `window` before it.
pub fn within<'b>(
    window: Option<usize>,
    query: Tensor<'b>,
    key: Tensor<'b>,
    visible: Tensor<'b>,
) -> Tensor<'b> {
    match window {
        None => visible,
        Some(window) => visible & (query - key).less(window as f64),
    }
}

/// The additive masks of a pass, one for each window that layers have.
pub struct Masks<'b>(Vec<(Option<usize>, Tensor<'b>)>);

impl<'b> Masks<'b> {
    /// Those of a model, of the tokens that `visible` (pred) says for a window.
    pub fn new(
        gemma: &GemmaSpec,
        compute: DType,
        visible: impl Fn(Option<usize>) -> Tensor<'b>,
    ) -> Self {
        Self::biased(Self::by_window(gemma, visible), compute)
    }

    /// What `visible` (pred) says for each window of a model.
    pub fn by_window(
        gemma: &GemmaSpec,
        visible: impl Fn(Option<usize>) -> Tensor<'b>,
    ) -> Vec<(Option<usize>, Tensor<'b>)> {
        let windows = gemma.windows().into_iter();
        windows.map(|window| (window, visible(window))).collect()
    }

    /// Those of what is visible by window.
    pub fn biased(visible: Vec<(Option<usize>, Tensor<'b>)>, compute: DType) -> Self {
        let visible = visible.into_iter();
        Self(
            visible
                .map(|(window, visible)| (window, mask_bias(visible, compute)))
                .collect(),
        )
    }

    /// The mask of layers with this window, [batch, length, keys] in float32.
    pub fn of(&self, window: Option<usize>) -> Tensor<'b> {
        let mut found = self.0.iter().filter(|(known, _)| *known == window);
        let (_, bias) = found.next().expect("every layer's window has a mask");
        *bias
    }
}

/// The additive bias of a mask (pred): 0 where it holds, else the lowest finite value of the
/// compute dtype, in float32.
pub fn mask_bias(mask: Tensor<'_>, compute: DType) -> Tensor<'_> {
    let lowest = match compute {
        DType::F32 => f32::MIN,
        DType::F16 => half::f16::MIN.to_f32(),
        DType::BF16 => half::bf16::MIN.to_f32(),
    };
    let full = |value| mask.builder().filled(ElementType::F32, &mask.dims(), value);
    mask.select(full(0.0), full(f64::from(lowest)))
}
