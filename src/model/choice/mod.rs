//! How programs choose the next token: what is done to the logits, how one is drawn, and what is
//! reported of the choice. Everything is done on the device; a program that chooses greedily has no
//! part of it but [`greedy`](super::greedy).

mod adjust;
mod draw;
mod noise;
mod report;

use hlo::{ArrayShape, ElementType, Tensor};

use super::ModelSpec;
use super::greedy::greedy;
use super::pass::Pass;
use super::ports::optional_ports;
use super::programs::array;
use adjust::{Adjusted, note_token};
pub(super) use report::{at, greatest_logprobs, log_sum_exp};

/// How a program chooses tokens: a part of its sizes. What differs between rows and calls is in
/// [`ChoiceInputs`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Choice {
    /// How tokens are drawn at random; greedily where there is nothing.
    pub draw: Option<Draw>,
    /// Whether tokens that a row has already are penalised.
    pub penalties: bool,
    /// Entries in the list of what is added to single logits.
    pub biases: usize,
    /// Entries in the list of tokens that are not a row's first.
    pub not_first: usize,
    /// Whether rows have new tokens before which no end-of-sequence token comes.
    pub late_eos: bool,
    /// Whether rows have a place where the token is given.
    pub forced: bool,
    /// Sequences of tokens that do not occur.
    pub words: Words,
    /// Length of the sequences of which none occurs twice; 0 where any may.
    pub ngram: usize,
    /// How many of the most likely tokens are reported with each new one, with the logarithms of
    /// their probabilities.
    pub logprobs: Option<usize>,
    /// Whether rows have a set of tokens that one is chosen from.
    pub allowed: bool,
}

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Draw {
    /// How many of the most likely tokens a row's `top_k` may leave. Only these need random
    /// numbers.
    pub candidates: Option<usize>,
    /// Whether rows without a `top_k` draw from the whole vocabulary. Where there are no
    /// candidates, all rows do.
    pub whole: bool,
    /// Whether rows with a temperature of 0 take the most likely token.
    pub mixed: bool,
    /// Whether rows leave out tokens by their probabilities, as `top_p` and `min_p` do.
    pub filtered: bool,
}

/// The size of a list of sequences that do not occur.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Words {
    /// Sequences.
    pub count: usize,
    /// Tokens of the longest, at least 1 where there are any.
    pub length: usize,
}

/// The rows that a program chooses tokens for.
#[derive(Clone, Copy, Debug)]
pub struct Choosing {
    /// How.
    pub choice: Choice,
    /// Rows.
    pub rows: usize,
    /// Tokens that a row can have.
    pub length: usize,
}

optional_ports! {
    /// What a choice needs, where it needs it.
    #[derive(Copy)]
    pub struct ChoiceInputs {
        /// The key that the next step splits, u32 [rows, 2].
        key,
        /// Where a row's random numbers begin, the high and the low half of a counter, u32 [rows,
        /// 2].
        counter,
        /// What logits are divided by, f32 \[rows\].
        temperature,
        /// Tokens to draw from, at most the candidates, s32 \[rows\].
        top_k,
        /// The probability that they must reach together, f32 \[rows\].
        top_p,
        /// The least probability, as a share of the greatest, f32 \[rows\].
        min_p,
        /// What logits of tokens are divided by that the row has already, f32 \[rows\].
        repetition,
        /// What is subtracted from the logits of tokens that the reply has, f32 \[rows\].
        presence,
        /// What is subtracted for each time, f32 \[rows\].
        frequency,
        /// Tokens whose logits are changed, s32 [rows, biases]; -1 for none.
        bias_ids,
        /// What is added to them, f32 [rows, biases].
        bias,
        /// Tokens that are not a row's first, s32 [rows, not_first]; -1 for none.
        not_first,
        /// New tokens before which no end-of-sequence token comes, s32 \[rows\].
        late_eos,
        /// The new token that is given, counted from 0, s32 \[rows\]; -1 for none.
        forced_at,
        /// The one that is given there, s32 \[rows\].
        forced,
        /// Sequences, s32 [rows, count, length], with -2 before shorter ones.
        words,
        /// Whether a token may be chosen, pred [rows, vocabulary].
        allowed,
        /// The row's tokens, s32 [rows, length]; -1 after them.
        history,
        /// How many there are, s32 \[rows\].
        tokens,
        /// How many of them are new, s32 \[rows\].
        generated,
    }
}

