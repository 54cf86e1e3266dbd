//! MaxText's trees of Gemma 1, 2 and 3, as views by Flax's names.
//!
//! MaxText stores no array transposed, but some with other values than DeepMind's: norms with one
//! added, the query projection of Gemma 1 and 2 divided by √head_dim, the embedding multiplied by
//! √hidden_size. That is undone in float32, as elements are read. With scanned layers one array has
//! all layers along an axis of its own, of which each layer is a slice.
//!
//! <https://github.com/AI-Hypercomputer/maxtext>, `convert_gemma_chkpt.py`,
//! `convert_gemma2_chkpt.py`, `convert_gemma3_chkpt.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::checkpoint::transform::Transform;
use crate::checkpoint::{Error, Result, Tensor};
use crate::config::MAX_LAYERS;

/// Names by which a tree is known, below `params/`.
const EMBEDDING: &str = "token_embedder/embedding";
const FINAL_NORM: &str = "decoder/decoder_norm/scale";
/// The axis of the layers where sizes do not tell: MaxText's `param_scan_axis`.
const SCAN_AXIS: usize = 1;
/// The rows of the embedding of Gemma 1 and 2 as DeepMind stores it, and how many of them are
/// tokens.
const PADDED_ROWS: usize = 256_128;
const VOCABULARY: usize = 256_000;

/// Tensors by name.
type Tensors = BTreeMap<Arc<str>, Tensor>;

/// How the dimensions of an array are to be joined.
#[derive(Clone, Copy)]
enum Join {
    Nothing,
    /// [heads, head, width] is [heads · head, width].
    First,
    /// [width, heads, head] is [width, heads · head].
    Last,
}

/// What is done to an array's values.
#[derive(Clone, Copy)]
enum Change {
    Nothing,
    /// A norm's scale has one added.
    Norm,
    /// A query projection, of dimensions [width, heads, head], is divided by the root of the last.
    Query,
}

/// An array of a layer: its name in MaxText and in Flax, its number of dimensions, and what to do
/// with it.
struct Part {
    theirs: &'static str,
    ours: &'static str,
    rank: usize,
    join: Join,
    change: Change,
}

const fn part(
    theirs: &'static str,
    ours: &'static str,
    rank: usize,
    join: Join,
    change: Change,
) -> Part {
    Part {
        theirs,
        ours,
        rank,
        join,
        change,
    }
}

/// The arrays of a layer that all Gemmas have.
#[rustfmt::skip]
const PARTS: [Part; 10] = [
    part("pre_self_attention_norm/scale",    "input_layernorm/weight",  1, Join::Nothing, Change::Norm),
    part("self_attention/query/kernel",      "self_attn/q_proj/kernel", 3, Join::Last,    Change::Query),
    part("self_attention/key/kernel",        "self_attn/k_proj/kernel", 3, Join::Last,    Change::Nothing),
    part("self_attention/value/kernel",      "self_attn/v_proj/kernel", 3, Join::Last,    Change::Nothing),
    part("self_attention/out/kernel",        "self_attn/o_proj/kernel", 3, Join::First,   Change::Nothing),
    part("self_attention/query_norm/scale",  "self_attn/q_norm/weight", 1, Join::Nothing, Change::Norm),
    part("self_attention/key_norm/scale",    "self_attn/k_norm/weight", 1, Join::Nothing, Change::Norm),
    part("mlp/wi_0/kernel",                  "mlp/gate_proj/kernel",    2, Join::Nothing, Change::Nothing),
    part("mlp/wi_1/kernel",                  "mlp/up_proj/kernel",      2, Join::Nothing, Change::Nothing),
    part("mlp/wo/kernel",                    "mlp/down_proj/kernel",    2, Join::Nothing, Change::Nothing),
];

/// The norm before the MLP in a layer of two norms (Gemma 1).
#[rustfmt::skip]
const TWO_NORMS: [Part; 1] = [
    part("pre_ffw_norm/scale",             "post_attention_layernorm/weight",   1, Join::Nothing, Change::Norm),
];

/// The norms in a layer of four (Gemma 2 and 3).
#[rustfmt::skip]
const FOUR_NORMS: [Part; 3] = [
    part("post_self_attention_norm/scale", "post_attention_layernorm/weight",   1, Join::Nothing, Change::Norm),
    part("pre_ffw_norm/scale",             "pre_feedforward_layernorm/weight",  1, Join::Nothing, Change::Norm),
    part("post_ffw_norm/scale",            "post_feedforward_layernorm/weight", 1, Join::Nothing, Change::Norm),
];

/// What a configuration says of the model, where there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::checkpoint) struct Sizes {
    /// The number of tokens: rows of the embedding beyond these are padding.
    pub(in crate::checkpoint) vocabulary: Option<usize>,
}

