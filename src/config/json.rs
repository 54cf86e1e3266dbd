//! Typed access to the keys of one configuration file.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;
use crate::input_file::{self, without_byte_order_mark};
use crate::json_text;

/// The largest configuration file that is read. Real ones have a few kilobytes.
const MAX_FILE: u64 = 1 << 24;
/// The most token ids of a list. Each is compared with every new token; published models have
/// three.
const MAX_IDS: usize = 4096;
/// The most characters of a value that a message repeats.
const MAX_SHOWN: usize = 60;

/// An object of a configuration file. A null value counts as an absent key, unless a
/// method says otherwise.
#[derive(Clone)]
pub(super) struct Object<'a> {
    file: &'a Path,
    /// What stands before a key's name in messages: `text_config.` in the object under that key.
    path: String,
    keys: Map<String, Value>,
}

/// Reads a whole configuration file, which must be a regular file of UTF-8 text.
pub(super) fn read_text(file: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        file: file.to_path_buf(),
        source,
    };
    let Some(content) = input_file::read(file, MAX_FILE).map_err(failed)? else {
        return Err(ConfigError::TooLarge {
            file: file.to_path_buf(),
            limit: MAX_FILE,
        });
    };
    match std::str::from_utf8(without_byte_order_mark(&content)) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(failed(std::io::Error::other(error))),
    }
}

impl<'a> Object<'a> {
    /// Parses `text`, the content of `file`.
    pub(super) fn parse(file: &'a Path, text: &str) -> Result<Self, ConfigError> {
        match serde_json::from_slice(&json_text::standard(text.as_bytes())) {
            Ok(Value::Object(keys)) => Ok(Object {
                file,
                path: String::new(),
                keys,
            }),
            Ok(other) => Err(ConfigError::NotAnObject {
                file: file.to_path_buf(),
                found: shown(&other),
            }),
            Err(source) => Err(ConfigError::Json {
                file: file.to_path_buf(),
                source,
            }),
        }
    }

    /// The names of all keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Whether the key exists, whether or not its value is null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// The value, where the key exists and is not null.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// The nested object under `key`, where there is one.
    pub(super) fn object(&self, key: &str) -> Result<Option<Object<'a>>, ConfigError> {
        self.typed(key, "an object", |value| value.as_object().cloned())
            .map(|found| {
                found.map(|keys| Object {
                    file: self.file,
                    path: format!("{}{key}.", self.path),
                    keys,
                })
            })
    }

    /// A string.
    pub(super) fn string(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A number that is finite in float32, the dtype of computations.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.typed(key, "a number", |value| {
            value.as_f64().filter(|number| (*number as f32).is_finite())
        })
    }

    /// A whole number from 1 to `max`.
    pub(super) fn size(&self, key: &str, max: usize) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        if !value.is_i64() && !value.is_u64() {
            return Err(self.wrong_type(key, "a whole number", value));
        }
        value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok())
            .filter(|number| (1..=max).contains(number))
            .map(Some)
            .ok_or_else(|| self.bad(key, value, format!("it must be from 1 to {max}")))
    }

    /// A whole number from 0 to `max`.
    pub(super) fn count(
        &self,
        key: &'static str,
        max: usize,
    ) -> Result<Option<usize>, ConfigError> {
        match self.value(key) {
            Some(value) if value.as_u64() == Some(0) => Ok(Some(0)),
            _ => self.size(key, max),
        }
    }

    /// All keys with their values, null ones too.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.keys.iter()
    }

    /// [`Object::size`] of a key that has no default.
    pub(super) fn required_size(&self, key: &str, max: usize) -> Result<usize, ConfigError> {
        self.size(key, max)?.ok_or_else(|| self.missing(key))
    }

    /// A token id, or a list of them: whole numbers below `vocab_size`.
    pub(super) fn token_ids(
        &self,
        key: &str,
        vocab_size: usize,
    ) -> Result<Option<Vec<u32>>, ConfigError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let (mut ids, mut seen) = (Vec::new(), HashSet::new());
        for id in value
            .as_array()
            .map_or(std::slice::from_ref(value), |list| list)
        {
            if !id.is_i64() && !id.is_u64() {
                return Err(self.wrong_type(key, "a token id or a list of them", id));
            }
            let id = id
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| (*number as usize) < vocab_size)
                .ok_or_else(|| self.out_of_vocabulary(key, id, vocab_size))?;
            if seen.insert(id) {
                ids.push(id);
            }
            if ids.len() > MAX_IDS {
                let reason = format!("it has more than {MAX_IDS} different token ids");
                return Err(self.bad(key, value, reason));
            }
        }
        Ok(Some(ids))
    }

    /// A single token id below `vocab_size`.
    pub(super) fn token_id(
        &self,
        key: &str,
        vocab_size: usize,
    ) -> Result<Option<u32>, ConfigError> {
        match self.value(key) {
            Some(value) if value.is_array() => Err(self.wrong_type(key, "a token id", value)),
            _ => Ok(self
                .token_ids(key, vocab_size)?
                .and_then(|ids| ids.first().copied())),
        }
    }

    /// The error for a missing key that has no default.
    pub(super) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::MissingKey {
            file: self.file.to_path_buf(),
            key: self.full(key),
        }
    }

    /// The error for a value that no model can have.
    pub(super) fn bad(&self, key: &str, found: &Value, reason: impl Into<String>) -> ConfigError {
        ConfigError::BadValue {
            file: self.file.to_path_buf(),
            key: self.full(key),
            found: shown(found),
            reason: reason.into(),
        }
    }

    /// The error for a key that may change what a model of this type computes, and is not known.
    pub(super) fn unknown(
        &self,
        key: &str,
        found: &Value,
        model_type: &'static str,
    ) -> ConfigError {
        ConfigError::UnknownKey {
            file: self.file.to_path_buf(),
            key: self.full(key),
            found: shown(found),
            model_type,
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn out_of_vocabulary(&self, key: &str, id: &Value, vocab_size: usize) -> ConfigError {
        self.bad(
            key,
            id,
            format!(
                "a token id must be from 0 to {}",
                vocab_size.saturating_sub(1)
            ),
        )
    }

    /// The error for a value of another JSON type.
    pub(super) fn wrong_type(
        &self,
        key: &str,
        expected: &'static str,
        found: &Value,
    ) -> ConfigError {
        ConfigError::WrongType {
            file: self.file.to_path_buf(),
            key: self.full(key),
            expected,
            found: shown(found),
        }
    }

    fn typed<'s, T>(
        &'s self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'s Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => read(value)
                .map(Some)
                .ok_or_else(|| self.wrong_type(key, expected, value)),
        }
    }
}

/// The value as JSON on one line, cut where it is long.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
