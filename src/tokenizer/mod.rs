//! Text to token ids and back, with the checkpoint's own tokenizer: `tokenizer.json`, or
//! SentencePiece's `tokenizer.model`.

mod boundary;
mod bounds;
mod caught;
mod error;
mod json;
mod pieces;
mod stream;
mod token;

use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

pub use boundary::BoundaryTokens;
pub use caught::is_catching_panics;
pub use error::Error;
use stream::Role;
pub use stream::TextStream;
pub use token::TokenText;

use crate::input_file;

/// The file of Hugging Face's tokenizers.
pub const JSON_FILE: &str = "tokenizer.json";
/// The file of SentencePiece, which is read where there is no [`JSON_FILE`].
pub const MODEL_FILE: &str = "tokenizer.model";

/// The largest `tokenizer.json` that is read. Gemma's have up to 34 MB.
const MAX_JSON: u64 = 1 << 28;

/// The tokenizer of a checkpoint.
pub struct Tokenizer {
    form: Form,
    path: PathBuf,
    /// Whether tokenizer.json's post-processor says what is put around a text.
    post_processor: bool,
    /// What is put around a text otherwise.
    bos: Option<u32>,
    eos: Option<u32>,
    /// The token that Gemma's texts begin with.
    expected: Option<u32>,
    without_bos: Once,
    /// The most bytes of a text that one token stands for, found when it is first asked for.
    longest_token: OnceLock<Option<usize>>,
}

enum Form {
    Json(json::Json),
    Pieces(Box<pieces::Pieces>),
}

