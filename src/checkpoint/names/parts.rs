//! The parts of a multimodal model: its text model, which is read, and others.

use std::collections::BTreeMap;

/// What the segments of names call the parts that are not the text model: in Transformers' models
/// and in DeepMind's.
const OTHERS: [&str; 10] = [
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "multi_modal_projector",
    "embed_vision",
    "audio_tower",
    "audio_encoder",
    "embed_audio",
    "SigLiPFromPatches_0",
    "audio_embedder",
];
/// The beginning of the names that DeepMind's embedder gives to what it needs for images.
const MULTIMODAL: &str = "mm_";
/// Where the text model's names begin in a multimodal model of Transformers, and in the text model
/// by itself.
const TEXT: [(&str, &str); 3] = [
    ("language_model/model/", "model/"),
    ("language_model/lm_head/", "lm_head/"),
    ("model/language_model/", "model/"),
];

/// The part other than the text model that a stored name, joined by slashes, belongs to.
pub(super) fn other_part(name: &str) -> Option<&str> {
    let mut end = 0;
    for segment in name.split('/') {
        end += segment.len();
        let is_other = OTHERS.contains(&segment) || segment.starts_with(MULTIMODAL);
        if is_other {
            return name.get(..end);
        }
        end += 1;
    }
    None
}

/// The name that a tensor of the text model has where that is by itself.
pub(super) fn of_text(name: &str) -> Option<String> {
    TEXT.iter().find_map(|(within, alone)| {
        let rest = name.strip_prefix(within)?;
        Some(format!("{alone}{rest}"))
    })
}

/// Counts the tensors of other parts, for messages: "vision_tower (6 tensors)".
pub(super) fn described(parts: &BTreeMap<String, usize>) -> Vec<String> {
    let described = parts.iter().map(|(part, count)| match count {
        1 => format!("{part} (1 tensor)"),
        count => format!("{part} ({count} tensors)"),
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_the_text_model() {
        for (name, part) in [
            ("vision_tower/encoder/layers/0/weight", "vision_tower"),
            ("model/vision_tower/a/weight", "model/vision_tower"),
            (
                "embedder/mm_input_projection/w",
                "embedder/mm_input_projection",
            ),
            (
                "SigLiPFromPatches_0/embedding/kernel",
                "SigLiPFromPatches_0",
            ),
        ] {
            assert_eq!(other_part(name), Some(part));
        }
        assert_eq!(other_part("model/layers/0/mlp/up_proj/weight"), None);
        let alone = of_text("language_model/model/norm/weight");
        assert_eq!(alone.as_deref(), Some("model/norm/weight"));
        let alone = of_text("model/language_model/norm/weight");
        assert_eq!(alone.as_deref(), Some("model/norm/weight"));
        assert_eq!(of_text("model/norm/weight"), None);
    }
}
