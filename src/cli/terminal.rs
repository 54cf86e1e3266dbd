//! Everything that the command line writes to standard output and standard error.
//!
//! Names and texts of models, files and the Hub may contain control characters that a terminal
//! obeys, and characters that reorder what is read. They are escaped here, so that no caller can
//! forget it. A closed or full stream never panics.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// Progress and timings too.
    Normal,
    /// What the program does, step by step.
    Verbose,
}

/// The form of lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    /// For people.
    Text,
    /// An object a line, for programs that collect logs.
    Json,
}

/// The most bytes of a line on standard error.
const MAX_MESSAGE: usize = 1 << 13;

static VERBOSITY: OnceLock<Verbosity> = OnceLock::new();
static LINES: OnceLock<Lines> = OnceLock::new();

/// Sets, once, how much is said, and sends the library's log messages to standard error.
/// `GEMMA_XLA_LOG` chooses among them as `RUST_LOG` does elsewhere.
pub(crate) fn set_up(verbosity: Verbosity, lines: Lines) {
    let _ = VERBOSITY.set(verbosity);
    let _ = LINES.set(lines);
    let default = match verbosity {
        Verbosity::Verbose => "warn,gemma_xla=debug",
        Verbosity::Normal => "warn,gemma_xla::serve=info",
        Verbosity::Quiet => "warn",
    };
    let filter =
        EnvFilter::try_from_env("GEMMA_XLA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = Registry::default()
        .with(Messages.with_filter(filter))
        .try_init();
}

fn is_quiet() -> bool {
    VERBOSITY.get() == Some(&Verbosity::Quiet)
}

/// Prints a line on standard error that `--quiet` suppresses.
pub(crate) fn note(line: impl fmt::Display) {
    if is_quiet() {
        return;
    }
    let line = line.to_string();
    match LINES.get() {
        Some(Lines::Json) => json_line("info", &line, Map::new()),
        _ => to_stderr(&shortened(&one_line(&line))),
    }
}

/// Prints a warning on standard error.
pub(crate) fn warn(message: impl fmt::Display) {
    labelled("warning", "33", &message.to_string());
}

/// Prints the error that ends the program on standard error.
pub(crate) fn error(message: impl fmt::Display) {
    labelled("error", "31", &message.to_string());
}

/// The bar, which is not drawn with `--quiet`. Where standard error is not a terminal indicatif
/// draws nothing.
pub(crate) fn bar(bar: ProgressBar) -> ProgressBar {
    if is_quiet() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

/// Prints lines for people on standard output. Control characters other than line ends and tabs are
/// escaped.
///
/// # Errors
/// A standard output that cannot be written to. One that was closed by its reader is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    to_stdout(&escaped(text))
}

/// Prints a value as one line of JSON on standard output.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string(value)?;
    // A string of JSON may have an escape wherever it has the character.
    to_stdout(&format!("{}\n", escaped(&json)))
}

fn to_stdout(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to standard output"),
    }
}

/// Lines for people, to be written with `writeln!`. Each call makes one line: a line end within a
/// name is escaped.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    /// What `write!` and `writeln!` call. It does not fail.
    pub(crate) fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> fmt::Result {
        let text = arguments.to_string();
        match text.strip_suffix('\n') {
            Some(line) => writeln!(self.0, "{}", escaped_line(line)),
            None => self.0.write_str(&escaped_line(&text)),
        }
    }

    /// Adds lines that have been laid out, whose cells [`escaped_line`] has escaped.
    pub(crate) fn push_lines(&mut self, lines: &str) {
        self.0.push_str(&escaped(lines));
        if !lines.ends_with('\n') {
            self.0.push('\n');
        }
    }

    /// Prints the lines on standard output.
    ///
    /// # Errors
    /// As [`print`].
    pub(crate) fn print(self) -> anyhow::Result<()> {
        to_stdout(&self.0)
    }
}

/// Standard output for results. On a terminal control characters are escaped; a file or a pipe gets
/// what the model wrote.
pub(crate) struct Results {
    escapes: bool,
}

impl Results {
    pub(crate) fn new() -> Self {
        Self {
            escapes: io::stdout().is_terminal(),
        }
    }
}

impl Write for Results {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut out = io::stdout().lock();
        if self.escapes {
            // Writers hand over whole strings.
            out.write_all(escaped(&String::from_utf8_lossy(bytes)).as_bytes())?;
            Ok(bytes.len())
        } else {
            out.write(bytes)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Whether an error is that the reader of an output has closed it.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// The text with control characters other than line ends and tabs as `\u001b`, and those that
/// change the direction of text as `\u202e`.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    escaped_but(text, &['\n', '\t'])
}

/// [`escaped`], line ends and tabs too.
pub(crate) fn escaped_line(text: &str) -> Cow<'_, str> {
    escaped_but(text, &[])
}

