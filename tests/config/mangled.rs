//! Values and texts that no one wrote on purpose: whatever they are, an answer, and never a panic.

use std::path::Path;

use gemma_xla::config::GemmaConfig;
use proptest::prelude::*;
use serde_json::Value;

use super::{FILE, gemma_2b, parse};

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..70_000_u64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("rope_theta|rope_type|type|.", inner, 0..4)
                .prop_map(|keys| Value::Object(keys.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_values_give_an_answer_and_what_is_accepted_is_consistent(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), values()), 1..4)
    ) {
        let mut keys = gemma_2b();
        let mut names: Vec<String> = keys.keys().cloned().collect();
        names.extend(["hidden_activation", "tie_word_embeddings", "rope_parameters", "dtype"].map(str::to_owned));
        for (index, value) in changes {
            keys.insert(index.get(&names).clone(), value);
        }
        match parse(&keys) {
            Ok(config) => {
                prop_assert_eq!(config.queries_per_key_value_head() * config.num_key_value_heads(), config.num_attention_heads());
                prop_assert!(config.query_size().checked_mul(config.hidden_size()).is_some());
                prop_assert!((config.padding_id() as usize) < config.vocab_size());
                prop_assert!(config.rope_theta().is_finite() && config.rms_norm_eps().is_finite());
            }
            Err(error) => {
                let message = error.to_string();
                prop_assert!(message.starts_with(FILE) && !message.contains('\n'), "{}", message);
            }
        }
    }

    #[test]
    fn any_cut_of_the_text_gives_an_answer(cut in any::<prop::sample::Index>(), text in ".{0,40}") {
        let whole = Value::from(gemma_2b()).to_string();
        let mut changed = whole[..cut.index(whole.len())].to_owned();
        changed.push_str(&text);
        let _ = GemmaConfig::from_json(Path::new(FILE), &changed);
    }
}
