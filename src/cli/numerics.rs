//! Rows whose logits are not numbers: they end there, with a warning.

use super::input::Prompt;
use super::terminal;
use crate::engine::{Engine, Generation, Result};

/// Looks after the logits of finished rows.
pub(super) struct Numerics<'a> {
    engine: &'a Engine,
    /// Whether all rows are looked at, and not only those whose tokens look like it.
    all: bool,
    /// Whether such a row has been seen: the next ones are taken to be no better.
    found: bool,
}

impl<'a> Numerics<'a> {
    pub(super) fn new(engine: &'a Engine, all: bool) -> Self {
        Self {
            engine,
            all,
            found: false,
        }
    }

    /// Ends a row before the first token that was chosen among logits that are not numbers. The
    /// choice among those is the first token or padding, which no trained model chooses otherwise.
    pub(super) fn check(
        &mut self,
        prompt: &Prompt,
        ids: &[u32],
        generation: &mut Generation,
    ) -> Result<()> {
        let padding = self.engine.spec().config.padding_id();
        let tokens = &mut generation.token_ids;
        let suspicious = tokens.iter().position(|&id| id == 0 || id == padding);
        let end = match suspicious {
            Some(end) => end,
            None if self.all => tokens.len(),
            None => return Ok(()),
        };
        let place = match self.found {
            true => String::new(),
            false => {
                let before = [ids, &tokens[..end]].concat();
                match self.engine.first_not_finite(&before) {
                    Ok(None) => return Ok(()),
                    Ok(Some(place)) => format!("; {place} has the first of them"),
                    // Nobody asked: with saved executables alone, for instance, it cannot be told.
                    Err(_) if !self.all => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        };
        if suspicious.is_none() && self.found {
            return Ok(());
        }
        self.found = true;
        tokens.truncate(end);
        terminal::warn(format_args!(
            "{prompt}: after {end} new tokens the logits are not numbers, and the row ends \
             there{place}; bf16 and f32 overflow later than f16"
        ));
        Ok(())
    }
}
