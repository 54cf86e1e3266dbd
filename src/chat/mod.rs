//! Conversations to prompts, by the model's chat template as Transformers renders it.
//!
//! ```
//! use gemma_xla::chat::{BuiltIn, ChatTemplate, Message};
//!
//! let template = ChatTemplate::built_in(BuiltIn::Gemma);
//! let messages = [Message::new("user", "knock knock")];
//! let prompt = template.render(&messages, true)?;
//! let turn = "<start_of_turn>user\nknock knock<end_of_turn>\n";
//! assert_eq!(prompt, format!("<bos>{turn}<start_of_turn>model\n"));
//! # Ok::<(), gemma_xla::chat::Error>(())
//! ```

mod engine;
mod error;
mod generation;
mod json;
mod python;
mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

pub use error::{Error, Result};
pub use source::{CONFIG_FILE, SpecialTokens, TEMPLATE_FILE};

/// The steps that a template may take, besides one for each byte of the messages. A real one takes
/// some dozens a message.
const STEPS: u64 = 2_000_000;

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: "user", "assistant", "model", "system"; the template says which it takes.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// The message as a template sees it.
    fn value(&self) -> Value {
        Value::from_pairs([("role", &*self.role), ("content", &*self.content)])
    }
}

/// The templates of Gemma's instruction-tuned models, for a checkpoint that has none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// Gemma 1 and 2: user and model in turn; a system message is refused.
    Gemma,
    /// Gemma 3: as before, but a system message goes before the first user's text.
    Gemma3,
}

impl BuiltIn {
    fn source(self) -> &'static str {
        match self {
            BuiltIn::Gemma => include_str!("gemma.jinja"),
            BuiltIn::Gemma3 => include_str!("gemma3.jinja"),
        }
    }

    fn origin(self) -> &'static str {
        match self {
            BuiltIn::Gemma => "Gemma's built-in chat template",
            BuiltIn::Gemma3 => "Gemma 3's built-in chat template",
        }
    }
}

/// A chat template, parsed.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: SpecialTokens,
    origin: PathBuf,
}

impl ChatTemplate {
    /// The template in a checkpoint's folder: [`TEMPLATE_FILE`], else the one in [`CONFIG_FILE`]
    /// (of several, the one named "default"), else `otherwise`. Special tokens come from
    /// [`CONFIG_FILE`].
    ///
    /// # Errors
    /// A file that is there and cannot be read, or holds no template.
    pub fn from_dir(dir: &Path, otherwise: BuiltIn) -> Result<Self> {
        let found = source::find(dir)?;
        match found.template {
            Some((file, template)) => Self::new(file, &template, found.special_tokens),
            None => Self::new(otherwise.origin(), otherwise.source(), found.special_tokens),
        }
    }

    /// One of Gemma's own templates, with Gemma's special tokens.
    pub fn built_in(template: BuiltIn) -> Self {
        Self::new(
            template.origin(),
            template.source(),
            SpecialTokens::default(),
        )
        .expect("a template that the tests render")
    }

    /// Parses a template. `origin` is the name that errors give it.
    ///
    /// # Errors
    /// Text that is not a template.
    pub fn new(
        origin: impl Into<PathBuf>,
        template: &str,
        special_tokens: SpecialTokens,
    ) -> Result<Self> {
        let origin = origin.into();
        match engine::environment(template) {
            Ok(environment) => Ok(Self {
                environment,
                special_tokens,
                origin,
            }),
            Err(problem) => Err(Error::Syntax {
                origin,
                problem: error::one_line(&problem.to_string()),
            }),
        }
    }

    /// The file that the template comes from, or the name of a built-in one.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The prompt of a conversation, special tokens written out. With `add_generation_prompt` it
    /// ends where the model's reply begins.
    ///
    /// # Errors
    /// No messages, messages that the template refuses, or a template that fails or does not end.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        if messages.is_empty() {
            return Err(Error::NoMessages);
        }
        let bytes: usize = messages
            .iter()
            .map(|message| message.role.len() + message.content.len())
            .sum();
        let steps = STEPS.saturating_add(bytes as u64);
        let failed = |error| Error::rendering(&self.origin, steps, &error);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(steps));
        environment
            .get_template(engine::NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => messages.iter().map(Message::value).collect::<Value>(),
                    add_generation_prompt,
                    tools => Value::from(()),
                    documents => Value::from(()),
                    ..self.special_tokens.values()
                })
            })
            .map_err(failed)
    }
}