/// The tensors by Flax's names and with Flax's values, as views of MaxText's; nothing where they
/// are not MaxText's. Tensors that no rule names stay as they are.
///
/// # Errors
/// Where a tensor has a known name, and a shape that does not belong to it.
pub(in crate::checkpoint) fn canonical(stored: &Tensors, sizes: Sizes) -> Result<Option<Tensors>> {
    let Some(tree) = Tree::new(stored) else {
        return Ok(None);
    };
    let mut tensors = Tensors::new();
    for (name, tensor) in &tree.plain {
        let views = match *name {
            EMBEDDING => {
                let root = (tree.width as f32).sqrt();
                let cut = without_padding(tensor, sizes)?;
                let name = "model/embed_tokens/embedding".to_owned();
                vec![(name, cut.transformed(Transform::Divide(root)))]
            }
            FINAL_NORM => {
                let name = "model/norm/weight".to_owned();
                vec![(name, tensor.transformed(Transform::Add(-1.0)))]
            }
            _ => tree.layers_of(name, tensor)?,
        };
        let kept = views.is_empty().then(|| (*tensor).clone());
        let renamed = views
            .into_iter()
            .map(|(name, view)| view.renamed(name.into()));
        for view in renamed.chain(kept) {
            crate::checkpoint::names::insert(&mut tensors, view)?;
        }
    }
    Ok(Some(tensors))
}

/// The embedding without the rows that only pad it.
///
/// # Errors
/// None: the part that is taken exists.
pub(in crate::checkpoint) fn without_padding(tensor: &Tensor, sizes: Sizes) -> Result<Tensor> {
    let rows = tensor.shape().first().copied().unwrap_or_default();
    let padding = PADDED_ROWS - VOCABULARY;
    let wanted = match sizes.vocabulary {
        Some(wanted) if wanted < rows && rows - wanted <= padding => wanted,
        None if rows == PADDED_ROWS => VOCABULARY,
        _ => return Ok(tensor.clone()),
    };
    tensor.slice(0, 0..wanted)
}

/// What is known of a tree from its names.
struct Tree<'a> {
    /// The tensors by their names below `params/`.
    plain: Vec<(&'a str, &'a Tensor)>,
    width: usize,
    four_norms: bool,
    /// Gemma 3, by its norms of queries and keys, stores queries as they are.
    plain_query: bool,
    /// How many layers of a repeating group have names of their own, within scanned layers; 0 where
    /// there are no groups.
    group: usize,
    /// How many groups, or layers, a scanned array has, and along which axis.
    scanned: usize,
    axis: usize,
}

impl<'a> Tree<'a> {
    fn new(stored: &'a Tensors) -> Option<Self> {
        let plain: Vec<(&str, &Tensor)> = stored
            .iter()
            .map(|(name, tensor)| {
                let mut name = name.as_ref();
                while let Some(inner) = name.strip_prefix("params/") {
                    name = inner;
                }
                (name, tensor)
            })
            .collect();
        let find = |wanted: &str| plain.iter().find(|(name, _)| *name == wanted);
        let (_, embedding) = find(EMBEDDING)?;
        find(FINAL_NORM)?;
        let [_, width] = *embedding.shape() else {
            return None;
        };
        let has = |part: &str| plain.iter().any(|(name, _)| name.contains(part));
        let members: BTreeSet<usize> = plain
            .iter()
            .filter_map(|(name, _)| Some(numbered(name.strip_prefix("decoder/layers/")?)?.0))
            .collect();
        // A scanned norm's scale is [width, layers].
        let scale = plain.iter().find(|(name, _)| {
            name.starts_with("decoder/layers/") && name.contains("pre_self_attention_norm")
        });
        let (scanned, axis) = match scale.map(|(_, tensor)| tensor.shape()) {
            Some([count, other]) if *other == width && *count != width => (*count, 0),
            Some([_, count]) => (*count, SCAN_AXIS),
            _ => (0, SCAN_AXIS),
        };
        Some(Tree {
            width,
            four_norms: has("/post_self_attention_norm"),
            plain_query: has("/query_norm/"),
            group: members.len(),
            scanned,
            axis,
            plain,
        })
    }

