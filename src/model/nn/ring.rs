//! Caches of layers with a window. Such a layer keeps a window's worth of tokens: its cache is a
//! ring, in which the token at place p of a row lies in slot p mod slots and takes that of the
//! token that has left the window.
//!
//! The place of a token is the slot that it has in a cache of full length: with prompts that are
//! padded on the left, padding has places too.

use hlo::{ElementType, Tensor};

use super::super::pass::Pass;
use super::cache::{LayerCache, as_cached};

/// A ring of as many slots as its layer's window has tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    slots: i64,
}

/// What rows see of a ring.
#[derive(Clone, Copy)]
pub struct RingView<'b> {
    /// Which slots, s32 [rows, slots]: 1, or 0 for one that is not seen.
    pub seen: Tensor<'b>,
    /// The last slot of each row that a token has had, s32 \[rows\].
    pub last: Tensor<'b>,
}

impl Ring {
    /// The ring of a layer with this window among caches of `length`; none where the window is no
    /// shorter than they are.
    pub fn of(window: Option<usize>, length: usize) -> Option<Self> {
        let window = window.filter(|&window| window < length)?;
        Some(Self {
            slots: window as i64,
        })
    }

    /// The slots of the tokens at `places` (s32 of any dimensions).
    pub fn slot<'b>(self, places: Tensor<'b>) -> Tensor<'b> {
        places % self.slots as f64
    }

    /// How far before `last` (s32 \[n\], at least −1) the latest token in each slot is: s32
    /// [n, slots].
    fn distance<'b>(self, last: Tensor<'b>) -> Tensor<'b> {
        let dims = [last.size(0), self.slots];
        let slot = last.builder().indices(&dims, 1);
        let last = last.broadcast(&dims, &[0]);
        (last - slot + self.slots as f64) % self.slots as f64
    }

    /// What rows see whose last tokens are at `places`, after as many tokens as `positions` says,
    /// both s32 \[rows\].
    pub fn view<'b>(self, places: Tensor<'b>, positions: Tensor<'b>) -> RingView<'b> {
        let distance = self.distance(places);
        let dims = distance.dims();
        let seen = distance.at_most(positions.broadcast(&dims, &[0]));
        RingView {
            seen: seen.convert(ElementType::S32),
            last: places.min((self.slots - 1) as f64),
        }
    }

    /// The place of the latest token up to `last` (a scalar s32, at least −1) in each slot,
    /// negative where there was none: s32 \[slots\].
    fn places<'b>(self, last: Tensor<'b>) -> Tensor<'b> {
        let distance = self.distance(last.reshape(&[1])).reshape(&[self.slots]);
        last.everywhere_in(distance) - distance
    }

    /// What each of `chunk` tokens from `start` (a scalar s32) on sees of the ring as it was before
    /// them, and of themselves: pred [batch, chunk, slots + chunk]. `is_token` (pred
    /// [batch, places]) says which places hold no padding; all do where there is none.
    pub fn visible<'b>(
        self,
        [batch, chunk]: [i64; 2],
        start: Tensor<'b>,
        is_token: Option<Tensor<'b>>,
    ) -> Tensor<'b> {
        let b = start.builder();
        let before = self.places(start - 1.0);
        let new = b.indices(&[chunk], 0);
        let new = new + start.everywhere_in(new);
        let keys = before.concat(&[new], 0);
        let dims = [batch, chunk, self.slots + chunk];
        let key = keys.broadcast(&dims, &[2]);
        let query = new.broadcast(&dims, &[1]);
        let in_window = key.at_most(query) & (query - key).less(self.slots as f64);
        let visible = in_window & key.at_least(0.0);
        match is_token {
            None => visible,
            Some(is_token) => visible & is_token.take(1, keys).broadcast(&dims, &[0, 2]),
        }
    }

    /// The ring `old` [batch, kv_heads, slots, head_dim] with new tokens [batch, kv_heads, chunk,
    /// head_dim] from the place `start` on, of which those up to the place `last` count (scalar
    /// s32): the old and the new, one after the other, as [`visible`](Self::visible) has them, and
    /// the ring after them.
    pub fn extend<'b>(
        self,
        pass: &Pass<'_, 'b>,
        old: LayerCache<Tensor<'b>>,
        new: LayerCache<Tensor<'b>>,
        [start, last]: [Tensor<'b>; 2],
    ) -> [LayerCache<Tensor<'b>>; 2] {
        pass.scoped("ring", || {
            let both = LayerCache {
                keys: old.keys.concat(&[as_cached(pass, new.keys)], 2),
                values: old.values.concat(&[as_cached(pass, new.values)], 2),
            };
            let slot = pass.b.indices(&[self.slots], 0);
            let place = self.places(last);
            let from = start.everywhere_in(place);
            let new = place - from + self.slots as f64;
            let source = place.at_least(from).select(new, slot);
            [both, both.map(|_, x| x.take(2, source))]
        })
    }

    /// The ring after a whole prompt `x` [batch, kv_heads, prompt, head_dim] that is longer.
    pub fn of_prompt<'b>(self, x: Tensor<'b>) -> Tensor<'b> {
        let prompt = x.size(2);
        // The first of the tokens that are kept whose slot is 0.
        let first = prompt - prompt % self.slots;
        let wrapped = x.slice(2, prompt - self.slots, first);
        match first - prompt {
            0 => wrapped,
            _ => x.slice(2, first, prompt).concat(&[wrapped], 2),
        }
    }
}

/// Grows what a prefill computed, [batch, kv_heads, prompt, head_dim], to a cache of `rows` rows
/// and that length, with zeros. Of a longer prompt a ring of that length is left.
pub fn fill_cache<'b>(
    pass: &Pass<'_, 'b>,
    cache: LayerCache<Tensor<'b>>,
    rows: usize,
    length: usize,
) -> LayerCache<Tensor<'b>> {
    cache.map(|_, x| {
        let x = as_cached(pass, x);
        let x = match Ring::of(Some(length), x.size(2) as usize) {
            Some(ring) => ring.of_prompt(x),
            None => x,
        };
        let [batch, _, prompt, _] = x.sizes();
        match [rows as i64 - batch, 0, length as i64 - prompt, 0] {
            [0, 0, 0, 0] => x,
            high => x.pad_high(&high),
        }
    })
}