fn escaped_but<'a>(text: &'a str, allowed: &[char]) -> Cow<'a, str> {
    let is_unsafe = |c: char| (c.is_control() || is_bidirectional(c)) && !allowed.contains(&c);
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_unsafe(c) => safe.push(c),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            // All of them are below U+10000, and this is how JSON writes them.
            c => {
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
        }
    }
    Cow::Owned(safe)
}

/// Whether a character changes the direction of the text around it, or ends a line in some
/// programs.
fn is_bidirectional(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

fn one_line(text: &str) -> String {
    escaped_line(&text.replace(['\n', '\r'], " ")).into_owned()
}

/// A message of at most [`MAX_MESSAGE`] bytes: a name in a file may have millions.
fn shortened(message: &str) -> Cow<'_, str> {
    if message.len() <= MAX_MESSAGE {
        return Cow::Borrowed(message);
    }
    let (begin, end) = (
        message.floor_char_boundary(MAX_MESSAGE / 2),
        message.ceil_char_boundary(message.len() - MAX_MESSAGE / 2),
    );
    Cow::Owned(format!("{} … {}", &message[..begin], &message[end..]))
}

fn labelled(label: &str, colour: &str, message: &str) {
    let message = shortened(&one_line(message)).into_owned();
    if LINES.get() == Some(&Lines::Json) {
        json_line(label, &message, Map::new());
    } else if has_colours() {
        to_stderr(&format!("\x1b[{colour}m{label}:\x1b[0m {message}"));
    } else {
        to_stderr(&format!("{label}: {message}"));
    }
}

/// Whether standard error is a terminal that wants colours.
fn has_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// Writes an object with the time, a level, a message and fields.
fn json_line(level: &str, message: &str, fields: Map<String, Value>) {
    let mut object = Map::new();
    object.insert("time".to_owned(), jiff::Timestamp::now().to_string().into());
    object.insert("level".to_owned(), level.into());
    object.insert("message".to_owned(), shortened(message).into());
    object.extend(fields);
    to_stderr(&escaped(&Value::Object(object).to_string()));
}

/// There is nowhere to report a standard error that cannot be written to.
fn to_stderr(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints log messages of the library as lines like all others.
struct Messages;

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let mut line = LogLine::default();
        event.record(&mut line);
        let level = *event.metadata().level();
        if LINES.get() == Some(&Lines::Json) {
            let level = level.as_str().to_lowercase();
            json_line(&level, &line.message, line.fields);
            return;
        }
        let mut text = line.message;
        for (name, value) in &line.fields {
            let _ = match value {
                Value::String(value) => write!(text, " {name}={value}"),
                value => write!(text, " {name}={value}"),
            };
        }
        match level {
            // The one line that begins with "error" is the one that ends the program.
            Level::ERROR | Level::WARN => warn(text),
            level => to_stderr(&shortened(&one_line(&format!(
                "{}: {}: {text}",
                level.as_str().to_lowercase(),
                event.metadata().target()
            )))),
        }
    }
}

#[derive(Default)]
struct LogLine {
    message: String,
    fields: Map<String, Value>,
}

impl LogLine {
    fn field(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            _ => self.field(field, text.into()),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            _ => self.field(field, value.into()),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.field(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_the_rest_is_left_alone() {
        let plain = "caf\u{e9} \u{5d0}\u{5d1} \u{1f600} a\tb\n";
        assert!(matches!(escaped(plain), Cow::Borrowed(text) if text == plain));
        for (text, shown) in [
            ("\x1b[2Jgone", "\\u001b[2Jgone"),
            ("a\rb\x08\x07\x7f", "a\\rb\\u0008\\u0007\\u007f"),
            ("\u{9b}31m", "\\u009b31m"),
            ("exe.\u{202e}txt\u{2069}", "exe.\\u202etxt\\u2069"),
        ] {
            assert_eq!(escaped(text), shown);
        }
        assert_eq!(escaped_line("a\nb\tc"), "a\\nb\\tc");
    }

    #[test]
    fn a_long_message_keeps_its_beginning_and_its_end() {
        assert!(matches!(shortened("short"), Cow::Borrowed("short")));
        let long = format!("begin{}end", "\u{e9}".repeat(1 << 20));
        let short = shortened(&long);
        assert!(short.len() <= MAX_MESSAGE + 8);
        assert!(short.starts_with("begin") && short.ends_with("end"));
    }

    #[test]
    fn a_line_of_a_page_stays_one_line() {
        let mut page = Page::default();
        let name = "model/\nfits: yes\x1b[1m";
        writeln!(page, "{name:<4} {}", 3).expect("written");
        writeln!(page).expect("written");
        assert_eq!(page.0, "model/\\nfits: yes\\u001b[1m 3\n\n");
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let value = serde_json::json!({"na\u{202e}me": "a\x7f\u{85}\x1b"});
        let text = escaped(&value.to_string()).into_owned();
        assert!(text.is_ascii());
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, value);
    }
}
