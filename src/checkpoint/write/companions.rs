//! The files beside the weights that belong to a checkpoint: configuration and tokenizer.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::WriteError;
use crate::checkpoint;
use crate::config::CONFIG_FILE;
use crate::dtype::DType;
use crate::input_file;
use crate::json_text;

/// The names that these files have.
pub(super) const COMPANIONS: [&str; 9] = [
    CONFIG_FILE,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// The largest of these files that is copied. Gemma's have up to 40 megabytes.
const MAX_FILE: u64 = 1 << 30;

/// Copies those that are in `source` into `target`, and gives their names. Where a `dtype` is
/// given, config.json names it in place of the one that it has.
pub(super) fn copy(
    source: &Path,
    target: &Path,
    dtype: Option<DType>,
) -> Result<Vec<&'static str>, WriteError> {
    let mut copied = Vec::new();
    for name in COMPANIONS {
        let file = source.join(name);
        let unreadable = |source| checkpoint::Error::Open {
            file: file.clone(),
            source,
        };
        let mut content = match input_file::read(&file, MAX_FILE) {
            Ok(Some(content)) => content,
            Ok(None) => {
                let problem = format!("larger than {MAX_FILE} bytes");
                return Err(unreadable(io::Error::other(problem)).into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error).into()),
        };
        if let (CONFIG_FILE, Some(dtype)) = (name, dtype) {
            content = with_dtype(&content, dtype).unwrap_or(content);
        }
        let target = target.join(name);
        // The mode is not copied: a read-only file is not kept from being replaced.
        File::create_new(&target)
            .and_then(|mut new| new.write_all(&content))
            .map_err(|source| WriteError::Write {
                file: target,
                source,
            })?;
        copied.push(name);
    }
    Ok(copied)
}

/// A configuration's keys for the dtype of its weights: Transformers' old one and its new one.
#[derive(Deserialize)]
struct Dtypes<'a> {
    #[serde(borrow)]
    torch_dtype: Option<&'a RawValue>,
    #[serde(borrow)]
    dtype: Option<&'a RawValue>,
}

/// The text of a configuration with another dtype, and nothing else changed, not even a space.
/// Where it names none, as Flax's do not, the key is added. Nothing where it is not a JSON object.
fn with_dtype(content: &[u8], dtype: DType) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    let masked = json_text::masked(text);
    let found: Dtypes = serde_json::from_str(&masked).ok()?;
    // The values are parts of the masked text, so that their addresses tell where they are in it.
    let place = |value: &RawValue| {
        let start = value
            .get()
            .as_ptr()
            .addr()
            .checked_sub(masked.as_ptr().addr())?;
        Some(start..start + value.get().len())
    };
    let mut places: Vec<Range<usize>> = [found.torch_dtype, found.dtype]
        .into_iter()
        .flatten()
        .filter_map(place)
        .collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.start));
    let mut text = text.to_owned();
    if places.is_empty() {
        let inside = text.find('{')? + 1;
        let rest = text.get(inside..)?;
        let content = rest.trim_start();
        let space = rest.get(..rest.len() - content.len())?.to_owned();
        let comma = if content.starts_with('}') { "" } else { "," };
        // Every version of Transformers reads the old key.
        text.insert_str(
            inside,
            &format!("{space}\"torch_dtype\": \"{dtype}\"{comma}"),
        );
    }
    for place in places {
        text.replace_range(place, &format!("\"{dtype}\""));
    }
    Some(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dtype_is_replaced_and_nothing_else_changes() {
        let config = "{\n  \"eps\": 1e-06,\n\t\"torch_dtype\" : \"bfloat16\" , \"b\": {\"dtype\": \"x\"},\n  \"a\": 1\n}\n";
        let expected = config.replace("\"bfloat16\"", "\"float32\"");
        let found = with_dtype(config.as_bytes(), DType::F32).unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), expected);
        let both = with_dtype(br#"{"dtype": "f", "torch_dtype": "g"}"#, DType::F16).unwrap();
        assert_eq!(both, br#"{"dtype": "float16", "torch_dtype": "float16"}"#);
        for (without, expected) in [
            ("{}", "{\"torch_dtype\": \"float16\"}"),
            (
                "{\n  \"a\": 1\n}\n",
                "{\n  \"torch_dtype\": \"float16\",\n  \"a\": 1\n}\n",
            ),
        ] {
            let found = with_dtype(without.as_bytes(), DType::F16).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), expected);
        }
        let infinite = with_dtype(br#"{"a": Infinity, "dtype": "f"}"#, DType::F16).unwrap();
        assert_eq!(infinite, br#"{"a": Infinity, "dtype": "float16"}"#);
        assert!(with_dtype(b"[", DType::F16).is_none());
    }
}
