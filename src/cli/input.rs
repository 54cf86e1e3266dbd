//! Prompts from the command line, a text file or JSON lines.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use clap::ValueEnum;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::chat::{ChatTemplate, Message};
use crate::input_file::without_byte_order_mark;
use crate::tokenizer::Tokenizer;

/// The longest line. No prompt that a Gemma has positions for comes near it.
const MAX_LINE: usize = 1 << 24;

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
    /// Its messages, where it was given as a conversation.
    messages: Option<Vec<Message>>,
    /// The file and line, for messages.
    place: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: Option<Box<RawValue>>,
    prompt: Option<String>,
    token_ids: Option<Vec<u32>>,
    messages: Option<Vec<Message>>,
}

/// What turns prompts into token ids.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The template of conversations, where prompts are such.
    pub chat: Option<&'a ChatTemplate>,
    /// The model's folder, for messages.
    pub model: &'a Path,
    /// The model's positions.
    pub positions: usize,
}

impl<'a> Encoder<'a> {
    /// The same with a tokenizer.
    pub fn with<'b>(self, tokenizer: Option<&'b Tokenizer>) -> Encoder<'b>
    where
        'a: 'b,
    {
        Encoder { tokenizer, ..self }
    }
}

impl Prompt {
    fn text(text: &str, place: String) -> Self {
        Self {
            id: None,
            text: Some(text.to_owned()),
            token_ids: None,
            messages: None,
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
        let line: Record =
            serde_json::from_str(line).with_context(|| format!("{place}: not a prompt"))?;
        let prompt = Self {
            id: line.id,
            text: line.prompt,
            token_ids: line.token_ids,
            messages: line.messages,
            place,
        };
        let given = [
            ("prompt", prompt.text.is_some()),
            ("token_ids", prompt.token_ids.is_some()),
            ("messages", prompt.messages.is_some()),
        ];
        let given: Vec<&str> = given
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect();
        match given.as_slice() {
            [_] => Ok(prompt),
            [] => bail!("{prompt}: has neither \"prompt\" nor \"token_ids\" nor \"messages\""),
            [first, second, ..] => bail!("{prompt}: has both \"{first}\" and \"{second}\""),
        }
    }

    /// The ids to run: those given, or the tokenizer's for a text or a conversation.
    pub fn ids(&self, encoder: Encoder<'_>) -> anyhow::Result<Vec<u32>> {
        let Encoder {
            tokenizer,
            chat,
            model,
            positions,
        } = encoder;
        if let Some(ids) = &self.token_ids {
            ensure!(!ids.is_empty(), "{self}: the prompt has no tokens");
            return Ok(ids.clone());
        }
        let tokenizer = tokenizer.with_context(|| {
            format!(
                "{self}: a text prompt needs a tokenizer, and {} has neither tokenizer.json nor tokenizer.model",
                model.display()
            )
        })?;
        let rendered = match (&self.messages, &self.text, chat) {
            (Some(messages), _, Some(template)) => Some(template.render(messages, true)),
            (None, Some(text), Some(template)) => {
                let message = Message::new("user", text.as_str());
                Some(template.render(&[message], true))
            }
            (Some(_), _, None) => bail!("{self}: \"messages\" need --chat"),
            (None, _, _) => None,
        };
        let rendered = rendered.transpose().with_context(|| self.to_string())?;
        let text = rendered.as_deref().or(self.text.as_deref()).unwrap_or("");
        // Encoding takes time and memory, and this text cannot be used.
        let least = tokenizer.least_tokens(text.len());
        ensure!(
            least < positions,
            "{self}: has {} bytes, which are at least {least} tokens; \
             max_position_embeddings is {positions}",
            text.len()
        );
        let ids = match rendered {
            // A template writes the special tokens itself.
            Some(_) => tokenizer.encode_rendered(text),
            None => tokenizer.encode(text),
        };
        let ids = ids.with_context(|| self.to_string())?;
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

/// A prompt, or why there is none in its place.
pub type ReadPrompt = Result<Prompt, BadPrompt>;

/// A line that is not a prompt.
#[derive(Debug)]
pub struct BadPrompt {
    /// Why, with the file and line.
    pub error: anyhow::Error,
    /// Whether no line after it can be read.
    pub is_last: bool,
}

/// The prompts of the arguments, then those of the input, which is read line by line: it may be a
/// pipe, and larger than memory.
pub struct Prompts {
    ready: VecDeque<ReadPrompt>,
    lines: Option<Lines>,
    /// Known at the latest after the first line that is not blank.
    format: Option<InputFormat>,
    /// Blank lines before it: prompts, if the input turns out to be text.
    blank: Vec<String>,
    /// Prompts of the input so far.
    of_input: usize,
}

impl Prompts {
    /// Opens the input and reads its beginning, up to its first prompt.
    ///
    /// # Errors
    /// No prompt at all, an input that cannot be opened.
    pub fn open(
        arguments: &[String],
        input: Option<&Path>,
        format: Option<InputFormat>,
    ) -> anyhow::Result<Self> {
        let named = arguments.iter().enumerate();
        let mut prompts = Self {
            ready: named
                .map(|(i, text)| {
                    Ok(Prompt::text(
                        text,
                        format!("prompt {} of the arguments", i + 1),
                    ))
                })
                .collect(),
            lines: None,
            format: None,
            blank: Vec::new(),
            of_input: 0,
        };
        let Some(path) = input else {
            if prompts.ready.is_empty() {
                bail!(
                    "no prompt: give one as an argument, or a file with --input (- for standard input)"
                );
            }
            return Ok(prompts);
        };
        prompts.format = format.or_else(|| InputFormat::of_name(path));
        prompts.lines = Some(Lines::open(path)?);
        prompts.fill();
        if prompts.of_input == 0 {
            let name = prompts.lines.as_ref().map_or("", |lines| &lines.name);
            bail!("{name}: has no prompts");
        }
        Ok(prompts)
    }

    /// The format of the input, where there is one.
    pub fn format(&self) -> Option<InputFormat> {
        self.format
    }

    /// How many bytes of the input have been read, and how many there are where that is known.
    pub fn progress(&self) -> Option<(u64, u64)> {
        let lines = self.lines.as_ref()?;
        Some((lines.offset as u64, lines.size?))
    }

    /// Reads lines until one gives a prompt, or there are no more.
    fn fill(&mut self) {
        let before = self.of_input;
        while self.of_input == before {
            let Some(lines) = &mut self.lines else { return };
            let read = lines.next();
            let Some(line) = read else {
                if self.format.is_none() {
                    // Blank lines alone are prompts of a text.
                    for place in std::mem::take(&mut self.blank) {
                        self.push(Ok(Prompt::text("", place)));
                    }
                }
                return;
            };
            match line {
                Err(bad) => self.push(Err(bad)),
                Ok(Line { text, place }) => self.add(&text, place),
            }
        }
    }

    fn add(&mut self, text: &str, place: String) {
        if self.format.is_none() && text.trim().is_empty() {
            self.blank.push(place);
            return;
        }
        let format = *self
            .format
            .get_or_insert_with(|| InputFormat::of_line(text));
        let blank = std::mem::take(&mut self.blank);
        match format {
            InputFormat::Text => {
                for place in blank {
                    self.push(Ok(Prompt::text("", place)));
                }
                self.push(Ok(Prompt::text(text, place)));
            }
            InputFormat::Jsonl if text.trim().is_empty() => {}
            InputFormat::Jsonl => {
                let prompt = Prompt::from_json(text, place);
                self.push(prompt.map_err(|error| BadPrompt {
                    error,
                    is_last: false,
                }));
            }
        }
    }

    fn push(&mut self, read: ReadPrompt) {
        self.of_input += 1;
        self.ready.push_back(read);
    }
}

impl Iterator for Prompts {
    type Item = ReadPrompt;

    fn next(&mut self) -> Option<ReadPrompt> {
        if self.ready.is_empty() {
            self.fill();
        }
        let read = self.ready.pop_front()?;
        if read.as_ref().is_err_and(|bad| bad.is_last) {
            self.lines = None;
        }
        Some(read)
    }
}

/// A line of a text.
pub struct Line {
    /// Its text, without its end.
    pub text: String,
    /// The file and the line's number, for messages.
    pub place: String,
}

/// The lines of a file or of standard input.
pub struct Lines {
    /// The file's name.
    pub name: String,
    input: Box<dyn BufRead>,
    size: Option<u64>,
    number: usize,
    offset: usize,
}

impl Lines {
    /// Opens a file, or standard input where it is called `-`.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let (name, input, size): (String, Box<dyn BufRead>, _) = if path == Path::new("-") {
            let input = BufReader::new(std::io::stdin());
            ("standard input".to_owned(), Box::new(input), None)
        } else {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| name.clone())?;
            let metadata = file.metadata().ok().filter(|metadata| metadata.is_file());
            let size = metadata.map(|metadata| metadata.len());
            (name, Box::new(BufReader::new(file)), size)
        };
        Ok(Self {
            name,
            input,
            size,
            number: 0,
            offset: 0,
        })
    }
}

impl Iterator for Lines {
    type Item = Result<Line, BadPrompt>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        let limit = MAX_LINE as u64 + 1;
        let read = self.input.by_ref().take(limit).read_until(b'\n', &mut line);
        self.number += 1;
        let place = format!("{}: line {}", self.name, self.number);
        let bad = |error, is_last| Some(Err(BadPrompt { error, is_last }));
        match read {
            Ok(0) => return None,
            Ok(_) if line.len() > MAX_LINE => {
                return bad(anyhow!("{place}: longer than {MAX_LINE} bytes"), true);
            }
            Ok(_) => {}
            Err(error) => {
                return bad(anyhow::Error::new(error).context(self.name.clone()), true);
            }
        }
        let start = match self.number {
            1 => line.len() - without_byte_order_mark(&line).len(),
            _ => 0,
        };
        let offset = self.offset;
        self.offset += line.len();
        match std::str::from_utf8(&line[start..]) {
            Ok(text) => Some(Ok(Line {
                text: without_line_end(text).to_owned(),
                place,
            })),
            Err(error) => {
                let at = offset + start + error.valid_up_to();
                bad(anyhow!("{}: not UTF-8 at byte {at}", self.name), false)
            }
        }
    }
}

fn without_line_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}