impl Tokenizer {
    /// Reads [`JSON_FILE`] in a folder, else [`MODEL_FILE`], or nothing where there is neither. The
    /// tokens around a text are [`BoundaryTokens::from_dir`]'s.
    ///
    /// # Errors
    /// A file that exists and is not a tokenizer, or a configuration that does not fit it.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, Error> {
        type Parse = fn(&Path, &[u8], &BoundaryTokens) -> Result<Tokenizer, Error>;
        let forms: [(&str, u64, Parse); 2] = [
            (JSON_FILE, MAX_JSON, Self::from_json),
            (MODEL_FILE, pieces::MAX_FILE as u64, Self::from_model),
        ];
        for (name, limit, parse) in forms {
            let path = dir.join(name);
            let unreadable = |problem: &dyn std::fmt::Display| {
                Err(Error::unreadable(&path, &problem.to_string()))
            };
            return match input_file::read(&path, limit) {
                Ok(Some(content)) => {
                    parse(&path, &content, &BoundaryTokens::from_dir(dir)?).map(Some)
                }
                Ok(None) => unreadable(&format_args!("larger than {limit} bytes")),
                Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => continue,
                Err(problem) => unreadable(&problem),
            };
        }
        Ok(None)
    }

    /// Reads the bytes of a `tokenizer.json`. `path` is the name that errors give it.
    ///
    /// # Errors
    /// Bytes that are not a tokenizer, or one without a token that is to be put around a text.
    pub fn from_json(path: &Path, json: &[u8], around: &BoundaryTokens) -> Result<Self, Error> {
        let parsed =
            json::Json::parse(json).map_err(|problem| Error::unreadable(path, &problem))?;
        Self::new(Form::Json(parsed), path, around)
    }

    /// Reads the bytes of a SentencePiece `tokenizer.model`. `path` is the name that errors give
    /// it.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`].
    pub fn from_model(path: &Path, model: &[u8], around: &BoundaryTokens) -> Result<Self, Error> {
        let parsed =
            pieces::Pieces::parse(model).map_err(|problem| Error::unreadable(path, &problem))?;
        Self::new(Form::Pieces(Box::new(parsed)), path, around)
    }

    fn new(form: Form, path: &Path, around: &BoundaryTokens) -> Result<Self, Error> {
        let post_processor = around.post_processor && matches!(form, Form::Json(_));
        let id = |token: &str| match &form {
            Form::Json(tokenizer) => tokenizer.id(token),
            Form::Pieces(pieces) => pieces.id(token),
        };
        let required = |key: &str, token: &Option<String>| match token {
            Some(token) if !post_processor => id(token).map(Some).ok_or_else(|| {
                let problem = format!("{key} {token:?} is not in its vocabulary");
                Error::config(path, problem)
            }),
            _ => Ok(None),
        };
        let bos = required("bos_token", &around.bos)?;
        Ok(Self {
            post_processor,
            bos,
            eos: required("eos_token", &around.eos)?,
            expected: id(boundary::BOS).or(bos),
            without_bos: Once::new(),
            path: path.to_path_buf(),
            longest_token: OnceLock::new(),
            form,
        })
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens. Ids are below it, unless the file skips some.
    pub fn vocabulary_size(&self) -> usize {
        match &self.form {
            Form::Json(tokenizer) => tokenizer.len(),
            Form::Pieces(pieces) => pieces.len(),
        }
    }

    /// The fewest tokens that a text of so many bytes can have, so that a text that is too long can
    /// be refused before it is encoded; 0 where the tokenizer's rules give no bound.
    pub fn least_tokens(&self, bytes: usize) -> usize {
        let longest = self.longest_token.get_or_init(|| match &self.form {
            Form::Json(tokenizer) => tokenizer.longest_token(),
            Form::Pieces(pieces) => Some(pieces.longest_token()),
        });
        longest.map_or(0, |longest| bytes.div_ceil(longest.max(1)))
    }

    /// The ids of `text` with the special tokens around it that the tokenizer's files say, as
    /// Transformers has them; but where one is put in front and the text begins with it, it is
    /// there once. A warning says, once, where the result begins without Gemma's `<bos>`.
    ///
    /// # Errors
    /// A text that the tokenizer's model has no pieces for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let (mut ids, before) = match &self.form {
            Form::Json(tokenizer) if self.post_processor => tokenizer
                .encode_processed(text)
                .map_err(|problem| self.unusable(&problem))?,
            _ => {
                let text = self.encode_rendered(text)?;
                let around = self.bos.into_iter().chain(text).chain(self.eos);
                (around.collect(), usize::from(self.bos.is_some()))
            }
        };
        if let Some(&first) = before.checked_sub(1).and_then(|last| ids.get(last)) {
            let again = ids.iter().skip(before).take_while(|id| **id == first);
            let again = again.count();
            ids.drain(before..before + again);
        }
        if self.expected.is_some() && ids.first() != self.expected.as_ref() {
            self.without_bos.call_once(|| {
                let why = match self.post_processor {
                    true => "its post-processor does not add <bos>",
                    false => "tokenizer_config.json does not have it added",
                };
                tracing::warn!(
                    "{}: a prompt begins without <bos>, since {why}; \
                     Gemma was trained with it and gives poor texts without it",
                    self.path.display()
                );
            });
        }
        Ok(ids)
    }

    /// The ids of `text` alone: for what a chat template rendered, which writes the special tokens
    /// itself.
    ///
    /// # Errors
    /// A text that the tokenizer's model has no pieces for.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, Error> {
        let ids = match &self.form {
            Form::Json(tokenizer) => tokenizer.encode(text),
            Form::Pieces(pieces) => pieces.encode(text),
        };
        ids.map_err(|problem| self.unusable(&problem))
    }

    /// The text of `ids`, special tokens left out. A run of byte tokens that is not UTF-8 becomes a
    /// replacement character for each.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        match &self.form {
            Form::Json(tokenizer) => tokenizer
                .decode(ids)
                .map_err(|problem| self.unusable(&problem)),
            Form::Pieces(pieces) => Ok(pieces.decode(ids)),
        }
    }

    /// What the tokens `new` add to the text of `prompt`, so that a leading space is not lost.
    /// [`Tokenizer::stream`] gives the same in parts.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn decode_continuation(&self, prompt: &[u32], new: &[u32]) -> Result<String, Error> {
        let mut stream = self.stream(prompt);
        let mut text = stream.push(new)?;
        text.push_str(&stream.finish()?);
        Ok(text)
    }

    /// What a token contributes to a text, where [`Tokenizer::decodes_locally`].
    fn role(&self, id: u32) -> Role {
        match &self.form {
            Form::Json(tokenizer) => tokenizer.role(id),
            Form::Pieces(pieces) => pieces.role(id),
        }
    }

    /// Whether the text of a token depends on no other, byte tokens apart.
    fn decodes_locally(&self) -> bool {
        match &self.form {
            Form::Json(tokenizer) => tokenizer.decodes_locally(),
            Form::Pieces(_) => true,
        }
    }

    fn unusable(&self, problem: &str) -> Error {
        Error::Unusable {
            path: self.path.clone(),
            problem: error::one_line(problem),
        }
    }
}
