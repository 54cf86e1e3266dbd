//! Texts that end a reply, found while it streams.

use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::dfa::DFA;
use aho_corasick::{Anchored, MatchKind};

use super::{Error, Result};

/// The most bytes that all stop texts of a reply may have together: the automaton's size grows with
/// them.
const MAX_BYTES: usize = 1 << 12;

/// Stop texts, ready to be looked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StopStrings(Arc<Searcher>);

#[derive(Debug)]
struct Searcher {
    /// None where there are no texts.
    dfa: Option<DFA>,
    /// How many bytes of a text lead to each state: what must be held back there.
    depths: HashMap<StateID, usize>,
}

impl StopStrings {
    /// Prepares to look for `texts`.
    ///
    /// # Errors
    /// An empty text, or texts of more than 4 KiB together.
    pub fn new<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        if let Some(index) = texts.iter().position(|text| text.as_ref().is_empty()) {
            return Err(Error::new("stop", format!("text {index} is empty")));
        }
        let bytes: usize = texts.iter().map(|text| text.as_ref().len()).sum();
        if bytes > MAX_BYTES {
            let problem = format!("{bytes} bytes of text are more than {MAX_BYTES}");
            return Err(Error::new("stop", problem));
        }
        if texts.is_empty() {
            let (dfa, depths) = (None, HashMap::new());
            return Ok(Self(Arc::new(Searcher { dfa, depths })));
        }
        // In this kind of match each state stands for one prefix of a text, and reports every text
        // that ends there.
        let dfa = DFA::builder()
            .match_kind(MatchKind::Standard)
            .build(texts.iter().map(AsRef::as_ref))
            .map_err(|problem| Error::new("stop", problem.to_string()))?;
        let start = start_of(&dfa);
        let mut depths = HashMap::from([(start, 0)]);
        for text in texts {
            let mut state = start;
            for (index, &byte) in text.as_ref().as_bytes().iter().enumerate() {
                state = dfa.next_state(Anchored::No, state, byte);
                depths.insert(state, index + 1);
            }
        }
        let dfa = Some(dfa);
        Ok(Self(Arc::new(Searcher { dfa, depths })))
    }

    /// Looks for the texts in one reply, from its beginning.
    pub fn matcher(&self) -> StopMatcher {
        StopMatcher {
            state: self.0.dfa.as_ref().map(start_of),
            searcher: self.0.clone(),
            held: String::new(),
            stopped: None,
        }
    }
}

fn start_of(dfa: &DFA) -> StateID {
    dfa.start_state(Anchored::No)
        .expect("a searcher built with the default kinds of start")
}

/// The outcome of one piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// The text that is settled: no part of it can belong to a stop text any more.
    pub text: String,
    /// The index of the stop text that ended the reply, if one did.
    pub stopped: Option<usize>,
}

/// Looks for stop texts in a reply that comes piece by piece.
///
/// The reply ends where the first stop text is complete; of several that complete at the same
/// place, the longest counts. It is cut from the text, and what may be the beginning of one is held
/// back until it is settled. Each byte costs a step of an automaton, however many texts there are.
///
/// ```
/// use gemma_xla::sampling::StopStrings;
///
/// let mut matcher = StopStrings::new(&["\nUser:"])?.matcher();
/// assert_eq!(matcher.push("Hello\nUs").text, "Hello");
/// let last = matcher.push("er: and more");
/// assert_eq!((last.text.as_str(), last.stopped), ("", Some(0)));
/// # Ok::<(), gemma_xla::sampling::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopMatcher {
    searcher: Arc<Searcher>,
    /// None where there is nothing to look for.
    state: Option<StateID>,
    /// The end of the text that is held back: the beginning of a stop text.
    held: String,
    stopped: Option<usize>,
}

