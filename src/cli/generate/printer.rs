//! Writes results in order as they arrive.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::super::flags::one_line;
use super::super::input::Prompt;
use super::super::numerics::Numerics;
use super::super::output::{LineOptions, OutputFormat, write_delta, write_error, write_jsonl};
use super::super::terminal;
use crate::engine::{Event, FinishReason, Generation};
use crate::sampling::StopStrings;
use crate::source::ReplyText;
use crate::tokenizer::Tokenizer;

/// Writes results in the order of the prompts.
pub(super) struct Printer<'a> {
    pub format: OutputFormat,
    pub tokenizer: Option<&'a Tokenizer>,
    pub stops: &'a StopStrings,
    /// Whether pieces are written as they come.
    pub streams: bool,
    pub output: &'a mut dyn Write,
    pub interrupted: &'a AtomicBool,
    pub numerics: Numerics<'a>,
    /// Replies to each prompt.
    pub replies: usize,
    pub line: LineOptions,
    /// What is not written yet, by prompt and reply. The first reply is the one whose text is
    /// written; later ones wait for their turn.
    pub queue: BTreeMap<(usize, usize), Entry<'a>>,
    /// Whether a text has been begun: the others stand after an empty line.
    pub has_begun: bool,
    /// Prompts that failed.
    pub failed: usize,
}

/// A place in the results.
pub(super) enum Entry<'a> {
    /// A reply that is awaited.
    Reply(Box<Reply<'a>>),
    /// A prompt that failed, and why.
    Failed(Option<Prompt>, String),
}

/// The text of a reply.
pub(super) struct Reply<'a> {
    prompt: Prompt,
    prompt_ids: Rc<[u32]>,
    /// Decodes the tokens as they arrive; none where there is no tokenizer.
    text: Option<ReplyText<'a>>,
    /// Tokens that have been given to it.
    decoded: usize,
    /// Text that waits for the reply's turn.
    waiting: String,
    begun: bool,
}

/// Why generation stops before its end.
pub(super) enum Stop {
    /// SIGINT.
    Interrupted,
    /// The results cannot be written.
    Failed(anyhow::Error),
}

impl<'a> Printer<'a> {
    /// Expects the replies to a prompt.
    pub fn add(&mut self, index: usize, prompt: Option<Prompt>, ids: &[u32]) {
        let Some(prompt) = prompt else { return };
        let prompt_ids: Rc<[u32]> = ids.into();
        for sequence in 0..self.replies {
            let reply = Reply {
                prompt: prompt.clone(),
                prompt_ids: prompt_ids.clone(),
                text: self
                    .tokenizer
                    .map(|tokenizer| ReplyText::new(tokenizer, ids, self.stops)),
                decoded: 0,
                waiting: String::new(),
                begun: false,
            };
            self.queue
                .insert((index, sequence), Entry::Reply(Box::new(reply)));
        }
    }

    /// Notes a prompt that failed.
    pub fn fail(&mut self, index: usize, prompt: Option<Prompt>, error: &anyhow::Error) {
        self.failed += 1;
        let entry = Entry::Failed(prompt, one_line(error));
        self.queue.insert((index, 0), entry);
    }

    /// The prompt at this place of the input, where a reply to it is awaited.
    pub fn prompt(&self, index: usize) -> Option<&Prompt> {
        match self.queue.get(&(index, 0))? {
            Entry::Reply(reply) => Some(&reply.prompt),
            Entry::Failed(prompt, _) => prompt.as_ref(),
        }
    }

    /// Writes what is left at the end: how many prompts failed.
    pub fn finish(&mut self) -> anyhow::Result<usize> {
        self.write_failed().context("cannot write the results")?;
        Ok(self.failed)
    }

    pub fn tell(&mut self, event: Event<'_>) -> ControlFlow<Stop> {
        let written = match event {
            Event::Tokens {
                index,
                sequence,
                new,
                stop,
            } => self.take(index, sequence, new).map(|stopped| {
                if let Some(count) = stopped {
                    stop.after(count);
                }
            }),
            Event::Finished(generation) => self.write_finished(generation),
            Event::Shortened { index, to } => {
                match self.prompt(index) {
                    Some(prompt) => warn_shortened(prompt, index, to),
                    None => terminal::warn(format_args!(
                        "prompt {index}: only {to} new tokens fit below max_position_embeddings"
                    )),
                }
                Ok(())
            }
            _ => Ok(()),
        };
        match written.context("cannot write the results") {
            Err(error) => ControlFlow::Break(Stop::Failed(error)),
            Ok(()) if self.interrupted.load(Ordering::Relaxed) => {
                ControlFlow::Break(Stop::Interrupted)
            }
            Ok(()) => ControlFlow::Continue(()),
        }
    }

