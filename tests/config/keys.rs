//! Keys one by one: their defaults, and the values that are refused.

use std::path::Path;

use gemma_xla::config::{Activation, GemmaConfig};
use gemma_xla::dtype::DType;
use serde_json::json;

use super::{FILE, assert_says, gemma_2b, parse, refused, with, without};

#[test]
fn gemma_2b_is_read() {
    let config = parse(&gemma_2b()).unwrap();
    let sizes = [
        config.vocab_size(),
        config.hidden_size(),
        config.intermediate_size(),
        config.num_hidden_layers(),
        config.num_attention_heads(),
        config.num_key_value_heads(),
        config.head_dim(),
        config.max_position_embeddings(),
    ];
    assert_eq!(sizes, [256_000, 2048, 16_384, 18, 8, 1, 256, 8192]);
    assert_eq!(
        (config.rms_norm_eps(), config.rope_theta()),
        (1e-6, 10_000.0)
    );
    assert!(config.tie_word_embeddings() && !config.attention_bias());
    assert_eq!(config.activation(), Activation::GeluTanh);
    assert_eq!(config.eos_token_ids(), [1]);
    let (pad, bos) = (config.pad_token_id(), config.bos_token_id());
    assert_eq!((pad, bos), (Some(0), Some(2)));
    assert_eq!(config.torch_dtype(), Some(DType::BF16));
    assert_eq!((config.query_size(), config.key_value_size()), (2048, 256));
    assert_eq!(config.queries_per_key_value_head(), 8);
    assert!(!config.rope_theta_differs_from_flax());
}

#[test]
fn keys_that_transformers_defaults_may_be_absent() {
    let essential = [
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "head_dim",
    ];
    let mut keys = gemma_2b();
    keys.retain(|key, _| essential.contains(&key.as_str()));
    let config = parse(&keys).unwrap();
    let expected = with(json!({"num_key_value_heads": 8, "torch_dtype": null})).unwrap();
    assert_eq!(config, expected);
    for key in essential {
        assert_says(&refused(without(key)), &format!("key \"{key}\" is missing"));
        assert_says(
            &refused(with(json!({key: null}))),
            &format!("key \"{key}\" is missing"),
        );
    }
}

#[test]
fn a_null_activation_means_the_tanh_approximation_whatever_the_legacy_key_says() {
    for legacy in ["gelu", "relu", "no such function"] {
        let config = with(json!({"hidden_act": legacy, "hidden_activation": null})).unwrap();
        assert_eq!(config.activation(), Activation::GeluTanh);
    }
}

#[test]
fn a_named_activation_is_obeyed() {
    for (name, activation) in [
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("gelu_new", Activation::GeluTanh),
        ("gelu", Activation::GeluExact),
        ("quick_gelu", Activation::QuickGelu),
        ("relu", Activation::Relu),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("tanh", Activation::Tanh),
    ] {
        let config = with(json!({"hidden_activation": name})).unwrap();
        assert_eq!(config.activation(), activation, "{name}");
        assert_eq!(Activation::from_name(activation.name()), Some(activation));
    }
}

#[test]
fn an_unknown_activation_is_named() {
    let message = refused(with(json!({"hidden_activation": "gelu\nfast"})));
    assert_says(
        &message,
        r#"unknown activation "gelu\nfast" (known: gelu_pytorch_tanh, "#,
    );
}

#[test]
fn an_unknown_model_type_is_named() {
    assert_says(
        &refused(with(json!({"model_type": "llama"}))),
        "unknown model_type \"llama\" (known: gemma, gemma2, ",
    );
}

#[test]
fn later_gemmas_are_said_to_be_unsupported() {
    for later in ["gemma3n", "gemma3n_text", "gemma4_unified"] {
        let message = refused(with(json!({"model_type": later})));
        assert_says(
            &message,
            &format!("model_type \"{later}\" is not supported yet"),
        );
    }
}

