//! Where numbers that are not finite first appear in a model.

use std::fmt;

use super::core::Engine;
use super::error::Result;

/// A part of the model whose output is not finite, while that of the part before is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotFinite {
    /// The embedding.
    Embedding,
    /// This layer, from 0.
    Layer(usize),
    /// The last layer, or the norm after it.
    LastLayer(usize),
    /// The logits.
    Logits,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotFinite::Embedding => f.write_str("the embedding"),
            NotFinite::Layer(layer) => write!(f, "layer {layer}"),
            NotFinite::LastLayer(layer) => write!(f, "layer {layer} or the final norm"),
            NotFinite::Logits => f.write_str("the logits"),
        }
    }
}

impl Engine {
    /// The first part of the model whose output after any of these tokens is infinite or not a
    /// number; none where all are finite.
    ///
    /// It runs the whole forward pass, in a program for this number of tokens.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn first_not_finite(&self, token_ids: &[u32]) -> Result<Option<NotFinite>> {
        let ids: Vec<i32> = token_ids.iter().map(|&id| id as i32).collect();
        let output = self.forward(1, ids.len(), &ids, &vec![1; ids.len()])?;
        Ok(first(&output.hidden_states, &output.logits))
    }
}

fn first(hidden_states: &[Vec<f32>], logits: &[f32]) -> Option<NotFinite> {
    let is_finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
    match hidden_states.iter().position(|state| !is_finite(state)) {
        Some(0) => Some(NotFinite::Embedding),
        Some(state) if state + 1 == hidden_states.len() => Some(NotFinite::LastLayer(state - 1)),
        Some(state) => Some(NotFinite::Layer(state - 1)),
        None if !is_finite(logits) => Some(NotFinite::Logits),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_is_named() {
        let fine = || vec![vec![1.0_f32, -2.0]; 4];
        assert_eq!(first(&fine(), &[0.5]), None);
        assert_eq!(first(&fine(), &[f32::NAN]), Some(NotFinite::Logits));
        for (state, expected) in [
            (0, "the embedding"),
            (1, "layer 0"),
            (2, "layer 1"),
            (3, "layer 2 or the final norm"),
        ] {
            let mut states = fine();
            for later in &mut states[state..] {
                later[1] = f32::INFINITY;
            }
            let found = first(&states, &[f32::NAN]).expect("found");
            assert_eq!(found.to_string(), expected);
        }
    }
}