optional_ports! {
    /// What is reported of the choice.
    #[derive(Copy)]
    pub struct ChoiceResults {
        /// The logarithm of the chosen token's probability, f32, shaped as the tokens.
        logprob,
        /// The most likely tokens, s32, with one more dimension.
        top_ids,
        /// The logarithms of their probabilities, f32, as `top_ids`.
        top_logprobs,
    }
}

optional_ports! {
    /// What a loop carries to choose tokens.
    #[derive(Copy)]
    pub(super) struct ChoiceState {
        key,
        counter,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition,
        presence,
        frequency,
        /// What is added to each logit, f32 [rows, share of the vocabulary].
        bias,
        /// Whether each token may not be a row's first, pred [rows, share of the vocabulary].
        not_first,
        late_eos,
        forced_at,
        forced,
        words,
        /// Whether each token may be chosen, pred [rows, share of the vocabulary].
        allowed,
        history,
        tokens,
        generated,
        /// How often the row has each token, s32 [rows, share of the vocabulary].
        seen,
        /// How often its reply has, s32 [rows, share of the vocabulary].
        replied,
        /// The reports of the steps so far.
        logprob,
        top_ids,
        top_logprobs,
    }
}

impl Choice {
    /// The most likely token, and nothing else.
    pub const GREEDY: Self = Self {
        draw: None,
        penalties: false,
        biases: 0,
        not_first: 0,
        late_eos: false,
        forced: false,
        words: Words {
            count: 0,
            length: 0,
        },
        ngram: 0,
        logprobs: None,
        allowed: false,
    };

    /// What tells it from the greedy choice, by name.
    pub fn sizes(self) -> Vec<(&'static str, usize)> {
        let candidates = self.draw.map(|draw| draw.candidates.unwrap_or(0));
        let [whole, mixed, filtered] = match self.draw {
            None => [false; 3],
            // Without candidates all rows draw from the whole vocabulary.
            Some(draw) => [
                draw.whole && draw.candidates.is_some(),
                draw.mixed,
                draw.filtered,
            ],
        };
        let optional = [
            ("candidates", candidates),
            ("whole", whole.then_some(1)),
            ("mixed", mixed.then_some(1)),
            ("filtered", filtered.then_some(1)),
            ("penalties", self.penalties.then_some(1)),
            ("biases", (self.biases > 0).then_some(self.biases)),
            ("not_first", (self.not_first > 0).then_some(self.not_first)),
            ("late_eos", self.late_eos.then_some(1)),
            ("forced", self.forced.then_some(1)),
            ("words", self.has_words().then_some(self.words.count)),
            ("word_length", self.has_words().then_some(self.words.length)),
            ("ngram", (self.ngram > 0).then_some(self.ngram)),
            ("logprobs", self.logprobs),
            ("allowed", self.allowed.then_some(1)),
        ];
        optional
            .into_iter()
            .filter_map(|(name, size)| Some((name, size?)))
            .collect()
    }

    /// Whether rows that `other` is enough for have the same tokens by this choice.
    pub fn covers(self, other: Self) -> bool {
        let draws = match (self.draw, other.draw) {
            (_, None) => self.draw.is_none_or(|draw| draw.mixed),
            (None, Some(_)) => false,
            (Some(draw), Some(other)) => {
                let candidates = match (draw.candidates, other.candidates) {
                    (Some(most), Some(wanted)) => wanted <= most,
                    (None, Some(_)) => false,
                    (Some(_), None) => draw.whole,
                    (None, None) => true,
                };
                candidates
                    && (draw.whole || !other.whole)
                    && (draw.filtered || !other.filtered)
                    && (draw.mixed || !other.mixed)
            }
        };
        let logprobs = other
            .logprobs
            .is_none_or(|count| self.logprobs.is_some_and(|most| count <= most));
        draws
            && logprobs
            && (self.penalties || !other.penalties)
            && other.biases <= self.biases
            && other.not_first <= self.not_first
            && (self.late_eos || !other.late_eos)
            && (self.forced || !other.forced)
            && other.words.count <= self.words.count
            && other.words.length <= self.words.length
            && other.ngram == self.ngram
            && (self.allowed || !other.allowed)
    }

    fn has_words(self) -> bool {
        self.words.count > 0
    }

    /// Whether a choice depends on the row's tokens.
    pub fn has_history(self) -> bool {
        self.penalties || self.has_words() || self.ngram > 0
    }

