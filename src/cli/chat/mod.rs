//! `gemma-xla chat`: a conversation in the terminal.

mod input;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};

use self::input::Input;
use super::flags::one_line;
use super::model::{ModelArgs, load_opened};
use super::sampling::SamplingArgs;
use super::terminal::{self, Results};
use super::{Outcome, signals};
use crate::chat::Message;
use crate::engine::{FinishReason, Workload};
use crate::input_file;
use crate::source::{Conversation, ConversationOptions, Model, Turn};
use crate::whole_file::{Mode, WholeFile};

/// Options of `chat`.
#[derive(Args)]
pub struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Maximum number of new tokens of a reply
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(1..=i32::MAX as u64))]
    max_new_tokens: usize,
    /// Maximum number of tokens of the conversation [default: 4096, or what the model has positions
    /// for]
    #[arg(long, value_name = "L", default_value_t = 4096, hide_default_value = true, value_parser = RangedU64ValueParser::<usize>::new().range(2..=i32::MAX as u64))]
    max_length: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
}

const HELP: &str = "\
/reset          forget the conversation, but not the system message
/system [TEXT]  set what the model is told before the conversation, or take it away; forgets the rest
/save FILE      write the conversation as JSON
/load FILE      continue a conversation that was written
/stats          what the last reply took
/exit           end, as does Ctrl-D
A line that ends in \\ is continued in the next one; \"\"\" begins and ends a text of several lines.
Arrow up brings back earlier lines. Ctrl-C ends a reply, or takes back what was typed.
";

/// The most bytes of a file that `/load` reads. A conversation is text that fits a model.
const MAX_CONVERSATION: u64 = 1 << 26;

/// What `/save` writes and `/load` reads.
#[derive(Serialize, Deserialize)]
struct Saved {
    messages: Vec<Message>,
}

/// Runs the command.
pub fn run(args: &ChatArgs) -> anyhow::Result<Outcome> {
    let arguments = args.model.located()?;
    let model = Model::open(&arguments.model)?;
    let template = model.chat_template()?;
    let sampling = args
        .sampling
        .options(model.generation(), model.tokenizer())?;
    sampling.validate(model.config().vocab_size(), args.max_new_tokens)?;
    let options = ConversationOptions {
        sampling,
        max_new_tokens: args.max_new_tokens,
        max_length: args.max_length,
    };
    if let Some(system) = &args.system {
        // A template that refuses it says so now, and not at the first message.
        let messages = [Message::new("system", system), Message::new("user", "")];
        template.render(&messages, true).context("--system")?;
    }
    let mut load = arguments.options();
    load.workload = Some(Workload::Session(options.session()));
    let loaded = load_opened(model, &load)?;

    let interrupted = signals::interactive();
    let conversation = Conversation::new(&loaded, template, &options)?;
    let mut chat = Chat {
        conversation,
        system: args.system.clone(),
        last: None,
        interrupted: &interrupted,
        output: Results::new(),
    };
    chat.reset();
    let mut input = Input::new()?;
    if input.is_terminal() {
        terminal::note("/help lists what can be typed; Ctrl-D ends");
    }
    loop {
        let message = match input.message()? {
            Some(message) if message.trim().is_empty() => continue,
            Some(message) => message,
            None => return Ok(Outcome::Done),
        };
        // Ctrl-C before the message is not meant for the reply to it.
        interrupted.store(false, Ordering::Relaxed);
        match chat.take(&message) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(Outcome::Done),
            Err(error) if terminal::is_broken_pipe(&error) => return Ok(Outcome::Done),
            // In a terminal the user can try again.
            Err(error) if input.is_terminal() => terminal::error(one_line(&error)),
            Err(error) => return Err(error),
        }
    }
}

struct Chat<'a> {
    conversation: Conversation<'a>,
    system: Option<String>,
    last: Option<Turn>,
    interrupted: &'a AtomicBool,
    output: Results,
}

