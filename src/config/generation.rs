//! The generations of Gemma: which `model_type`s there are, and what absent keys mean in each.

use std::path::Path;

use super::ConfigError;
use super::json::Object;

/// A generation of Gemma, as `model_type` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Generation {
    /// Gemma, the first.
    Gemma1,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3: the text model, by itself or as a part of a multimodal one.
    Gemma3,
    /// Gemma 4, likewise.
    Gemma4,
}

/// Every type that is read, with the generation; the text model of a multimodal type is under
/// [`TEXT_CONFIG`].
const TYPES: [(&str, Generation); 6] = [
    ("gemma", Generation::Gemma1),
    ("gemma2", Generation::Gemma2),
    ("gemma3", Generation::Gemma3),
    ("gemma3_text", Generation::Gemma3),
    ("gemma4", Generation::Gemma4),
    ("gemma4_text", Generation::Gemma4),
];
/// Gemmas that are not run.
const UNSUPPORTED: [&str; 6] = [
    "gemma3n",
    "gemma3n_text",
    "gemma4_unified",
    "gemma4_unified_text",
    "recurrent_gemma",
    "t5gemma",
];

/// The key of a multimodal configuration with the text model's own.
pub(super) const TEXT_CONFIG: &str = "text_config";

/// What keys mean that a configuration does not have: the defaults of Transformers' configuration
/// classes, on which published files rely. Gemma 1 files have all keys that decide the shapes of
/// parameters; one without them was not written for a Gemma, so those have no default there.
pub(super) struct Defaults {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
}

const GEMMA_2: Defaults = Defaults {
    vocab_size: 256_000,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
};
const GEMMA_3: Defaults = Defaults {
    vocab_size: 262_208,
    ..GEMMA_2
};
const GEMMA_4: Defaults = Defaults {
    vocab_size: 262_144,
    num_hidden_layers: 30,
    ..GEMMA_2
};

impl Generation {
    /// The generation of a configuration, and the object with the text model's keys.
    pub(super) fn of<'a>(
        file: &Path,
        keys: &Object<'a>,
    ) -> Result<(Self, Object<'a>), ConfigError> {
        let generation = Self::named(file, keys)?;
        match keys.object(TEXT_CONFIG)? {
            // Gemma 1 and 2 have no multimodal form.
            Some(text) if generation >= Self::Gemma3 => {
                if text.has("model_type") {
                    let inner = Self::named(file, &text)?;
                    if inner != generation {
                        let found = text.value("model_type").cloned().unwrap_or_default();
                        let reason = "it is another generation than the model around it";
                        return Err(text.bad("model_type", &found, reason));
                    }
                }
                Ok((generation, text))
            }
            _ => Ok((generation, keys.clone())),
        }
    }

    fn named(file: &Path, keys: &Object<'_>) -> Result<Self, ConfigError> {
        let known = || TYPES.map(|(name, _)| name).join(", ");
        match keys.string("model_type")? {
            None => Err(keys.missing("model_type")),
            Some(name) => match TYPES.iter().find(|(known, _)| *known == name) {
                Some((_, generation)) => Ok(*generation),
                None if UNSUPPORTED.contains(&name) => Err(ConfigError::UnsupportedModelType {
                    file: file.to_path_buf(),
                    found: name.to_owned(),
                    known: known(),
                }),
                None => Err(ConfigError::UnknownModelType {
                    file: file.to_path_buf(),
                    found: name.chars().take(64).collect(),
                    known: known(),
                }),
            },
        }
    }

    /// The type of its text model.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Gemma1 => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Gemma4 => "gemma4_text",
        }
    }

    /// What absent sizes are; none where they must be there.
    pub(super) fn defaults(self) -> Option<&'static Defaults> {
        match self {
            Self::Gemma1 => None,
            Self::Gemma2 => Some(&GEMMA_2),
            Self::Gemma3 => Some(&GEMMA_3),
            Self::Gemma4 => Some(&GEMMA_4),
        }
    }

    /// The window of a model without `sliding_window`.
    pub(super) fn window(self) -> usize {
        match self {
            Self::Gemma1 | Self::Gemma2 | Self::Gemma3 => 4096,
            Self::Gemma4 => 512,
        }
    }

    /// Positions of a model without `max_position_embeddings`.
    pub(super) fn positions(self) -> usize {
        match self {
            Self::Gemma1 | Self::Gemma2 => 8192,
            Self::Gemma3 | Self::Gemma4 => 131_072,
        }
    }
}