#[test]
fn a_value_of_the_wrong_type_names_the_key() {
    let wrong = [
        ("vocab_size", json!("256000")),
        ("hidden_size", json!(2048.0)),
        ("head_dim", json!([256])),
        ("num_key_value_heads", json!(true)),
        ("max_position_embeddings", json!({})),
        ("rms_norm_eps", json!("1e-6")),
        ("rope_theta", json!("10000")),
        ("rope_theta", json!(1e300)),
        ("rope_scaling", json!(2)),
        ("tie_word_embeddings", json!(1)),
        ("attention_bias", json!("false")),
        ("hidden_activation", json!(3)),
        ("model_type", json!(1)),
        ("torch_dtype", json!(16)),
        ("eos_token_id", json!("1")),
        ("eos_token_id", json!([1, 2.5])),
        ("eos_token_id", json!(true)),
        ("pad_token_id", json!([0])),
        ("bos_token_id", json!(2.0)),
    ];
    for (key, value) in wrong {
        let message = refused(with(json!({key: value})));
        assert_says(&message, &format!("key \"{key}\": expected"));
    }
}

#[test]
fn sizes_that_no_model_has_name_the_key() {
    for key in [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    ] {
        for size in [json!(0), json!(-1), json!(1_u64 << 31), json!(u64::MAX)] {
            assert_says(
                &refused(with(json!({key: size}))),
                &format!("key \"{key}\" is {size}"),
            );
        }
    }
    assert_says(
        &refused(with(json!({"num_hidden_layers": 4097}))),
        "it must be from 1 to 4096",
    );
}

#[test]
fn heads_that_cannot_share_key_value_heads_are_refused() {
    for heads in [3, 16] {
        let message = refused(with(json!({"num_key_value_heads": heads})));
        assert_says(&message, "num_attention_heads (8) must be a multiple of it");
    }
}

#[test]
fn an_odd_head_dim_is_refused() {
    assert_says(
        &refused(with(json!({"head_dim": 255}))),
        "key \"head_dim\" is 255: it must be even",
    );
}

#[test]
fn widths_whose_products_overflow_are_refused() {
    let largest = i32::MAX;
    let message = refused(with(
        json!({"num_attention_heads": largest, "num_key_value_heads": 1}),
    ));
    assert_says(
        &message,
        "key \"head_dim\" is 256: num_attention_heads (2147483647) times it",
    );
    let message = refused(with(json!({"vocab_size": largest, "hidden_size": largest})));
    assert_says(&message, "key \"vocab_size\" is 2147483647");
}

#[test]
fn constants_that_make_no_sense_are_refused() {
    assert_says(
        &refused(with(json!({"rms_norm_eps": -1e-6}))),
        "it must not be negative",
    );
    for theta in [0.0, 0.5, -10_000.0] {
        assert_says(
            &refused(with(json!({"rope_theta": theta}))),
            "it must be at least 1",
        );
    }
}

#[test]
fn rope_theta_follows_the_configuration_in_either_place() {
    let config = with(json!({"rope_theta": 500_000})).unwrap();
    assert_eq!(config.rope_theta(), 500_000.0);
    assert!(config.rope_theta_differs_from_flax());
    let nested =
        json!({"rope_theta": null, "rope_parameters": {"rope_theta": 2e4, "rope_type": "default"}});
    assert_eq!(with(nested).unwrap().rope_theta(), 20_000.0);
}

#[test]
fn scaled_positions_are_refused() {
    for (key, value) in [
        ("rope_scaling", json!({"type": "linear", "factor": 8.0})),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 8.0})),
        (
            "rope_parameters",
            json!({"rope_type": "dynamic", "rope_theta": 1e4}),
        ),
    ] {
        assert_says(
            &refused(with(json!({key: value}))),
            &format!("key \"{key}\" is {{"),
        );
    }
    with(json!({"rope_scaling": {"rope_type": "default"}})).unwrap();
}