impl Chat<'_> {
    /// Obeys a command, or gets the reply to a message.
    fn take(&mut self, message: &str) -> anyhow::Result<ControlFlow<()>> {
        let (word, rest) = match message.split_once(char::is_whitespace) {
            Some((word, rest)) => (word, rest.trim()),
            None => (message.trim(), ""),
        };
        match word {
            "/exit" | "/quit" => return Ok(ControlFlow::Break(())),
            "/help" => terminal::print(HELP)?,
            "/reset" => self.reset(),
            "/system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_owned());
                self.reset();
            }
            "/save" => self.save(rest)?,
            "/load" => self.load(rest)?,
            "/stats" => terminal::print(&self.stats())?,
            _ if word.starts_with('/') => {
                anyhow::bail!("{word}: no such command; /help lists them")
            }
            _ => self.say(message)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    fn reset(&mut self) {
        let system = self.system.iter();
        let messages = system.map(|text| Message::new("system", text.as_str()));
        self.conversation.set_messages(messages.collect());
    }

    fn say(&mut self, message: &str) -> anyhow::Result<()> {
        let mut failure = None;
        let (output, interrupted) = (&mut self.output, self.interrupted);
        let turn = self.conversation.say(message, |piece| {
            let written = output.write_all(piece.as_bytes());
            if let Err(error) = written.and_then(|()| output.flush()) {
                failure = Some(error);
                return ControlFlow::Break(());
            }
            match interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if let Some(error) = failure {
            return Err(error).context("cannot write the reply");
        }
        let is_cut = turn.finish_reason == FinishReason::Length;
        self.last = Some(turn);
        self.output
            .write_all(b"\n")
            .and_then(|()| self.output.flush())
            .context("cannot write the reply")?;
        if is_cut {
            terminal::note(
                "the reply was cut at --max-new-tokens, or at the conversation's --max-length",
            );
        }
        Ok(())
    }

    fn save(&self, file: &str) -> anyhow::Result<()> {
        ensure!(!file.is_empty(), "/save: expected the name of a file");
        let saved = Saved {
            messages: self.conversation.messages().to_vec(),
        };
        let json = serde_json::to_string_pretty(&saved)? + "\n";
        let mut whole = WholeFile::create(Path::new(file), Mode::Users, false)
            .with_context(|| format!("/save {file}"))?;
        whole
            .write_all(json.as_bytes())
            .and_then(|()| whole.commit())
            .with_context(|| format!("/save {file}"))?;
        terminal::note(format_args!(
            "{} messages are in {file}",
            saved.messages.len()
        ));
        Ok(())
    }

    fn load(&mut self, file: &str) -> anyhow::Result<()> {
        ensure!(!file.is_empty(), "/load: expected the name of a file");
        let named = || format!("/load {file}");
        let content = input_file::read(Path::new(file), MAX_CONVERSATION)
            .with_context(named)?
            .with_context(|| format!("{}: larger than {MAX_CONVERSATION} bytes", named()))?;
        let saved: Saved = serde_json::from_slice(&content)
            .with_context(|| format!("/load {file}: not a conversation"))?;
        let first = saved.messages.first();
        self.system = first
            .filter(|message| message.role == "system")
            .map(|message| message.content.clone());
        terminal::note(format_args!(
            "{} messages from {file}",
            saved.messages.len()
        ));
        self.conversation.set_messages(saved.messages);
        Ok(())
    }

    fn stats(&self) -> String {
        let Some(turn) = &self.last else {
            return "no reply yet\n".to_owned();
        };
        let rest = turn.took.saturating_sub(turn.first_token).as_secs_f64();
        let steps = turn.new_tokens.saturating_sub(1);
        let rate = match steps {
            0 => String::new(),
            steps => format!(", {:.1} tokens/s", steps as f64 / rest.max(1e-9)),
        };
        format!(
            "{} tokens before the reply, {} of them run; {} new tokens; {:.2} s to the first{rate}; ended by {}\n",
            turn.prompt_tokens,
            turn.prefilled_tokens,
            turn.new_tokens,
            turn.first_token.as_secs_f64(),
            turn.finish_reason.name()
        )
    }
}
