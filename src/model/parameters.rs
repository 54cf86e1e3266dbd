//! The parameters that Gemma has: names and shapes of the Flax tree, and how each lies on a device.

use hlo::{ArrayShape, ElementType};

use crate::config::GemmaConfig;
use crate::dtype::DType;
use crate::sharding::{Geometry, Slice, Split};

/// The name of the embedding table.
pub const EMBEDDING: &str = "model/embed_tokens/embedding";

/// What a parameter is used for; it decides its dtype and layout on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The embedding table [vocab, hidden], which is the head as well where the head is tied.
    Embedding,
    /// The kernel of a projection, [in, out] in the checkpoint.
    Kernel,
    /// The bias of a projection, \[out\].
    Bias,
    /// The weight of an RMSNorm, \[hidden\].
    Norm,
}

/// How the kernels of projections lie in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelLayout {
    /// [in, out], as Flax stores them.
    InOut,
    /// [out, in]: the contracted dimension is innermost.
    OutIn,
}

/// A parameter that every program takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Path in the Flax tree, joined with `/`.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// What it is used for.
    pub role: Role,
    /// Its dtype on the device.
    pub dtype: DType,
    /// The dimension (of the checkpoint's shape) that is split over the mesh's model axis, and how; none where every
    /// device holds the whole.
    pub split: Option<(usize, Split)>,
}

impl ParameterSpec {
    /// Whether the device holds the transpose of what the checkpoint has.
    pub fn is_transposed(&self, layout: KernelLayout) -> bool {
        self.role == Role::Kernel && layout == KernelLayout::OutIn
    }

    /// The dimensions of a device's share, in the checkpoint's order.
    pub fn share(&self, geometry: &Geometry) -> Vec<usize> {
        let mut dims = self.shape.clone();
        if let Some((dim, split)) = self.split {
            dims[dim] = geometry.share(split);
        }
        dims
    }

    /// What the device at place `index` of the model axis holds of the dimension that is split.
    pub fn slice(&self, geometry: &Geometry, index: usize) -> Option<(usize, Slice)> {
        let (dim, split) = self.split?;
        Some((dim, geometry.slice(split, index)))
    }

    /// Shape of a device's share, as the device holds it.
    pub fn device_shape(&self, geometry: &Geometry, layout: KernelLayout) -> ArrayShape {
        let mut dims: Vec<i64> = self.share(geometry).iter().map(|&d| d as i64).collect();
        if self.is_transposed(layout) {
            dims.reverse();
        }
        ArrayShape::new(ElementType::from(self.dtype), &dims)
    }

    /// Bytes of a device's share.
    pub fn byte_size(&self, geometry: &Geometry) -> usize {
        self.share(geometry).iter().product::<usize>() * self.dtype.size()
    }
}

/// All parameters of a geometry, in the order in which programs take them.
///
/// `stored` gives the dtype that the checkpoint has a parameter in. Projections and the embedding are
/// cast to the compute dtype before they are used, so they lie on the device in that dtype; an RMSNorm
/// adds 1 to its weight in the weight's own dtype, so a norm's weight keeps the stored one.
pub fn parameters(
    config: &GemmaConfig,
    compute: DType,
    stored: impl Fn(&str) -> DType,
) -> Vec<ParameterSpec> {
    let mut list = Vec::new();
    let mut push = |name: String, shape: &[usize], role: Role, split: Option<(usize, Split)>| {
        let dtype = match role {
            Role::Norm => stored(&name),
            Role::Embedding | Role::Kernel | Role::Bias => compute,
        };
        list.push(ParameterSpec {
            name,
            shape: shape.to_vec(),
            role,
            dtype,
            split,
        });
    };

    let hidden = config.hidden_size;
    let queries = config.query_size();
    let keys = config.key_value_size();
    let inner = config.intermediate_size;
    push(
        EMBEDDING.into(),
        &[config.vocab_size, hidden],
        Role::Embedding,
        Some((0, Split::Vocabulary)),
    );
    for layer in 0..config.num_hidden_layers {
        let at = |path: &str| format!("model/layers/{layer}/{path}");
        push(at("input_layernorm/weight"), &[hidden], Role::Norm, None);
        for (projection, shape, dim, split) in [
            ("q_proj", [hidden, queries], 1, Split::Heads),
            ("k_proj", [hidden, keys], 1, Split::KeyValueHeads),
            ("v_proj", [hidden, keys], 1, Split::KeyValueHeads),
            ("o_proj", [queries, hidden], 0, Split::Heads),
        ] {
            let path = format!("self_attn/{projection}");
            push(
                at(&format!("{path}/kernel")),
                &shape,
                Role::Kernel,
                Some((dim, split)),
            );
            if config.attention_bias {
                // What is split over rows is summed over devices; its bias is added once, after the sum.
                let split = (dim == 1).then_some((0, split));
                push(at(&format!("{path}/bias")), &shape[1..], Role::Bias, split);
            }
        }
        push(
            at("post_attention_layernorm/weight"),
            &[hidden],
            Role::Norm,
            None,
        );
        for (projection, shape, dim) in [
            ("gate_proj", [hidden, inner], 1),
            ("up_proj", [hidden, inner], 1),
            ("down_proj", [inner, hidden], 0),
        ] {
            let path = format!("mlp/{projection}/kernel");
            push(
                at(&path),
                &shape,
                Role::Kernel,
                Some((dim, Split::Intermediate)),
            );
        }
    }
    push("model/norm/weight".into(), &[hidden], Role::Norm, None);
    if !config.tie_word_embeddings {
        push(
            "lm_head/kernel".into(),
            &[hidden, config.vocab_size],
            Role::Kernel,
            Some((1, Split::Vocabulary)),
        );
    }
    list
}
