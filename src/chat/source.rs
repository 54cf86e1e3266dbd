//! Where a checkpoint's chat template and its special tokens stand.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use minijinja::Value;
use serde_json::{Map, Value as Json};

use super::{Error, Result};
use crate::input_file;
use crate::json_text;

/// The file of a template by itself, which newer versions of Transformers write; it goes before
/// [`CONFIG_FILE`]'s.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";
/// The tokenizer's configuration, which holds the special tokens, and in older checkpoints the
/// template.
pub const CONFIG_FILE: &str = "tokenizer_config.json";

/// The largest file that is read. Gemma 3's tokenizer_config.json has a megabyte.
const MAX_FILE: u64 = 1 << 26;
/// The special tokens that Transformers gives to a template by name.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The special tokens that a template may name: `bos_token` and its fellows.
#[derive(Clone, Debug)]
pub struct SpecialTokens(BTreeMap<String, Value>);

impl Default for SpecialTokens {
    /// Gemma's.
    fn default() -> Self {
        let tokens = [
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
        ];
        Self(
            tokens
                .map(|(name, token)| (name.to_owned(), token.into()))
                .into(),
        )
    }
}

impl SpecialTokens {
    /// The variables of a template.
    pub(super) fn values(&self) -> Value {
        let token = |(name, token): (&String, &Value)| (name.clone(), token.clone());
        Value::from_pairs(self.0.iter().map(token))
    }

    /// Gemma's tokens, changed by what a tokenizer_config.json says.
    fn from_config(file: &Path, config: &Map<String, Json>) -> Result<Self> {
        let mut tokens = Self::default();
        for name in NAMES {
            if let Some(token) = config.get(name) {
                tokens.set(file, name, name, token)?;
            }
        }
        if let Some(list) = config
            .get("additional_special_tokens")
            .filter(|list| !list.is_null())
        {
            let key = "additional_special_tokens";
            let entries = list
                .as_array()
                .ok_or_else(|| wrong_type(file, key, "a list of tokens"))?;
            let texts = entries
                .iter()
                .map(|token| text(file, key, token))
                .collect::<Result<Vec<_>>>()?;
            tokens
                .0
                .insert(key.to_owned(), texts.into_iter().flatten().collect());
        }
        // Gemma 3's names for the marks around an image. Older files have a list here, which names
        // nothing.
        if let Some(Json::Object(extra)) = config.get("extra_special_tokens") {
            for (name, token) in extra {
                tokens.set(file, name, &format!("extra_special_tokens.{name}"), token)?;
            }
        }
        Ok(tokens)
    }

    /// Sets a token; one that is null or empty is taken away.
    fn set(&mut self, file: &Path, name: &str, key: &str, token: &Json) -> Result<()> {
        match text(file, key, token)?.filter(|text| !text.is_empty()) {
            Some(text) => self.0.insert(name.to_owned(), text.into()),
            None => self.0.remove(name),
        };
        Ok(())
    }
}

/// What a folder holds.
pub(super) struct Found {
    /// The template and its file.
    pub template: Option<(PathBuf, String)>,
    pub special_tokens: SpecialTokens,
}

/// Reads a folder's template and special tokens; what is not there stays Gemma's.
pub(super) fn find(dir: &Path) -> Result<Found> {
    let config_file = dir.join(CONFIG_FILE);
    let (mut template, mut special_tokens) = (None, SpecialTokens::default());
    if let Some(config) = read(&config_file)? {
        let config = object(&config_file, &config)?;
        special_tokens = SpecialTokens::from_config(&config_file, &config)?;
        template = of_config(&config_file, &config)?.map(|template| (config_file, template));
    }
    let file = dir.join(TEMPLATE_FILE);
    if let Some(content) = read(&file)? {
        template = Some((file, content));
    }
    Ok(Found {
        template,
        special_tokens,
    })
}

/// The template of a tokenizer_config.json: a string, or a list of named ones.
fn of_config(file: &Path, config: &Map<String, Json>) -> Result<Option<String>> {
    let key = "chat_template";
    let expected = "a template, or a list of objects with \"name\" and \"template\"";
    let named = match config.get(key) {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(template)) => return Ok(Some(template.clone())),
        Some(Json::Array(named)) => named,
        Some(_) => return Err(wrong_type(file, key, expected)),
    };
    let mut names = Vec::new();
    for entry in named {
        let field = |name| entry.get(name).and_then(Json::as_str);
        let (Some(name), Some(template)) = (field("name"), field("template")) else {
            return Err(wrong_type(file, key, expected));
        };
        if name == "default" {
            return Ok(Some(template.to_owned()));
        }
        names.push(name);
    }
    Err(Error::NoDefault {
        file: file.to_path_buf(),
        names: names.join(", "),
    })
}

/// A token's text: a string, an object that describes it, or nothing.
fn text(file: &Path, key: &str, token: &Json) -> Result<Option<String>> {
    let content = match token {
        Json::Null => return Ok(None),
        Json::Object(described) => described.get("content").and_then(Json::as_str),
        other => other.as_str(),
    };
    let wrong = || wrong_type(file, key, "a token, or an object with its \"content\"");
    content.map(|text| Some(text.to_owned())).ok_or_else(wrong)
}

fn object(file: &Path, content: &str) -> Result<Map<String, Json>> {
    match serde_json::from_slice(&json_text::standard(content.as_bytes())) {
        Ok(Json::Object(config)) => Ok(config),
        Ok(_) => Err(wrong_type(file, "the file", "an object")),
        Err(source) => Err(Error::Json {
            file: file.to_path_buf(),
            source,
        }),
    }
}

fn wrong_type(file: &Path, key: &str, expected: &'static str) -> Error {
    Error::WrongType {
        file: file.to_path_buf(),
        key: key.to_owned(),
        expected,
    }
}

/// A file's text without a byte-order mark, or nothing where there is no file. A link to nothing is
/// an error.
fn read(file: &Path) -> Result<Option<String>> {
    match read_whole(file) {
        Ok(content) => Ok(Some(match content.strip_prefix('\u{feff}') {
            Some(content) => content.to_owned(),
            None => content,
        })),
        Err(problem) if is_absent(file, &problem) => Ok(None),
        Err(source) => Err(Error::Read {
            file: file.to_path_buf(),
            source,
        }),
    }
}

fn is_absent(file: &Path, problem: &io::Error) -> bool {
    problem.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(file).is_err()
}

fn read_whole(file: &Path) -> io::Result<String> {
    let content = input_file::read(file, MAX_FILE)?;
    let too_large = || io::Error::other(format!("larger than {MAX_FILE} bytes"));
    String::from_utf8(content.ok_or_else(too_large)?).map_err(io::Error::other)
}
