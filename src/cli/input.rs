//! Prompts from the command line, a text file or JSON lines.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::input_file::without_byte_order_mark;
use crate::tokenizer::Tokenizer;

/// The longest line. No prompt that a Gemma has positions for comes near it.
const MAX_LINE: usize = 1 << 24;
/// The most bytes of prompts. They are kept in memory.
const MAX_INPUT: usize = 1 << 30;

/// The format of `--input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// One prompt per line.
    Text,
    /// One JSON object per line, with `prompt` or `token_ids`, and an optional `id`.
    Jsonl,
}

impl InputFormat {
    /// The format that a file's name says it has.
    fn of_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Some(InputFormat::Jsonl),
            "txt" | "text" | "md" => Some(InputFormat::Text),
            _ => None,
        }
    }

    /// The format of input whose name says nothing, by its first line that is not blank.
    fn of_line(line: &str) -> Self {
        let line = line.trim_start();
        // A text may begin with a bracket, as "[1] …" does: JSON is a list that is whole, or goes
        // on in the next line.
        let is_list = || match serde_json::from_str::<IgnoredAny>(line) {
            Ok(_) => true,
            Err(error) => error.is_eof(),
        };
        match line.bytes().next() {
            Some(b'{') => InputFormat::Jsonl,
            Some(b'[') if is_list() => InputFormat::Jsonl,
            _ => InputFormat::Text,
        }
    }
}

/// A prompt as it was given.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The caller's own name for it: JSON as it was written, so that a number keeps its digits and
    /// an object its order.
    pub id: Option<Box<RawValue>>,
    /// Its text, where it was given as text.
    pub text: Option<String>,
    /// Its token ids, where it was given as ids.
    token_ids: Option<Vec<u32>>,
    /// The file and line, for messages.
    place: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: Option<Box<RawValue>>,
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
        match line.trim_start().bytes().next() {
            Some(b'{') => {}
            Some(b'[') => {
                bail!("{place}: a JSON array, not JSON lines: expected one object per line")
            }
            _ => bail!("{place}: not a prompt: expected a JSON object"),
        }
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("{place}: not a prompt"))?;
        let prompt = Self {
            id: line.id,
            text: line.prompt,
            token_ids: line.token_ids,
            place,
        };
        match (&prompt.text, &prompt.token_ids) {
            (Some(_), Some(_)) => bail!("{prompt}: has both \"prompt\" and \"token_ids\""),
            (None, None) => bail!("{prompt}: has neither \"prompt\" nor \"token_ids\""),
            _ => Ok(prompt),
        }
    }

    /// The ids to run: those given, or the tokenizer's for a text. The model in the folder `model`
    /// has `positions` positions.
    pub fn ids(
        &self,
        tokenizer: Option<&Tokenizer>,
        model: &Path,
        positions: usize,
    ) -> anyhow::Result<Vec<u32>> {
        let ids = match (&self.token_ids, &self.text, tokenizer) {
            (Some(ids), _, _) => ids.clone(),
            (None, Some(text), Some(tokenizer)) => {
                // Encoding takes time and memory, and this text cannot be used.
                let least = tokenizer.least_tokens(text.len());
                ensure!(
                    least < positions,
                    "{self}: has {} bytes, which are at least {least} tokens; \
                     max_position_embeddings is {positions}",
                    text.len()
                );
                tokenizer.encode(text).with_context(|| self.to_string())?
            }
            (None, _, _) => bail!(
                "{self}: a text prompt needs a tokenizer, and {} has neither tokenizer.json nor tokenizer.model",
                model.display()
            ),
        };
        ensure!(!ids.is_empty(), "{self}: the prompt has no tokens");
        Ok(ids)
    }
}

/// The longest id that a message shows.
const MAX_SHOWN_ID: usize = 64;