impl StopMatcher {
    /// Takes the next piece of the reply. After the end every further piece is dropped.
    pub fn push(&mut self, piece: &str) -> Released {
        let stopped = self.stopped;
        if stopped.is_some() {
            let text = String::new();
            return Released { text, stopped };
        }
        let (Some(mut state), Some(dfa)) = (self.state, &self.searcher.dfa) else {
            let text = piece.to_owned();
            return Released { text, stopped };
        };
        let before = self.held.len();
        self.held.push_str(piece);
        for (index, &byte) in piece.as_bytes().iter().enumerate() {
            state = dfa.next_state(Anchored::No, state, byte);
            if !dfa.is_match(state) {
                continue;
            }
            let matches = (0..dfa.match_len(state)).map(|match_| dfa.match_pattern(state, match_));
            if let Some(longest) = matches.max_by_key(|&pattern| dfa.pattern_len(pattern)) {
                let start = before + index + 1 - dfa.pattern_len(longest);
                self.held.truncate(start);
                self.stopped = Some(longest.as_usize());
                let text = std::mem::take(&mut self.held);
                let stopped = self.stopped;
                return Released { text, stopped };
            }
        }
        self.state = Some(state);
        let open = self.searcher.depths.get(&state).copied().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - open);
        let text = std::mem::replace(&mut self.held, kept);
        Released { text, stopped }
    }

    /// The text that was held back, for a reply that ended in another way.
    pub fn finish(self) -> String {
        self.held
    }

    /// The index of the stop text that ended the reply, if one did.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where the text ends by a search of all places, and by which stop text.
    fn naive(text: &str, stops: &[String]) -> Option<(usize, usize)> {
        (0..=text.len()).find_map(|end| {
            let ending = |stop: &String| text.as_bytes()[..end].ends_with(stop.as_bytes());
            let (index, stop) = stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| ending(stop))
                .max_by_key(|(index, stop)| (stop.len(), std::cmp::Reverse(*index)))?;
            Some((end - stop.len(), index))
        })
    }

    /// How much of the text's end may be the beginning of a stop text.
    fn open(text: &str, stops: &[String]) -> usize {
        let begins = |len: &usize| {
            let end = &text.as_bytes()[text.len() - len..];
            stops.iter().any(|stop| stop.as_bytes().starts_with(end))
        };
        (0..=text.len()).rev().find(begins).unwrap_or(0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn pieces_are_cut_and_held_back_as_a_search_of_the_whole_text_says(
            pieces in prop::collection::vec("[abé🙂]{0,4}", 0..12),
            stops in prop::collection::vec("[abé🙂]{1,5}", 0..4),
        ) {
            let mut matcher = StopStrings::new(&stops).unwrap().matcher();
            let (mut whole, mut shown) = (String::new(), String::new());
            for piece in &pieces {
                whole.push_str(piece);
                let released = matcher.push(piece);
                shown.push_str(&released.text);
                match naive(&whole, &stops) {
                    Some((cut, index)) => {
                        prop_assert_eq!(&shown, &whole[..cut]);
                        prop_assert_eq!(&stops[released.stopped.unwrap()], &stops[index]);
                    }
                    None => {
                        prop_assert_eq!(released.stopped, None);
                        prop_assert_eq!(&shown, &whole[..whole.len() - open(&whole, &stops)]);
                    }
                }
                prop_assert_eq!(released.stopped, matcher.stopped());
            }
            shown.push_str(&matcher.finish());
            let cut = naive(&whole, &stops).map_or(whole.len(), |(cut, _)| cut);
            prop_assert_eq!(&shown, &whole[..cut]);
        }
    }

    #[test]
    fn nothing_is_held_back_without_stop_texts() {
        let mut matcher = StopStrings::new::<&str>(&[]).unwrap().matcher();
        assert_eq!(matcher.push("any text").text, "any text");
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn pieces_behind_the_end_are_dropped() {
        let mut matcher = StopStrings::new(&["b"]).unwrap().matcher();
        let end = Released {
            text: "a".to_owned(),
            stopped: Some(0),
        };
        assert_eq!(matcher.push("abc"), end);
        let behind = Released {
            text: String::new(),
            stopped: Some(0),
        };
        assert_eq!(matcher.push("abc"), behind);
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn what_is_held_is_never_more_than_the_longest_text() {
        let stop = "a".repeat(100) + "b";
        let mut matcher = StopStrings::new(&[&stop]).unwrap().matcher();
        let mut shown = 0;
        for count in 1..=10_000 {
            shown += matcher.push("a").text.len();
            assert_eq!(shown, count - count.min(100));
        }
    }

    #[test]
    fn empty_and_endless_texts_are_refused() {
        let message = |texts: &[String]| StopStrings::new(texts).unwrap_err().to_string();
        assert_eq!(
            message(&["a".to_owned(), String::new()]),
            "stop: text 1 is empty"
        );
        let long = "a".repeat(MAX_BYTES);
        assert!(StopStrings::new(&[&long]).is_ok());
        assert_eq!(
            message(&[long, "b".to_owned()]),
            "stop: 4097 bytes of text are more than 4096"
        );
    }
}
