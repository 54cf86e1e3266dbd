//! How long a `tokenizer.json` can make a text, and how few tokens a text can have.

use serde::Deserialize;
use serde_json::Value;

/// The most times that a normalizer or a decoder may make a text longer. Gemma's makes a space
/// three bytes.
const MAX_GROWTH: f64 = 16.0;

/// The parts of the file that decide both.
#[derive(Deserialize)]
pub(super) struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Value,
    #[serde(default)]
    model: Model,
}

#[derive(Default, Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(default)]
    byte_fallback: Value,
}

impl Parts {
    /// Refuses a file whose steps could fill the memory from a short text.
    pub(super) fn check_growth(&self) -> Result<(), String> {
        for (name, step) in [("normalizer", &self.normalizer), ("decoder", &self.decoder)] {
            let times = growth(step);
            if times > MAX_GROWTH {
                return Err(format!(
                    "its {name} can make a text {times:.0} times longer; the most is {MAX_GROWTH}"
                ));
            }
        }
        Ok(())
    }

    /// Whether each token stands for no more bytes of a text than its own name has: nothing
    /// shortens a text before it is split, and nothing in it is dropped or merged without being in
    /// the vocabulary.
    pub(super) fn tokens_cover_text(&self) -> bool {
        let swallows = |token: &Value| {
            token["lstrip"] != Value::Bool(false) || token["rstrip"] != Value::Bool(false)
        };
        let added = self.added_tokens.as_array();
        self.model.kind == "BPE"
            && self.model.byte_fallback == true
            && never_shortens(&self.normalizer)
            && keeps_all(&self.pre_tokenizer)
            && added.is_none_or(|tokens| !tokens.iter().any(swallows))
    }
}

/// The steps of a sequence, or the step itself.
fn steps(step: &Value) -> &[Value] {
    let list = ["normalizers", "decoders", "pretokenizers"]
        .into_iter()
        .find_map(|name| step[name].as_array());
    match list {
        Some(list) => list,
        None => std::slice::from_ref(step),
    }
}

/// An upper bound of how many times longer a step makes a text.
fn growth(step: &Value) -> f64 {
    let steps = steps(step);
    if !matches!(steps, [single] if std::ptr::eq(single, step)) {
        return steps.iter().map(growth).product();
    }
    let length = |value: &Value| value.as_str().map_or(0, str::len) as f64;
    match step["type"].as_str() {
        Some("Replace") => {
            let content = length(&step["content"]);
            match length(&step["pattern"]["String"]) {
                // Nothing, which is between any two characters; or an expression, which may match
                // that.
                0.0 => content + 1.0,
                pattern => (content / pattern).max(1.0),
            }
        }
        // One of them is usual; what it maps a character to is as long as the file has it.
        Some("Precompiled") => MAX_GROWTH,
        _ => 1.0,
    }
}

fn never_shortens(normalizer: &Value) -> bool {
    let shortens = |step: &Value| match step["type"].as_str() {
        Some("Replace") => {
            let (content, pattern) = (&step["content"], &step["pattern"]["String"]);
            let length = |value: &Value| value.as_str().map(str::len);
            !matches!((length(content), length(pattern)), (Some(c), Some(p)) if c >= p)
        }
        Some("Prepend") => false,
        _ => true,
    };
    normalizer.is_null() || !steps(normalizer).iter().any(shortens)
}

fn keeps_all(pre_tokenizer: &Value) -> bool {
    let drops = |step: &Value| step["type"] != "Split" || step["behavior"] == "Removed";
    pre_tokenizer.is_null() || !steps(pre_tokenizer).iter().any(drops)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parts(value: Value) -> Parts {
        serde_json::from_value(value).expect("an object")
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({"type": "Replace", "pattern": pattern, "content": content})
    }

    #[test]
    fn steps_that_multiply_a_text_are_refused_however_they_are_nested() {
        let ten = || replace(json!({"String": "a"}), "aaaaaaaaaa");
        let nine: Vec<Value> = (0..9).map(|_| ten()).collect();
        let sequence = json!({"type": "Sequence", "normalizers": nine});
        let nested = json!({"type": "Sequence", "normalizers": [sequence]});
        for normalizer in [
            sequence,
            nested,
            replace(json!({"Regex": ""}), &"a".repeat(16)),
        ] {
            let error = parts(json!({"normalizer": normalizer})).check_growth();
            let error = error.expect_err("it grows");
            assert!(error.starts_with("its normalizer can make"), "{error}");
        }
        let decoders = json!({"type": "Sequence", "decoders": [ten(), ten()]});
        let error = parts(json!({"decoder": decoders})).check_growth();
        assert!(
            error
                .expect_err("it grows")
                .contains("decoder can make a text 100 times")
        );
        assert_eq!(parts(json!({"normalizer": ten()})).check_growth(), Ok(()));
    }

    #[test]
    fn gemmas_tokens_cover_a_text_and_those_that_drop_parts_of_it_do_not() {
        let gemma = json!({
            "normalizer": replace(json!({"String": " "}), "\u{2581}"),
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"},
            "added_tokens": [{"id": 0, "lstrip": false, "rstrip": false}],
            "model": {"type": "BPE", "byte_fallback": true, "vocab": {}}
        });
        assert!(parts(gemma.clone()).tokens_cover_text());
        for (key, value) in [
            ("/normalizer", json!({"type": "Strip"})),
            ("/normalizer/content", json!("")),
            ("/pre_tokenizer", json!({"type": "Whitespace"})),
            ("/pre_tokenizer/behavior", json!("Removed")),
            ("/added_tokens/0/rstrip", json!(true)),
            ("/model/byte_fallback", json!(false)),
            ("/model/type", json!("Unigram")),
        ] {
            let mut edited = gemma.clone();
            *edited.pointer_mut(key).expect("it is there") = value;
            assert!(!parts(edited).tokens_cover_text(), "{key}");
        }
    }
}