/// Where the prompt stands: file, line and id.
impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        match self.id.as_deref().map(RawValue::get) {
            None => Ok(()),
            Some(id) => match id.char_indices().nth(MAX_SHOWN_ID) {
                None => write!(f, " (id {id})"),
                Some((end, _)) => write!(f, " (id {}…)", &id[..end]),
            },
        }
    }
}

/// The prompts, and the format of the input where there is one.
#[derive(Debug)]
pub struct Prompts {
    /// Those of the arguments, then those of the input; at least one.
    pub prompts: Vec<Prompt>,
    /// The format of the input.
    pub format: Option<InputFormat>,
}

/// Reads the prompts of the arguments, then those of the input.
pub fn read_prompts(
    arguments: &[String],
    input: Option<&Path>,
    format: Option<InputFormat>,
) -> anyhow::Result<Prompts> {
    let prompts: Vec<Prompt> = arguments
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
        return Ok(Prompts {
            prompts,
            format: None,
        });
    };
    let before = prompts.len();
    let mut reader = Reader {
        name: path.display().to_string(),
        format: format.or_else(|| InputFormat::of_name(path)),
        prompts,
    };
    if path == Path::new("-") {
        reader.name = "standard input".to_owned();
        reader.read(std::io::stdin().lock())?;
    } else {
        // Input is read once, line by line, so that it can be a pipe or FIFO.
        let file = File::open(path).with_context(|| reader.name.clone())?;
        reader.read(BufReader::new(file))?;
    }
    if reader.prompts.len() == before {
        bail!("{}: has no prompts", reader.name);
    }
    Ok(Prompts {
        prompts: reader.prompts,
        format: reader.format,
    })
}

struct Reader {
    name: String,
    /// Known at the latest after the first line that is not blank.
    format: Option<InputFormat>,
    prompts: Vec<Prompt>,
}

impl Reader {
    fn read(&mut self, mut input: impl BufRead) -> anyhow::Result<()> {
        let mut line = Vec::new();
        let mut blank = 0;
        let mut offset = 0;
        for number in 1.. {
            line.clear();
            let limit = MAX_LINE as u64 + 1;
            let read = input.by_ref().take(limit).read_until(b'\n', &mut line);
            let read = read.with_context(|| self.name.clone())?;
            if read == 0 {
                break;
            }
            let place = format!("{}: line {number}", self.name);
            ensure!(
                line.len() <= MAX_LINE,
                "{place}: longer than {MAX_LINE} bytes"
            );
            ensure!(
                offset + read <= MAX_INPUT,
                "{place}: more than the {MAX_INPUT} bytes that the prompts of a run may have"
            );
            let start = match number {
                1 => read - without_byte_order_mark(&line).len(),
                _ => 0,
            };
            let text = match std::str::from_utf8(&line[start..]) {
                Ok(text) => without_line_end(text),
                Err(e) => {
                    let at = offset + start + e.valid_up_to();
                    bail!("{}: not UTF-8 at byte {at}", self.name)
                }
            };
            offset += read;
            if self.format.is_none() && text.trim().is_empty() {
                // These are prompts if the input turns out to be text.
                blank += 1;
                continue;
            }
            let format = *self
                .format
                .get_or_insert_with(|| InputFormat::of_line(text));
            for earlier in number - blank..number {
                self.add(format, "", format!("{}: line {earlier}", self.name))?;
            }
            blank = 0;
            self.add(format, text, place)?;
        }
        if self.format.is_none() {
            // Blank lines alone are prompts of a text.
            for earlier in 1..=blank {
                self.add(
                    InputFormat::Text,
                    "",
                    format!("{}: line {earlier}", self.name),
                )?;
            }
        }
        Ok(())
    }

    fn add(&mut self, format: InputFormat, line: &str, place: String) -> anyhow::Result<()> {
        match format {
            InputFormat::Text => self.prompts.push(Prompt::text(line, place)),
            InputFormat::Jsonl if line.trim().is_empty() => {}
            InputFormat::Jsonl => self.prompts.push(Prompt::from_json(line, place)?),
        }
        Ok(())
    }
}

fn without_line_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}