    /// Takes new tokens of a reply: with how many of them a stop text ended it, if one did.
    fn take(
        &mut self,
        index: usize,
        sequence: usize,
        new: &[u32],
    ) -> anyhow::Result<Option<usize>> {
        self.write_failed()?;
        let key = (index, sequence);
        let is_current = self.queue.keys().next() == Some(&key);
        let Some(Entry::Reply(reply)) = self.queue.get_mut(&key) else {
            return Ok(None);
        };
        let before = reply.waiting.len();
        let stopped = reply.decode(new)?;
        match self.format {
            OutputFormat::Jsonl if self.streams => {
                let kept = &new[..stopped.unwrap_or(new.len())];
                let text = reply.text.is_some().then(|| &reply.waiting[before..]);
                let sequence = self.line.has_sequences.then_some(sequence);
                write_delta(self.output, index, sequence, &reply.prompt, kept, text)?;
            }
            OutputFormat::Text if self.streams && is_current => {
                reply.write(self.output, self.tokenizer, &mut self.has_begun)?;
            }
            _ => {}
        }
        Ok(stopped)
    }

    fn write_finished(&mut self, mut generation: Generation) -> anyhow::Result<()> {
        self.write_failed()?;
        let key = (generation.index, generation.sequence);
        let Some(Entry::Reply(mut reply)) = self.queue.remove(&key) else {
            return Ok(());
        };
        let (prompt, ids) = (&reply.prompt, &reply.prompt_ids);
        self.numerics.check(prompt, ids, &mut generation)?;
        let rest = generation.token_ids.get(reply.decoded..);
        reply.decode(rest.unwrap_or_default())?;
        let text = reply.text.take();
        let has_text = text.is_some();
        if let Some(text) = text {
            let end = text.finish()?;
            reply.waiting.push_str(&end.text);
            if end.stopped.is_some() {
                generation.finish_reason = FinishReason::Stop;
            }
        }
        match self.format {
            OutputFormat::Jsonl => {
                let text = has_text.then_some(reply.waiting.as_str());
                write_jsonl(self.output, &reply.prompt, &generation, text, self.line)?;
            }
            OutputFormat::Text => {
                reply.write(self.output, self.tokenizer, &mut self.has_begun)?;
                self.output.write_all(b"\n")?;
                self.output.flush()?;
            }
        }
        self.write_failed()?;
        // What the next reply has in the meantime.
        if self.format == OutputFormat::Text
            && self.streams
            && let Some((_, Entry::Reply(reply))) = self.queue.iter_mut().next()
            && reply.decoded > 0
        {
            reply.write(self.output, self.tokenizer, &mut self.has_begun)?;
        }
        Ok(())
    }

    /// Writes the prompts that failed before the next reply.
    fn write_failed(&mut self) -> anyhow::Result<()> {
        while let Some(first) = self.queue.first_entry() {
            let Entry::Failed(..) = first.get() else {
                break;
            };
            let ((index, _), Entry::Failed(prompt, error)) = first.remove_entry() else {
                break;
            };
            write_error(self.output, index, prompt.as_ref(), &error)?;
        }
        Ok(())
    }
}

impl Reply<'_> {
    /// Decodes new tokens: with how many of them a stop text ended the reply, if one did.
    fn decode(&mut self, new: &[u32]) -> anyhow::Result<Option<usize>> {
        self.decoded += new.len();
        let Some(text) = &mut self.text else {
            return Ok(None);
        };
        let added = text.push(new)?;
        self.waiting.push_str(&added.text);
        Ok(added.stopped)
    }

    /// Writes the part of the text that has not been written, after the prompt; an empty line
    /// stands before all but the first.
    fn write(
        &mut self,
        output: &mut dyn Write,
        tokenizer: Option<&Tokenizer>,
        has_begun: &mut bool,
    ) -> anyhow::Result<()> {
        if !self.begun {
            self.begun = true;
            if std::mem::replace(has_begun, true) {
                output.write_all(b"\n")?;
            }
            match &self.prompt.text {
                Some(prompt) => output.write_all(prompt.as_bytes())?,
                None => {
                    let prompt = tokenizer.map(|t| t.decode(&self.prompt_ids));
                    let prompt = prompt.transpose()?.unwrap_or_default();
                    output.write_all(prompt.as_bytes())?;
                }
            }
        }
        output.write_all(self.waiting.as_bytes())?;
        self.waiting.clear();
        Ok(output.flush()?)
    }
}

fn warn_shortened(prompt: &Prompt, index: usize, to: usize) {
    terminal::warn(format_args!(
        "{prompt}: prompt {index}: only {to} new tokens fit below max_position_embeddings"
    ));
}
