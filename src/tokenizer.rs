//! Text to token ids and back, with the checkpoint's own `tokenizer.json`.

use std::path::{Path, PathBuf};

/// A tokenizer that cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is there and is no tokenizer.
    #[error("{}: not a tokenizer: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the library said of it.
        problem: String,
    },
    /// A text that could not be encoded, or ids that could not be decoded.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The tokenizer's file.
        path: PathBuf,
        /// What the library said.
        problem: String,
    },
}

/// The tokenizer of a checkpoint.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<u32>,
}

impl Tokenizer {
    /// Reads `dir/tokenizer.json`, or nothing where there is none. `bos` is the id that texts begin with.
    ///
    /// # Errors
    /// A file that is there and is no tokenizer.
    pub fn from_dir(dir: &Path, bos: Option<u32>) -> Result<Option<Self>, Error> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        match std::fs::read(&path) {
            Ok(json) => Self::from_json(&path, &json, bos).map(Some),
            Err(problem) => Err(Error::Unreadable {
                path,
                problem: problem.to_string(),
            }),
        }
    }

    /// Reads the bytes of a `tokenizer.json`. `path` is the name that errors give it.
    ///
    /// # Errors
    /// Bytes that are no tokenizer.
    pub fn from_json(path: &Path, json: &[u8], bos: Option<u32>) -> Result<Self, Error> {
        match parse(json) {
            Ok(inner) => Ok(Self {
                inner,
                path: path.to_path_buf(),
                bos,
            }),
            Err(problem) => {
                let words: Vec<&str> = problem.split_whitespace().collect();
                Err(Error::Unreadable {
                    path: path.to_path_buf(),
                    problem: words.join(" "),
                })
            }
        }
    }

    /// The ids of `text`, with `<bos>` in front exactly once, whether or not the tokenizer's own rules or the
    /// text put it there.
    ///
    /// # Errors
    /// A text that the tokenizer's model has no pieces for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self
            .inner
            .encode(text, true)
            .map_err(|e| self.unusable(e))?;
        let ids = encoding.get_ids();
        let Some(bos) = self.bos else {
            return Ok(ids.to_vec());
        };
        let doubled = ids.iter().take_while(|&&id| id == bos).count();
        let mut with_bos = vec![bos];
        with_bos.extend(&ids[doubled..]);
        Ok(with_bos)
    }

    /// The text of `ids`, special tokens left out.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.inner.decode(ids, true).map_err(|e| self.unusable(e))
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

    fn unusable(&self, problem: tokenizers::Error) -> Error {
        Error::Unusable {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }
}

/// Parses a tokenizer. The library panics on some malformed files, among them many that are merely cut short: those are found
/// before it sees them, and the rest is caught.
fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| e.to_string())?;
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json)) {
        Ok(parsed) => parsed.map_err(|e| e.to_string()),
        Err(_) => Err("a part of it is malformed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cut_short_anywhere_is_an_error_of_one_line() {
        let whole = include_bytes!("../fuzz/seeds/tokenizer/bpe.json");
        let path = Path::new("tokenizer.json");
        assert!(Tokenizer::from_json(path, whole, Some(2)).is_ok());
        for len in (0..whole.len()).step_by(3) {
            let Err(error) = Tokenizer::from_json(path, &whole[..len], Some(2)) else {
                panic!("{len} bytes are a tokenizer");
            };
            let message = error.to_string();
            assert!(
                message.starts_with("tokenizer.json: not a tokenizer"),
                "{message}"
            );
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
