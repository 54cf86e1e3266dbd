//! A conversation with a model: messages, the template that renders them, and one row of a session
//! that keeps what it has computed from turn to turn.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::LoadedModel;
use super::reply::ReplyText;
use crate::chat::{ChatTemplate, Message};
use crate::engine::{Admission, Error, FinishReason, Result, RowId, Session, SessionOptions};
use crate::sampling::{Key, SamplingOptions, StopStrings};

/// How a conversation is led.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConversationOptions {
    /// How tokens are chosen, and the texts that end a reply. Turn n, counted from 0, has the
    /// random key `fold_in(PRNGKey(seed), n)`.
    pub sampling: SamplingOptions,
    /// New tokens of a reply at most; by default 1024.
    pub max_new_tokens: usize,
    /// Tokens of the whole conversation at most; by default 4096, or what the model has positions
    /// for.
    pub max_length: usize,
}

impl Default for ConversationOptions {
    fn default() -> Self {
        Self {
            sampling: SamplingOptions::default(),
            max_new_tokens: 1024,
            max_length: 4096,
        }
    }
}

impl ConversationOptions {
    /// The session that the conversation runs in.
    pub fn session(&self) -> SessionOptions {
        SessionOptions {
            rows: 1,
            max_length: self.max_length,
            sampling: self.sampling.clone(),
            reuse_prefixes: true,
            ..SessionOptions::default()
        }
    }
}

/// What a turn was, and what it took.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The reply.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens of the conversation before the reply.
    pub prompt_tokens: usize,
    /// How many of them were run; the others were there from the turns before.
    pub prefilled_tokens: usize,
    /// Tokens of the reply.
    pub new_tokens: usize,
    /// The time up to its first token.
    pub first_token: Duration,
    /// The time of the whole turn.
    pub took: Duration,
}

/// A conversation with a model.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use gemma_xla::chat::{BuiltIn, ChatTemplate};
/// use gemma_xla::source::{Conversation, ConversationOptions};
/// use gemma_xla::{LoadOptions, Model};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gemma-small");
/// let model = Model::open(folder)?.load(&LoadOptions::default())?;
/// let template = ChatTemplate::from_dir(folder.as_ref(), BuiltIn::Gemma)?;
/// let mut options = ConversationOptions::default();
/// options.max_new_tokens = 8;
/// let mut conversation = Conversation::new(&model, template, &options)?;
/// let turn = conversation.say("Knock knock!", |piece| {
///     print!("{piece}");
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(conversation.messages().last().unwrap().content, turn.text);
/// # Ok(())
/// # }
/// ```
pub struct Conversation<'a> {
    model: &'a LoadedModel,
    template: ChatTemplate,
    options: ConversationOptions,
    stops: StopStrings,
    session: Session<'a>,
    row: Option<RowId>,
    messages: Vec<Message>,
    turns: u32,
}

impl<'a> Conversation<'a> {
    /// A conversation without messages.
    ///
    /// # Errors
    /// A model without a tokenizer, options that cannot be used, a device without memory for the
    /// conversation.
    pub fn new(
        model: &'a LoadedModel,
        template: ChatTemplate,
        options: &ConversationOptions,
    ) -> Result<Self> {
        if model.tokenizer().is_none() {
            return Err(Error::NoTokenizer);
        }
        Ok(Self {
            stops: StopStrings::new(&options.sampling.stop)?,
            session: Session::new(model.engine(), &options.session())?,
            model,
            template,
            options: options.clone(),
            row: None,
            messages: Vec::new(),
            turns: 0,
        })
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Continues from these messages instead. What the new ones have in common with the old ones is
    /// not computed again.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
    }

    /// Says something, and gets the reply; `tell` is given its text as it comes. Where `tell`
    /// breaks, the reply ends there.
    ///
    /// # Errors
    /// Messages that the template refuses, a conversation that has become too long, a device that
    /// fails; the messages are then as they were.
    pub fn say(&mut self, text: &str, tell: impl FnMut(&str) -> ControlFlow<()>) -> Result<Turn> {
        self.messages.push(Message::new("user", text));
        let turn = self.reply(tell);
        match &turn {
            Ok(turn) => self
                .messages
                .push(Message::new("assistant", turn.text.as_str())),
            Err(_) => drop(self.messages.pop()),
        }
        turn
    }

    fn reply(&mut self, mut tell: impl FnMut(&str) -> ControlFlow<()>) -> Result<Turn> {
        let began = Instant::now();
        let model = self.model;
        let tokenizer = model.tokenizer().ok_or(Error::NoTokenizer)?;
        let prompt = self.template.render(&self.messages, true)?;
        let prompt = tokenizer.encode_rendered(&prompt)?;
        let end_of_turn = model.end_of_turn();
        let key = Key::from_seed(self.options.sampling.seed).fold_in(self.turns);
        let admission = Admission::new(&prompt, self.options.max_new_tokens, key);
        if let Some(row) = self.row.take() {
            self.session.free(row);
        }
        let Some(admitted) = self.session.begin(&admission)? else {
            return Err(Error::UnexpectedResult {
                program: "admit",
                expected: "a row".to_owned(),
                found: "none".to_owned(),
            });
        };
        self.row = Some(admitted.row);
        self.session.prefill_all()?;
        self.turns = self.turns.wrapping_add(1);
        let mut first_token = None;
        let mut reply = ReplyText::new(tokenizer, &prompt, &self.stops);
        let (mut text, mut new_tokens) = (String::new(), 0);
        let (mut finished, mut is_stopped) = (None, false);
        while finished.is_none() {
            let stepped = self.session.step(1, false)?;
            let Some((_, mut new, end)) = stepped.rows.into_iter().next() else {
                break;
            };
            first_token.get_or_insert_with(|| began.elapsed());
            finished = end;
            if let Some(end) = new.iter().position(|id| Some(*id) == end_of_turn) {
                new.truncate(end + 1);
                finished = Some(FinishReason::Eos);
            }
            let added = reply.push(&new)?;
            new_tokens += added.stopped.unwrap_or(new.len());
            text.push_str(&added.text);
            if added.stopped.is_some() {
                finished = Some(FinishReason::Stop);
            }
            if !added.text.is_empty() && tell(&added.text).is_break() {
                finished = Some(FinishReason::Stop);
                is_stopped = true;
            }
        }
        let end = reply.finish()?;
        if !end.text.is_empty() && !is_stopped {
            text.push_str(&end.text);
            let _ = tell(&end.text);
        }
        Ok(Turn {
            text,
            finish_reason: finished.unwrap_or(FinishReason::Length),
            prompt_tokens: prompt.len(),
            prefilled_tokens: prompt.len() - admitted.reused,
            new_tokens,
            first_token: first_token.unwrap_or_default(),
            took: began.elapsed(),
        })
    }
}