    /// The layers' tensors that are in one of MaxText's.
    fn layers_of(&self, name: &str, tensor: &Tensor) -> Result<Vec<(String, Tensor)>> {
        let Some(rest) = name.strip_prefix("decoder/") else {
            return Ok(Vec::new());
        };
        // Within `layers` all layers are in one array: of all, or of those with the same place in a
        // group.
        let (first, step, rest, stacked) = if let Some(rest) = rest.strip_prefix("layers/") {
            match numbered(rest) {
                Some((member, rest)) => (member, self.group, rest, true),
                None => (0, 1, rest, true),
            }
        } else if let Some(rest) = rest.strip_prefix("layers_remainder/") {
            match numbered(rest) {
                Some((member, rest)) => (self.group * self.scanned + member, 1, rest, false),
                None => return Ok(Vec::new()),
            }
        } else if let Some((layer, rest)) = numbered(rest) {
            (layer, 1, rest, false)
        } else {
            return Ok(Vec::new());
        };
        // In Gemma 2 one layer of MaxText is two: the one with local attention comes first.
        let halves = [("_local/", 0), ("_global/", 1)];
        let half = halves.into_iter().find(|(mark, _)| rest.contains(mark));
        let (rest, pair) = match half {
            Some((mark, second)) => (rest.replacen(mark, "/", 1), Some(second)),
            None => (rest.to_owned(), None),
        };
        let norms: &[Part] = if self.four_norms {
            &FOUR_NORMS
        } else {
            &TWO_NORMS
        };
        let Some(part) = PARTS.iter().chain(norms).find(|part| part.theirs == rest) else {
            return Ok(Vec::new());
        };
        let layers = match stacked {
            false => vec![tensor.clone()],
            true => self.unstacked(tensor, part)?,
        };
        let mut views = Vec::new();
        for (index, layer) in layers.into_iter().enumerate() {
            let number = first.saturating_add(index.saturating_mul(step));
            let number = match pair {
                Some(second) => number.saturating_mul(2).saturating_add(second),
                None => number,
            };
            let name = format!("model/layers/{number}/{}", part.ours);
            views.push((name, self.view(&layer, part)?));
        }
        Ok(views)
    }

    /// The slices of an array that has all layers.
    fn unstacked(&self, tensor: &Tensor, part: &Part) -> Result<Vec<Tensor>> {
        let shape = tensor.shape();
        let is_layers = |axis: &usize| shape.get(*axis) == Some(&self.scanned);
        let axis = Some(self.axis)
            .filter(is_layers)
            .or_else(|| (0..shape.len()).find(is_layers))
            .filter(|_| shape.len() == part.rank + 1)
            // Chunks may be missing, so that an array of any size takes a few bytes in a file, while
            // each layer's view takes memory.
            .filter(|_| self.scanned <= MAX_LAYERS)
            .ok_or_else(|| unfit(tensor, part, true))?;
        (0..self.scanned)
            .map(|layer| {
                let mut layout = tensor.slice(axis, layer..layer + 1)?.layout();
                layout.dimensions.remove(axis);
                Ok(tensor.viewed(tensor.shared_name(), layout))
            })
            .collect()
    }

    fn view(&self, tensor: &Tensor, part: &Part) -> Result<Tensor> {
        if tensor.shape().len() != part.rank {
            return Err(unfit(tensor, part, false));
        }
        let mut layout = tensor.layout();
        let first = match part.join {
            Join::Nothing => None,
            Join::First => Some(0),
            Join::Last => Some(1),
        };
        if let Some(first) = first {
            let second = layout.dimensions.remove(first + 1);
            if let Some(axes) = layout.dimensions.get_mut(first) {
                axes.extend(second);
            }
        }
        let view = tensor.viewed(tensor.shared_name(), layout);
        let head = tensor.shape().last().copied().unwrap_or_default();
        Ok(match part.change {
            Change::Norm => view.transformed(Transform::Add(-1.0)),
            Change::Query if !self.plain_query => {
                view.transformed(Transform::Multiply((head as f32).sqrt()))
            }
            Change::Query | Change::Nothing => view,
        })
    }
}

/// The number of a layer, and the rest of the name: `layers_3/mlp` is 3 and `mlp`.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.strip_prefix("layers_")?.split_once('/')?;
    let plain = number.bytes().all(|c| c.is_ascii_digit());
    Some((plain.then(|| number.parse().ok()).flatten()?, rest))
}

fn unfit(tensor: &Tensor, part: &Part, stacked: bool) -> Error {
    Error::ForeignShape {
        file: tensor.file().to_path_buf(),
        tensor: tensor.name().to_owned(),
        expected: match (part.rank, part.join, stacked) {
            (1, _, false) => "d",
            (1, _, true) => "d l",
            (2, _, false) => "i o",
            (2, _, true) => "i l o",
            (_, Join::First, false) => "n h d",
            (_, Join::First, true) => "n l h d",
            (_, _, false) => "d n h",
            (_, _, true) => "d l n h",
        },
        found: tensor.shape().to_vec(),
    }
}

#[cfg(test)]
mod tests;
