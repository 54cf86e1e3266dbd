//! A model's files, opened together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::assumed::{open_config, tokenizer_folder};
use super::checkpoint::{fitted, open_checkpoint};
use super::loaded::{LoadedModel, Origin};
use crate::chat::{BuiltIn, ChatTemplate};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::config::{GemmaConfig, Generation, GenerationConfig};
use crate::engine::{Engine, LoadOptions, Result};
use crate::tokenizer::Tokenizer;

/// A model in a folder: its configuration, checkpoint and tokenizer, opened but not yet on a
/// device.
///
/// Opening reads headers, not weights. The files may change until the model is loaded.
pub struct Model {
    folder: PathBuf,
    config: GemmaConfig,
    generation: GenerationConfig,
    checkpoint: Checkpoint,
    tokenizer: Option<Tokenizer>,
}

impl Model {
    /// Opens the model in a folder: config.json, the weights, and tokenizer.json or tokenizer.model
    /// where one of them is there. Without a config.json, weights of a published model's names and
    /// shapes are taken for that model's, and the tokenizer may be in a folder above.
    ///
    /// # Errors
    /// A folder without a usable configuration or checkpoint, a tokenizer that is there and
    /// malformed.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let (config, assumed) = open_config(folder)?;
        if let Some(name) = assumed {
            tracing::warn!(
                "{}: has no config.json; names and shapes are those of {name}, whose configuration \
                 is assumed",
                folder.display()
            );
        }
        Ok(Self {
            generation: GenerationConfig::from_dir(folder, config.vocab_size())?,
            checkpoint: fitted(&open_checkpoint(folder)?, &config),
            tokenizer: Tokenizer::from_dir(&tokenizer_folder(folder))?,
            folder: folder.to_path_buf(),
            config,
        })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What its config.json and generation_config.json say.
    pub fn config(&self) -> &GemmaConfig {
        &self.config
    }

    /// The defaults of generation that its generation_config.json has.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Its chat template: that of its folder, else the one of its generation of Gemma.
    ///
    /// # Errors
    /// A file that is there and cannot be read, or holds no template.
    pub fn chat_template(&self) -> crate::chat::Result<ChatTemplate> {
        let otherwise = match self.config.generation() >= Generation::Gemma3 {
            true => BuiltIn::Gemma3,
            false => BuiltIn::Gemma,
        };
        ChatTemplate::from_dir(&self.folder, otherwise)
    }

    /// Its weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its tokenizer, where the folder has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Loads the parameters onto the devices that the options name.
    ///
    /// # Errors
    /// A checkpoint that does not fit its configuration, a missing plugin, a device that fails.
    pub fn load(self, options: &LoadOptions) -> Result<LoadedModel> {
        self.load_with(options, |_, _| {})
    }

    /// The same; `progress` is told how many bytes of parameters have arrived, of how many.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        self,
        options: &LoadOptions,
        progress: impl Fn(u64, u64) + Sync,
    ) -> Result<LoadedModel> {
        let origin = self.origin();
        let engine = Engine::load(self.config, &self.checkpoint, options, progress)?;
        Ok(LoadedModel::new(engine, self.tokenizer, origin))
    }

    fn origin(&self) -> Origin {
        let checkpoint = &self.checkpoint;
        let names: Vec<_> = checkpoint
            .files()
            .iter()
            .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
            .collect();
        let files = match names.as_slice() {
            [] => String::new(),
            [one] => format!(", {one}"),
            [first, .., last] => format!(", {} files from {first} to {last}", names.len()),
        };
        let dtypes: BTreeSet<&str> = checkpoint.tensors().map(Tensor::stored_dtype).collect();
        Origin {
            folder: self.folder.clone(),
            checkpoint: format!(
                "{}{files}, {:.1} MB of parameters",
                checkpoint.format(),
                checkpoint.total_bytes() as f64 / 1e6
            ),
            dtypes: dtypes.into_iter().collect::<Vec<_>>().join(", "),
        }
    }
}