#[test]
fn token_ids_may_be_lists_and_null() {
    let config =
        with(json!({"eos_token_id": [1, 107, 1], "pad_token_id": null, "bos_token_id": null}))
            .unwrap();
    assert_eq!(config.eos_token_ids(), [1, 107]);
    assert_eq!((config.pad_token_id(), config.bos_token_id()), (None, None));
    assert_eq!(config.padding_id(), 1);
    let config = with(json!({"eos_token_id": null, "pad_token_id": null})).unwrap();
    assert!(config.eos_token_ids().is_empty());
    assert_eq!(config.padding_id(), 0);
}

#[test]
fn token_ids_outside_of_the_vocabulary_are_refused() {
    for key in ["eos_token_id", "pad_token_id", "bos_token_id"] {
        for id in [json!(-1), json!(256_000), json!(u64::MAX)] {
            // By this id a configuration says that there is no padding token.
            if key == "pad_token_id" && id == -1 {
                continue;
            }
            let message = refused(with(json!({key: id})));
            assert_says(
                &message,
                &format!("key \"{key}\" is {id}: a token id must be from 0 to 255999"),
            );
        }
    }
}

#[test]
fn the_newer_dtype_key_wins_and_foreign_dtypes_give_no_hint() {
    assert_eq!(
        with(json!({"dtype": "float32"})).unwrap().torch_dtype(),
        Some(DType::F32)
    );
    assert_eq!(
        with(json!({"torch_dtype": "float64"}))
            .unwrap()
            .torch_dtype(),
        None
    );
}

#[test]
fn what_is_no_object_is_refused() {
    assert_says(
        &refused(GemmaConfig::from_json(Path::new(FILE), "[1]")),
        "expected a JSON object, found [1]",
    );
    let endless = "[".repeat(1_000_000);
    for text in ["", "{", "{\"vocab_size\": nan}", &endless] {
        assert_says(
            &refused(GemmaConfig::from_json(Path::new(FILE), text)),
            "not valid JSON",
        );
    }
}

#[test]
fn numbers_that_are_not_finite_matter_only_where_they_are_read() {
    let with_text = |key: &str, number: &str| {
        let mut keys = gemma_2b();
        keys.remove(key);
        let text = serde_json::to_string(&keys).unwrap();
        let text = text.replacen('{', &format!("{{\"{key}\": {number}, "), 1);
        GemmaConfig::from_json(Path::new(FILE), &text)
    };
    for number in ["NaN", "Infinity", "-Infinity"] {
        with_text("initializer_range", number).unwrap();
        let message = refused(with_text("rms_norm_eps", number));
        assert_says(&message, "key \"rms_norm_eps\": expected a number");
        assert!(message.contains(number), "{message}");
    }
}

#[test]
fn a_padding_id_of_minus_one_is_none() {
    let config = with(json!({"pad_token_id": -1})).unwrap();
    assert_eq!((config.pad_token_id(), config.padding_id()), (None, 1));
    let mut config = with(json!({"pad_token_id": 5})).unwrap();
    config
        .apply_generation_config(Path::new(FILE), "{\"pad_token_id\": -1}")
        .unwrap();
    assert_eq!(config.pad_token_id(), None);
}

#[test]
fn long_lists_of_ids_are_read_or_refused_at_once() {
    let started = std::time::Instant::now();
    let repeated: Vec<u32> = (0..2_000_000).map(|at| 1_023 - at % 1_024).collect();
    let config = with(json!({"eos_token_id": repeated})).unwrap();
    assert_eq!(config.eos_token_ids().len(), 1_024);
    assert_eq!(config.eos_token_ids()[0], 1_023);
    let different: Vec<u32> = (0..256_000).collect();
    assert_says(
        &refused(with(json!({"eos_token_id": different}))),
        "more than 4096 different token ids",
    );
    // Comparing each id with all others takes minutes.
    assert!(started.elapsed().as_secs() < 20);
}
