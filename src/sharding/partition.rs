//! The share of the model that each device of a mesh holds.

use std::ops::Range;

use super::Mesh;
use crate::config::GemmaConfig;

/// A geometry that cannot be split over a mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--mesh {mesh}: {what} ({size}) cannot be split over model={}; these sizes of the model axis would do: {possible}", mesh.model)]
pub struct GeometryError {
    mesh: Mesh,
    what: &'static str,
    size: usize,
    possible: String,
}

/// How a dimension of a parameter is split over the model axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Query heads: equal parts.
    Heads,
    /// Key and value heads: equal parts, or one head each that several devices share.
    KeyValueHeads,
    /// The MLP's inner dimension: equal parts, the last padded with zeros.
    Intermediate,
    /// Rows of the vocabulary: equal parts, the last padded with zeros.
    Vocabulary,
}

/// What one device holds of a dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The part of the whole dimension that it holds.
    pub range: Range<usize>,
    /// The size of its share, padding included: at least the range's length.
    pub size: usize,
}

/// The sizes that each device of a mesh works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// The mesh.
    pub mesh: Mesh,
    /// Query heads on a device.
    pub heads: usize,
    /// Key and value heads on a device.
    pub key_value_heads: usize,
    /// The MLP's inner dimension on a device, padding included.
    pub intermediate: usize,
    /// Rows of the vocabulary on a device, padding included.
    pub vocabulary: usize,
    whole: Whole,
}

/// The sizes of the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Whole {
    heads: usize,
    key_value_heads: usize,
    intermediate: usize,
    vocabulary: usize,
    head_dim: usize,
}

impl Geometry {
    /// Splits a model over a mesh.
    ///
    /// # Errors
    /// Query heads that the model axis does not divide, or key and value heads that neither divide it nor are divided by it.
    pub fn new(config: &GemmaConfig, mesh: Mesh) -> Result<Self, GeometryError> {
        let whole = Whole {
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            intermediate: config.intermediate_size,
            vocabulary: config.vocab_size,
            head_dim: config.head_dim,
        };
        let fits = |model: usize| {
            let (heads, kv) = (whole.heads, whole.key_value_heads);
            heads.is_multiple_of(model) && (kv.is_multiple_of(model) || model.is_multiple_of(kv))
        };
        let model = mesh.model;
        if !fits(model) {
            let possible: Vec<String> = (1..=whole.heads)
                .filter(|&size| fits(size))
                .map(|size| size.to_string())
                .collect();
            let by_heads = !whole.heads.is_multiple_of(model);
            return Err(GeometryError {
                mesh,
                what: if by_heads {
                    "num_attention_heads"
                } else {
                    "num_key_value_heads"
                },
                size: if by_heads {
                    whole.heads
                } else {
                    whole.key_value_heads
                },
                possible: possible.join(", "),
            });
        }
        Ok(Self {
            mesh,
            heads: whole.heads / model,
            key_value_heads: (whole.key_value_heads / model).max(1),
            intermediate: whole.intermediate.div_ceil(model),
            vocabulary: whole.vocabulary.div_ceil(model),
            whole,
        })
    }

    /// What the device at place `index` of the model axis holds of a dimension that is split so.
    pub fn slice(&self, split: Split, index: usize) -> Slice {
        let part = |size: usize, whole: usize, unit: usize| Slice {
            range: (index * size).min(whole) * unit..((index + 1) * size).min(whole) * unit,
            size: size * unit,
        };
        let head_dim = self.whole.head_dim;
        match split {
            Split::Heads => part(self.heads, self.whole.heads, head_dim),
            Split::KeyValueHeads => {
                // Devices that share a head stand beside each other, as their query heads do.
                let first = index * self.whole.key_value_heads / self.mesh.model;
                let last = first + self.key_value_heads;
                Slice {
                    range: first * head_dim..last * head_dim,
                    size: self.key_value_heads * head_dim,
                }
            }
            Split::Intermediate => part(self.intermediate, self.whole.intermediate, 1),
            Split::Vocabulary => part(self.vocabulary, self.whole.vocabulary, 1),
        }
    }

    /// How many devices of a group hold the same part of a dimension that is split so.
    pub fn copies(&self, split: Split) -> usize {
        match split {
            Split::KeyValueHeads => (self.mesh.model / self.whole.key_value_heads).max(1),
            Split::Heads | Split::Intermediate | Split::Vocabulary => 1,
        }
    }

    /// The size of a device's share of a dimension that is split so.
    pub fn share(&self, split: Split) -> usize {
        self.slice(split, 0).size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(heads: usize, kv: usize, model: usize) -> Result<Geometry, GeometryError> {
        let text = format!(
            r#"{{"model_type": "gemma", "vocab_size": 101, "hidden_size": 16, "intermediate_size": 30,
                "num_hidden_layers": 1, "num_attention_heads": {heads}, "num_key_value_heads": {kv}, "head_dim": 4}}"#
        );
        let config =
            GemmaConfig::from_json("config.json".as_ref(), &text).expect("a configuration");
        Geometry::new(&config, Mesh { data: 1, model })
    }

    #[test]
    fn every_element_is_held_and_only_shared_heads_twice() {
        for (heads, kv, model) in [(8, 8, 4), (8, 2, 4), (8, 1, 8), (8, 4, 2), (12, 2, 6)] {
            let g = geometry(heads, kv, model).expect("it divides");
            for (split, whole) in [
                (Split::Heads, heads * 4),
                (Split::KeyValueHeads, kv * 4),
                (Split::Intermediate, 30),
                (Split::Vocabulary, 101),
            ] {
                let mut held = vec![0; whole];
                for index in 0..model {
                    let slice = g.slice(split, index);
                    assert!(slice.range.len() <= slice.size, "{split:?}");
                    assert_eq!(slice.size, g.share(split));
                    held[slice.range].iter_mut().for_each(|n| *n += 1);
                }
                let times = match split {
                    Split::KeyValueHeads => (model / kv).max(1),
                    _ => 1,
                };
                assert_eq!(
                    held,
                    vec![times; whole],
                    "{split:?} of {heads}/{kv} over {model}"
                );
            }
        }
    }

    #[test]
    fn a_device_holds_the_key_value_heads_of_its_query_heads() {
        for (heads, kv, model) in [(8, 2, 4), (8, 1, 8), (8, 4, 2), (8, 4, 8), (8, 8, 8)] {
            let g = geometry(heads, kv, model).expect("it divides");
            for index in 0..model {
                let queries = g.slice(Split::Heads, index).range;
                let keys = g.slice(Split::KeyValueHeads, index).range;
                for (local, head) in (queries.start / 4..queries.end / 4).enumerate() {
                    let local_key = local / (g.heads / g.key_value_heads);
                    assert_eq!(keys.start / 4 + local_key, head / (heads / kv));
                }
            }
        }
    }

    #[test]
    fn sizes_that_would_do_are_named() {
        let error = geometry(8, 1, 3)
            .expect_err("3 does not divide 8")
            .to_string();
        assert!(error.contains("num_attention_heads (8)"), "{error}");
        assert!(error.ends_with("1, 2, 4, 8"), "{error}");
        let error = geometry(12, 4, 6).expect_err("6 and 4").to_string();
        assert!(error.contains("num_key_value_heads (4)"), "{error}");
    }
}
