//! Text to token ids and back, with the checkpoint's own tokenizer: `tokenizer.json`, or SentencePiece's `tokenizer.model`.

mod caught;
mod error;
mod json;
mod pieces;

use std::path::{Path, PathBuf};

pub use error::Error;

use crate::input_file;

/// The file of Hugging Face's tokenizers.
pub const JSON_FILE: &str = "tokenizer.json";
/// The file of SentencePiece, which is read where there is no [`JSON_FILE`].
pub const MODEL_FILE: &str = "tokenizer.model";

/// The largest tokenizer file that is read. Gemma's have up to 40 megabytes.
const MAX_FILE: u64 = 1 << 30;

/// The tokenizer of a checkpoint.
pub struct Tokenizer {
    form: Form,
    path: PathBuf,
    bos: Option<u32>,
}

enum Form {
    Json(json::Json),
    Pieces(Box<pieces::Pieces>),
}

impl Tokenizer {
    /// Reads [`JSON_FILE`] in a folder, else [`MODEL_FILE`], or nothing where there is neither. `bos` is the id that texts begin with.
    ///
    /// # Errors
    /// A file that is there and is no tokenizer.
    pub fn from_dir(dir: &Path, bos: Option<u32>) -> Result<Option<Self>, Error> {
        type Parse = fn(&Path, &[u8], Option<u32>) -> Result<Tokenizer, Error>;
        let forms: [(&str, Parse); 2] =
            [(JSON_FILE, Self::from_json), (MODEL_FILE, Self::from_model)];
        for (name, parse) in forms {
            let path = dir.join(name);
            let unreadable = |problem: &dyn std::fmt::Display| {
                Err(Error::unreadable(&path, &problem.to_string()))
            };
            return match input_file::read(&path, MAX_FILE) {
                Ok(Some(content)) => parse(&path, &content, bos).map(Some),
                Ok(None) => unreadable(&format_args!("larger than {MAX_FILE} bytes")),
                Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => continue,
                Err(problem) => unreadable(&problem),
            };
        }
        Ok(None)
    }

    /// Reads the bytes of a `tokenizer.json`. `path` is the name that errors give it.
    ///
    /// # Errors
    /// Bytes that are no tokenizer.
    pub fn from_json(path: &Path, json: &[u8], bos: Option<u32>) -> Result<Self, Error> {
        let parsed =
            json::Json::parse(json).map_err(|problem| Error::unreadable(path, &problem))?;
        Ok(Self {
            form: Form::Json(parsed),
            path: path.to_path_buf(),
            bos,
        })
    }

    /// Reads the bytes of a SentencePiece `tokenizer.model`. `path` is the name that errors give it.
    ///
    /// # Errors
    /// Bytes that are no tokenizer.
    pub fn from_model(path: &Path, model: &[u8], bos: Option<u32>) -> Result<Self, Error> {
        let parsed =
            pieces::Pieces::parse(model).map_err(|problem| Error::unreadable(path, &problem))?;
        Ok(Self {
            form: Form::Pieces(Box::new(parsed)),
            path: path.to_path_buf(),
            bos,
        })
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of its tokens: ids are below it, unless the file leaves some out.
    pub fn vocabulary_size(&self) -> usize {
        match &self.form {
            Form::Json(tokenizer) => tokenizer.len(),
            Form::Pieces(pieces) => pieces.len(),
        }
    }

    /// The ids of `text`, with `<bos>` in front exactly once, whether or not the tokenizer's own rules or the
    /// text put it there.
    ///
    /// # Errors
    /// A text that the tokenizer's model has no pieces for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let ids = match &self.form {
            Form::Json(tokenizer) => tokenizer.encode(text),
            Form::Pieces(pieces) => pieces.encode(text),
        };
        let ids = ids.map_err(|problem| self.unusable(&problem))?;
        let Some(bos) = self.bos else {
            return Ok(ids);
        };
        let rest = ids.iter().skip_while(|&&id| id == bos);
        Ok(std::iter::once(&bos).chain(rest).copied().collect())
    }

    /// The text of `ids`, special tokens left out. A run of byte tokens that is not UTF-8 becomes a replacement character for each.
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

    /// The text of a row that goes on behind a prompt: what the new tokens add to the prompt's own text, so that a
    /// leading space is not lost.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn decode_continuation(&self, prompt: &[u32], new: &[u32]) -> Result<String, Error> {
        let before = self.decode(prompt)?;
        let all = self.decode(&[prompt, new].concat())?;
        match all.strip_prefix(&before) {
            Some(added) => Ok(added.to_owned()),
            None => self.decode(new),
        }
    }

    /// The first of `ids`, up to where the text cannot change by what follows: byte tokens at the end may be the beginning of a
    /// character, or turn out not to be UTF-8.
    pub fn settled<'a>(&self, ids: &'a [u32]) -> &'a [u32] {
        let open = ids.iter().rev().take_while(|&&id| self.is_byte(id)).count();
        ids.split_at(ids.len() - open).0
    }

    fn is_byte(&self, id: u32) -> bool {
        match &self.form {
            Form::Json(tokenizer) => tokenizer
                .token(id)
                .is_some_and(|token| pieces::byte_of(&token).is_some()),
            Form::Pieces(pieces) => pieces.is_byte(id),
        }
    }

    fn unusable(&self, problem: &str) -> Error {
        Error::Unusable {
            path: self.path.clone(),
            problem: error::one_line(problem),
        }
    }
}
