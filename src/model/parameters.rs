//! The parameters that Gemma has: names and shapes of the Flax tree, and how each lies on a device.

use hlo::{ArrayShape, ElementType};

use crate::config::GemmaConfig;
use crate::dtype::DType;

/// The name of the embedding table.
pub const EMBEDDING: &str = "model/embed_tokens/embedding";

/// What a parameter is used for; it decides its dtype and layout on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The embedding table [vocab, hidden], which is the head as well where the head is tied.
    Embedding,
    /// The kernel of a projection, [in, out] in the checkpoint.
    Kernel,
    /// The bias of a projection, [out].
    Bias,
    /// The weight of an RMSNorm, [hidden].
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
}

impl ParameterSpec {
    /// Whether the device holds the transpose of what the checkpoint has.
    pub fn is_transposed(&self, layout: KernelLayout) -> bool {
        self.role == Role::Kernel && layout == KernelLayout::OutIn
    }

    /// Dimensions on the device.
    pub fn device_dims(&self, layout: KernelLayout) -> Vec<usize> {
        let mut dims = self.shape.clone();
        if self.is_transposed(layout) {
            dims.reverse();
        }
        dims
    }

    /// Shape on the device.
    pub fn device_shape(&self, layout: KernelLayout) -> ArrayShape {
        let dims: Vec<i64> = self.device_dims(layout).iter().map(|&d| d as i64).collect();
        ArrayShape::new(ElementType::from(self.dtype), &dims)
    }

    /// Bytes on the device.
    pub fn byte_size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
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
    let mut push = |name: String, shape: &[usize], role: Role| {
        let dtype = match role {
            Role::Norm => stored(&name),
            Role::Embedding | Role::Kernel | Role::Bias => compute,
        };
        list.push(ParameterSpec {
            name,
            shape: shape.to_vec(),
            role,
            dtype,
        });
    };

    let hidden = config.hidden_size;
    let queries = config.query_size();
    let keys = config.key_value_size();
    push(
        EMBEDDING.into(),
        &[config.vocab_size, hidden],
        Role::Embedding,
    );
    for layer in 0..config.num_hidden_layers {
        let at = |path: &str| format!("model/layers/{layer}/{path}");
        push(at("input_layernorm/weight"), &[hidden], Role::Norm);
        for (projection, input, output) in [
            ("q_proj", hidden, queries),
            ("k_proj", hidden, keys),
            ("v_proj", hidden, keys),
            ("o_proj", queries, hidden),
        ] {
            push(
                at(&format!("self_attn/{projection}/kernel")),
                &[input, output],
                Role::Kernel,
            );
            if config.attention_bias {
                push(
                    at(&format!("self_attn/{projection}/bias")),
                    &[output],
                    Role::Bias,
                );
            }
        }
        push(at("post_attention_layernorm/weight"), &[hidden], Role::Norm);
        for (projection, input, output) in [
            ("gate_proj", hidden, config.intermediate_size),
            ("up_proj", hidden, config.intermediate_size),
            ("down_proj", config.intermediate_size, hidden),
        ] {
            push(
                at(&format!("mlp/{projection}/kernel")),
                &[input, output],
                Role::Kernel,
            );
        }
    }
    push("model/norm/weight".into(), &[hidden], Role::Norm);
    if !config.tie_word_embeddings {
        push(
            "lm_head/kernel".into(),
            &[hidden, config.vocab_size],
            Role::Kernel,
        );
    }
    list
}