    /// Whether a choice depends on how many tokens are new.
    pub fn counts_new_tokens(self) -> bool {
        self.not_first > 0 || self.late_eos || self.forced || self.penalties
    }
}

impl Choosing {
    /// The shapes of what it needs, where the vocabulary has so many entries.
    pub fn inputs(self, vocabulary: usize) -> ChoiceInputs<ArrayShape> {
        let Self {
            choice,
            rows,
            length,
        } = self;
        let when = |present: bool, element_type: ElementType, dims: &[usize]| {
            present.then(|| array(element_type, dims))
        };
        let per_row = |present, element_type| when(present, element_type, &[rows]);
        let draws = choice.draw.is_some();
        let filtered = choice.draw.is_some_and(|draw| draw.filtered);
        let among = choice.draw.is_some_and(|draw| draw.candidates.is_some());
        let (biases, not_first) = (choice.biases, choice.not_first);
        let words = [rows, choice.words.count, choice.words.length];
        use ElementType::{F32, Pred, S32, U32};
        ChoiceInputs {
            key: when(draws, U32, &[rows, 2]),
            counter: when(draws, U32, &[rows, 2]),
            temperature: per_row(draws, F32),
            top_k: per_row(among, S32),
            top_p: per_row(filtered, F32),
            min_p: per_row(filtered, F32),
            repetition: per_row(choice.penalties, F32),
            presence: per_row(choice.penalties, F32),
            frequency: per_row(choice.penalties, F32),
            bias_ids: when(biases > 0, S32, &[rows, biases]),
            bias: when(biases > 0, F32, &[rows, biases]),
            not_first: when(not_first > 0, S32, &[rows, not_first]),
            late_eos: per_row(choice.late_eos, S32),
            forced_at: per_row(choice.forced, S32),
            forced: per_row(choice.forced, S32),
            words: when(choice.has_words(), S32, &words),
            allowed: when(choice.allowed, Pred, &[rows, vocabulary]),
            history: when(choice.has_history(), S32, &[rows, length]),
            tokens: per_row(choice.has_history(), S32),
            generated: per_row(choice.counts_new_tokens(), S32),
        }
    }

    /// Which reports it gives; their shapes are the program's.
    pub fn results(self) -> ChoiceResults<()> {
        let any = self.choice.logprobs.is_some();
        let top = self.choice.logprobs.is_some_and(|count| count > 0);
        ChoiceResults {
            logprob: any.then_some(()),
            top_ids: top.then_some(()),
            top_logprobs: top.then_some(()),
        }
    }
}

impl<'b> ChoiceState<Tensor<'b>> {
    /// What the first of `steps` steps begins with.
    pub fn begin(
        pass: &Pass<'_, 'b>,
        choosing: Choosing,
        inputs: ChoiceInputs<Tensor<'b>>,
        steps: usize,
    ) -> Self {
        let Adjusted {
            bias,
            not_first,
            seen,
            replied,
        } = adjust::begin(pass, inputs);
        let (rows, steps) = (choosing.rows as i64, steps as i64);
        let zeros = |element_type, dims: &[i64]| pass.b.filled(element_type, dims, 0.0);
        let logprobs = choosing.choice.logprobs;
        let top = logprobs.filter(|&count| count > 0);
        let top = top.map(|count| [rows, steps, count as i64]);
        Self {
            key: inputs.key,
            counter: inputs.counter,
            temperature: inputs.temperature,
            top_k: inputs.top_k,
            top_p: inputs.top_p,
            min_p: inputs.min_p,
            repetition: inputs.repetition,
            presence: inputs.presence,
            frequency: inputs.frequency,
            bias,
            not_first,
            late_eos: inputs.late_eos,
            forced_at: inputs.forced_at,
            forced: inputs.forced,
            words: inputs.words,
            allowed: inputs.allowed.map(|allowed| own_share(pass, allowed)),
            history: inputs.history,
            tokens: inputs.tokens,
            generated: inputs.generated,
            seen,
            replied,
            logprob: logprobs.map(|_| zeros(ElementType::F32, &[rows, steps])),
            top_ids: top.map(|dims| zeros(ElementType::S32, &dims)),
            top_logprobs: top.map(|dims| zeros(ElementType::F32, &dims)),
        }
    }

