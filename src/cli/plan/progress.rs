//! What the compiler works on, on standard error where that is a terminal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::terminal;
use crate::plan::CompileEvent;

/// How often the seconds are updated.
const TICK: Duration = Duration::from_millis(500);

/// One line: `compiling decode (8 × 1024), 12s…`.
#[derive(Default)]
pub(super) struct Progress(Mutex<State>);

#[derive(Default)]
struct State {
    /// Programs that are being compiled.
    names: Vec<String>,
    /// None while there are none.
    line: Option<ProgressBar>,
}

impl Progress {
    /// Shows that a compile has started or finished.
    pub fn show(&self, event: CompileEvent<'_>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            CompileEvent::Started(name) => {
                // The seconds are those since the compiler was last idle.
                state.line.get_or_insert_with(line);
                state.names.push(name.to_owned());
            }
            CompileEvent::Finished(name) => {
                if let Some(index) = state.names.iter().position(|known| known == name) {
                    state.names.remove(index);
                }
            }
        }
        if state.names.is_empty() {
            state.clear();
        } else if let Some(line) = &state.line {
            line.set_message(state.names.join(", "));
        }
    }

    /// Removes the line.
    pub fn clear(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.clear();
    }
}

impl State {
    fn clear(&mut self) {
        if let Some(line) = self.line.take() {
            line.finish_and_clear();
        }
    }
}

/// indicatif draws nothing where standard error is not a terminal.
fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("compiling {msg}, {elapsed}…")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let line = terminal::bar(ProgressBar::new_spinner().with_style(style));
    line.enable_steady_tick(TICK);
    line
}
