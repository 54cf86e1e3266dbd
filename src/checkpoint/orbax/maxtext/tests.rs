//! MaxText's trees with arrays whose elements are their places.

use std::path::Path;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::dtype::DType;

/// A tree of float32 arrays, whose elements are their places.
fn tree(arrays: &[(&str, &[usize])]) -> Tensors {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape) in arrays {
        let begin = data.len();
        let count: usize = shape.iter().product();
        data.extend((0..count).flat_map(|place| (place as f32).to_le_bytes()));
        let entry = serde_json::json!({
            "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()],
        });
        header.insert(format!("x/{name}"), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    let checkpoint = Checkpoint::from_safetensors(Path::new("tree"), file).unwrap();
    let mut tensors = Tensors::new();
    for tensor in checkpoint.tensors() {
        // By these names the tree was not recognised when it was opened.
        let name: Arc<str> = tensor.name().trim_start_matches("x/").into();
        tensors.insert(Arc::clone(&name), tensor.renamed(name));
    }
    tensors
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let mut bytes = vec![0; tensor.byte_len()];
    tensor.read_into(DType::F32, &mut bytes).unwrap();
    let (elements, _) = bytes.as_chunks();
    elements.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

const ENDS: [(&str, &[usize]); 2] = [
    ("params/params/token_embedder/embedding", &[6, 4]),
    ("params/params/decoder/decoder_norm/scale", &[4]),
];

fn with_ends<'a>(more: &[(&'a str, &'a [usize])]) -> Vec<(&'a str, &'a [usize])> {
    ENDS.iter().chain(more).copied().collect()
}

#[test]
fn values_are_those_of_flax_and_the_embedding_ends_with_the_vocabulary() {
    let sizes = Sizes {
        vocabulary: Some(5),
    };
    let found = canonical(&tree(&ENDS), sizes).unwrap().unwrap();
    assert_eq!(values(&found["model/norm/weight"]), [-1.0, 0.0, 1.0, 2.0]);
    let embedding = &found["model/embed_tokens/embedding"];
    assert_eq!(embedding.shape(), [5, 4]);
    let halves: Vec<f32> = (0..20).map(|place| place as f32 / 2.0).collect();
    assert_eq!(values(embedding), halves);
}

#[test]
fn each_layer_is_a_slice_of_a_scanned_array_wherever_its_axis_is() {
    // Three layers, along axis 1 and along axis 0.
    for axis in [1, 0] {
        let shape = |rest: &[usize]| {
            let mut shape = rest.to_vec();
            shape.insert(axis, 3);
            shape
        };
        let (scale, query) = (shape(&[4]), shape(&[4, 2, 9]));
        let stored = tree(&with_ends(&[
            (
                "params/params/decoder/layers/pre_self_attention_norm/scale",
                &scale,
            ),
            (
                "params/params/decoder/layers/self_attention/query/kernel",
                &query,
            ),
        ]));
        let found = canonical(&stored, Sizes::default()).unwrap().unwrap();
        assert_eq!(found.len(), 2 + 2 * 3);
        let kernel = &found["model/layers/2/self_attn/q_proj/kernel"];
        assert_eq!(kernel.shape(), [4, 18]);
        let first = [if axis == 1 { 36.0 } else { 144.0 }, 1.0];
        assert_eq!(
            values(kernel)[..2],
            [first[0] * 3.0, (first[0] + 1.0) * 3.0]
        );
        let norm = values(&found["model/layers/1/input_layernorm/weight"]);
        let places = if axis == 1 {
            [1, 4, 7, 10]
        } else {
            [4, 5, 6, 7]
        };
        assert_eq!(norm, places.map(|place| place as f32 - 1.0));
    }
}

#[test]
fn a_layer_of_gemma_2_is_two_and_groups_of_gemma_3_repeat() {
    let stored = tree(&with_ends(&[
        ("params/decoder/layers_1/pre_ffw_norm_local/scale", &[4]),
        (
            "params/decoder/layers_1/post_self_attention_norm_global/scale",
            &[4],
        ),
    ]));
    let found = canonical(&stored, Sizes::default()).unwrap().unwrap();
    assert!(found.contains_key("model/layers/2/pre_feedforward_layernorm/weight"));
    assert!(found.contains_key("model/layers/3/post_attention_layernorm/weight"));

    let stored = tree(&with_ends(&[
        (
            "params/decoder/layers/layers_0/pre_self_attention_norm/scale",
            &[4, 3],
        ),
        (
            "params/decoder/layers/layers_1/self_attention/query_norm/scale",
            &[8, 3],
        ),
        (
            "params/decoder/layers/layers_1/self_attention/query/kernel",
            &[4, 3, 2, 9],
        ),
        (
            "params/decoder/layers_remainder/layers_0/mlp/wo/kernel",
            &[5, 4],
        ),
    ]));
    let found = canonical(&stored, Sizes::default()).unwrap().unwrap();
    for layer in [0, 2, 4] {
        assert!(found.contains_key(&*format!("model/layers/{layer}/input_layernorm/weight")));
    }
    let query = &found["model/layers/3/self_attn/q_proj/kernel"];
    assert_eq!(values(query)[1], 19.0, "as it is stored");
    assert!(found.contains_key("model/layers/6/mlp/down_proj/kernel"));
}

#[test]
fn other_shapes_are_refused_and_other_names_are_kept() {
    let stored = tree(&with_ends(&[(
        "params/params/decoder/layers/mlp/wo/kernel",
        &[5, 4],
    )]));
    assert!(canonical(&stored, Sizes::default()).is_err());
    let stored = tree(&with_ends(&[("params/params/vision/x", &[5, 4])]));
    let found = canonical(&stored, Sizes::default()).unwrap().unwrap();
    assert!(found.contains_key("params/params/vision/x"));
    assert!(
        canonical(&tree(&ENDS[..1]), Sizes::default())
            .unwrap()
            .is_none()
    );
}

#[test]
fn more_layers_than_any_model_has_are_refused_before_they_are_listed() {
    let layers = MAX_LAYERS + 1;
    let stored = tree(&with_ends(&[(
        "params/params/decoder/layers/pre_self_attention_norm/scale",
        &[4, layers],
    )]));
    let error = canonical(&stored, Sizes::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("pre_self_attention_norm") && message.contains("4097"),
        "{message}"
    );
}