    /// Chooses the next token of each row by its `logits` [rows, share of the vocabulary], s32
    /// \[rows\], and becomes the state after it. `step` (s32) counts the steps of this call.
    pub fn choose(
        &mut self,
        pass: &Pass<'_, 'b>,
        choice: Choice,
        logits: Tensor<'b>,
        step: Tensor<'b>,
    ) -> Tensor<'b> {
        let adjusted = pass.scoped("adjust", || adjust::adjust(pass, choice, self, logits));
        let token = match choice.draw {
            None => greedy(pass, adjusted),
            Some(draw) => pass.scoped("draw", || draw::draw(pass, draw, self, adjusted)),
        };
        let token = match (self.forced_at, self.forced, self.generated) {
            (Some(at), Some(forced), Some(generated)) => generated.equals(at).select(forced, token),
            _ => token,
        };
        if let Some(count) = choice.logprobs {
            pass.scoped("logprobs", || {
                report::report(pass, count, self, logits, token, step);
            });
        }
        pass.scoped("note", || note_token(pass, self, token));
        token
    }

    /// What is reported of the steps, of all groups of the data axis.
    pub fn results(&self, pass: &Pass<'_, 'b>) -> ChoiceResults<Tensor<'b>> {
        let gathered = |x: Option<Tensor<'b>>| x.map(|x| pass.gather_over_data(x));
        ChoiceResults {
            logprob: gathered(self.logprob),
            top_ids: gathered(self.top_ids),
            top_logprobs: gathered(self.top_logprobs),
        }
    }
}

/// The token after a single pass, s32 \[rows\], and the report of it.
pub(super) fn choose_once<'b>(
    pass: &Pass<'_, 'b>,
    choosing: Choosing,
    inputs: ChoiceInputs<Tensor<'b>>,
    logits: Tensor<'b>,
) -> (Tensor<'b>, ChoiceResults<Tensor<'b>>) {
    let mut state = ChoiceState::begin(pass, choosing, inputs, 1);
    let token = state.choose(pass, choosing.choice, logits, pass.b.integer(0));
    (token, state.results(pass))
}

/// The `count` greatest of each row of `x` [rows, share of the vocabulary] over the whole
/// vocabulary, and their ids, s32: both [rows, count], the greatest first.
fn greatest<'b>(pass: &Pass<'_, 'b>, x: Tensor<'b>, count: usize) -> (Tensor<'b>, Tensor<'b>) {
    let count = count as i64;
    let (values, ids) = pass.ops.top_k(x, count.min(x.size(1)));
    let Some(offset) = pass.vocabulary_offset() else {
        return (values, ids);
    };
    let ids = ids + offset.everywhere_in(ids);
    let [values, ids] = [values, ids].map(|x| pass.gather_over_model(x, 1));
    let (values, ids) = values.ranked(ids);
    (values.slice(1, 0, count), ids.slice(1, 0, count))
}

/// The ids of the vocabulary's share in each row of [rows, share], s32.
fn ids<'b>(pass: &Pass<'_, 'b>, dims: &[i64]) -> Tensor<'b> {
    let ids = pass.b.indices(dims, dims.len() as i64 - 1);
    match pass.vocabulary_offset() {
        None => ids,
        Some(offset) => ids + offset.everywhere_in(ids),
    }
}

/// The device's share of `x` [rows, vocabulary].
fn own_share<'b>(pass: &Pass<'_, 'b>, x: Tensor<'b>) -> Tensor<'b> {
    match pass.vocabulary_offset() {
        None => x,
        Some(offset) => {
            let zero = pass.b.integer(0);
            x.dynamic_slice(&[zero, offset], &[x.size(0), share(pass.spec)])
        }
    }
}

/// The share of the vocabulary that a device has logits of.
fn share(spec: &ModelSpec) -> i64 {
    let vocabulary = &spec.gemma.spec().vocabulary;
    vocabulary.size_on_device(spec.mesh) as i64
}

/// Element `ids` \[rows\] of each row of `x` [rows, n], picked by a sum in which all others are
/// zero.
fn picked<'b>(x: Tensor<'b>, ids: Tensor<'b>) -> Tensor<'b> {
    let dims = x.dims();
    let b = x.builder();
    let chosen = b.indices(&dims, 1).equals(ids.broadcast(&dims, &[0]));
    let zeros = b.filled(x.element_type(), &dims, 0.0);
    chosen.select(x, zeros).sum(&[1])
}
