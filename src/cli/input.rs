//! Prompts from the command line, a text file or JSON lines.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Deserialize;

use crate::tokenizer::Tokenizer;

/// The form of `--input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// A prompt a line.
    Text,
    /// A JSON object a line, with `prompt` or `token_ids`, and an optional `id`.
    Jsonl,
}

impl InputFormat {
    /// The format of a file by its name, where none is given.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some(e) if e.eq_ignore_ascii_case("jsonl") => InputFormat::Jsonl,
            _ => InputFormat::Text,
        }
    }
}

/// A prompt as it was given.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The caller's own name for it.
    pub id: Option<serde_json::Value>,
    /// Its text, where it was given as text.
    pub text: Option<String>,
    /// Its token ids, where it was given as ids.
    token_ids: Option<Vec<u32>>,
    /// Where it stands, for messages.
    place: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: Option<serde_json::Value>,
    prompt: Option<String>,
    token_ids: Option<Vec<u32>>,
}

impl Prompt {
    fn text(text: &str, place: String) -> Self {
        Self {
            id: None,
            text: Some(text.to_owned()),
            token_ids: None,
            place,
        }
    }

    fn from_json(line: &str, place: String) -> anyhow::Result<Self> {
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("{place}: not a prompt"))?;
        match (&line.prompt, &line.token_ids) {
            (Some(_), Some(_)) => bail!("{place}: has both \"prompt\" and \"token_ids\""),
            (None, None) => bail!("{place}: has neither \"prompt\" nor \"token_ids\""),
            _ => Ok(Self {
                id: line.id,
                text: line.prompt,
                token_ids: line.token_ids,
                place,
            }),
        }
    }

    /// The ids to run: given ones as they are, a text's by the tokenizer.
    pub fn ids(&self, tokenizer: Option<&Tokenizer>, model: &Path) -> anyhow::Result<Vec<u32>> {
        let ids = match (&self.token_ids, &self.text, tokenizer) {
            (Some(ids), _, _) => ids.clone(),
            (None, Some(text), Some(tokenizer)) => {
                tokenizer.encode(text).with_context(|| self.place.clone())?
            }
            _ => bail!(
                "{}: a text, but {} has neither tokenizer.json nor tokenizer.model; give {{\"token_ids\": […]}} in JSON lines",
                self.place,
                model.display()
            ),
        };
        if ids.is_empty() {
            bail!("{}: the prompt has no tokens", self.place);
        }
        Ok(ids)
    }
}

/// The prompts of the arguments, then those of the input; at least one.
pub fn read_prompts(
    arguments: &[String],
    input: Option<&PathBuf>,
    format: Option<InputFormat>,
) -> anyhow::Result<Vec<Prompt>> {
    let mut prompts: Vec<Prompt> = arguments
        .iter()
        .enumerate()
        .map(|(i, text)| Prompt::text(text, format!("prompt {} of the arguments", i + 1)))
        .collect();
    let Some(path) = input else {
        if prompts.is_empty() {
            bail!(
                "no prompt: give one as an argument, or a file with --input (- for standard input)"
            );
        }
        return Ok(prompts);
    };
    let (name, content) = read_input(path)?;
    let before = prompts.len();
    for (number, line) in content.lines().enumerate() {
        let place = format!("{name}: line {}", number + 1);
        match format.unwrap_or_else(|| InputFormat::of(path)) {
            InputFormat::Text => prompts.push(Prompt::text(line, place)),
            InputFormat::Jsonl if line.trim().is_empty() => {}
            InputFormat::Jsonl => prompts.push(Prompt::from_json(line, place)?),
        }
    }
    if prompts.len() == before {
        bail!("{name}: has no prompts");
    }
    Ok(prompts)
}

fn read_input(path: &Path) -> anyhow::Result<(String, String)> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let name = "standard input".to_owned();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .with_context(|| name.clone())?;
        (name, bytes)
    } else {
        let name = path.display().to_string();
        (name.clone(), std::fs::read(path).with_context(|| name)?)
    };
    match String::from_utf8(bytes) {
        Ok(content) => Ok((name, content)),
        Err(e) => bail!("{name}: not UTF-8 at byte {}", e.utf8_error().valid_up_to()),
    }
}
