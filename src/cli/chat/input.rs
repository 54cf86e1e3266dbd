//! Messages from standard input: lines that can be edited in a terminal, with a history.

use std::io::{self, BufRead, IsTerminal};

use anyhow::Context;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Behavior, Config, Editor};

/// Messages from standard input, a line each unless they say that they go on.
pub(super) struct Input {
    /// None where standard input or output is no terminal: then lines are read as they are.
    editor: Option<Editor<(), MemHistory>>,
}

/// What came in place of a line.
enum Line {
    Typed(String),
    /// Ctrl-C: what was typed of the message is taken back.
    TakenBack,
    End,
}

impl Input {
    /// Input that is edited where it comes from a terminal.
    ///
    /// # Errors
    /// A terminal that cannot be used.
    pub fn new() -> anyhow::Result<Self> {
        if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
            return Ok(Self { editor: None });
        }
        // Standard input and output, and not the controlling terminal, since one of them may be
        // another.
        let mut builder = Config::builder().behavior(Behavior::Stdio);
        // The marks around each change of the line; a line is small enough without.
        builder.enable_synchronized_output(false);
        let config = builder.build();
        let history = MemHistory::with_config(&config);
        let editor = Editor::with_history(config, history);
        Ok(Self {
            editor: Some(editor.context("cannot use the terminal")?),
        })
    }

    /// Whether somebody types.
    pub fn is_terminal(&self) -> bool {
        self.editor.is_some()
    }

    /// The next message, which may have several lines and is in the history from then on; none at
    /// the end. A message that is taken back is empty.
    pub fn message(&mut self) -> anyhow::Result<Option<String>> {
        let message = self.read()?;
        if let (Some(editor), Some(message)) = (&mut self.editor, &message) {
            // A message of several lines comes back as a whole, without the marks around it.
            editor
                .add_history_entry(message.as_str())
                .context("the history")?;
        }
        Ok(message)
    }

    fn read(&mut self) -> anyhow::Result<Option<String>> {
        let taken_back = || Ok(Some(String::new()));
        let first = match self.line("> ")? {
            Line::Typed(line) => line,
            Line::TakenBack => return taken_back(),
            Line::End => return Ok(None),
        };
        let mut message = String::new();
        if let Some(begun) = first.trim_start().strip_prefix("\"\"\"") {
            let mut line = begun.to_owned();
            loop {
                if let Some(end) = line.find("\"\"\"") {
                    message.push_str(&line[..end]);
                    break;
                }
                message.push_str(&line);
                message.push('\n');
                match self.line(". ")? {
                    Line::Typed(next) => line = next,
                    Line::TakenBack => return taken_back(),
                    Line::End => break,
                }
            }
        } else {
            let mut line = first;
            while let Some(begun) = line.strip_suffix('\\') {
                message.push_str(begun);
                message.push('\n');
                line = match self.line(". ")? {
                    Line::Typed(next) => next,
                    Line::TakenBack => return taken_back(),
                    Line::End => String::new(),
                };
            }
            message.push_str(&line);
        }
        Ok(Some(message))
    }

    fn line(&mut self, prompt: &str) -> anyhow::Result<Line> {
        if let Some(editor) = &mut self.editor {
            return match editor.readline(prompt) {
                Ok(line) => Ok(Line::Typed(line)),
                Err(ReadlineError::Interrupted) => Ok(Line::TakenBack),
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(error) => Err(error).context("the terminal"),
            };
        }
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        Ok(match read.context("standard input")? {
            0 => Line::End,
            _ => {
                let line = line.strip_suffix('\n').unwrap_or(&line);
                let line = line.strip_suffix('\r').unwrap_or(line);
                Line::Typed(line.to_owned())
            }
        })
    }
}
