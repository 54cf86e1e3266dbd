//! What programs need to choose tokens, from the options of a run and the state of its rows.

use hlo::ArrayShape;

use super::devices::{Devices, PerDevice};
use super::error::Result;
use super::generation::{Row, TokenLogprob};
use crate::model::{Choice, ChoiceInputs, ChoiceResults, Choosing, Draw, ModelSpec, Words};
use crate::sampling::{Key, SamplingOptions};

/// The fewest candidates that a program is compiled for. Other values of top-k below it run in the
/// same program.
const FEWEST_CANDIDATES: usize = 64;

/// How the tokens of a run are chosen.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    options: SamplingOptions,
    choice: Choice,
    /// What is added to single logits.
    biases: Vec<(u32, f32)>,
    /// Sequences of several tokens that do not occur.
    words: Vec<Vec<u32>>,
}

/// A row that a program is to choose a token for.
#[derive(Clone, Copy)]
pub(super) struct ChoosingRow<'a> {
    pub prompt: &'a [u32],
    pub state: &'a Row,
    /// The length of its prompt as Flax counts it, padding included.
    pub width: usize,
}

impl Chooser {
    /// For options that have been [validated](SamplingOptions::validate).
    pub fn new(spec: &ModelSpec, options: &SamplingOptions) -> Self {
        let vocabulary = spec.gemma.spec().vocabulary.size();
        let mut biases: Vec<(u32, f32)> =
            options.logit_bias.iter().map(|(&id, &b)| (id, b)).collect();
        let forbidden = |id: &u32| (*id, f32::NEG_INFINITY);
        biases.extend(options.suppress_tokens.iter().map(forbidden));
        let (single, words): (Vec<&Vec<u32>>, Vec<&Vec<u32>>) =
            options.bad_words.iter().partition(|word| word.len() == 1);
        biases.extend(single.into_iter().flatten().map(forbidden));
        let draw = (!options.is_greedy()).then(|| Draw {
            candidates: (options.top_k > 0).then(|| {
                let count = options.top_k.min(vocabulary).max(FEWEST_CANDIDATES);
                count.next_power_of_two().min(vocabulary)
            }),
            filtered: options.top_p < 1.0 || options.min_p > 0.0,
        });
        // The lists' sizes are powers of two, so that few programs are compiled.
        let size = |count: usize| match count {
            0 => 0,
            count => count.next_power_of_two(),
        };
        let choice = Choice {
            draw,
            penalties: options.repetition_penalty != 1.0
                || options.presence_penalty != 0.0
                || options.frequency_penalty != 0.0,
            biases: size(biases.len()),
            not_first: size(options.begin_suppress_tokens.len()),
            late_eos: options.min_new_tokens > 0 || options.min_length > 0,
            forced: options.forced_bos_token_id.is_some() || options.forced_eos_token_id.is_some(),
            words: Words {
                count: size(words.len()),
                length: size(words.iter().map(|word| word.len()).max().unwrap_or(0)),
            },
            ngram: options.no_repeat_ngram_size,
            logprobs: options.logprobs,
        };
        Self {
            choice,
            biases,
            words: words.into_iter().cloned().collect(),
            options: options.clone(),
        }
    }

    /// What programs must do for it.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// The key of a generation by itself: reply `sequence` to the prompt at `index`.
    pub fn own_key(&self, index: usize, sequence: usize) -> Key {
        let key = Key::from_seed(self.options.seed).fold_in(index as u32);
        match self.options.num_return_sequences {
            0 | 1 => key,
            _ => key.fold_in(sequence as u32),
        }
    }

    /// The key of a batch that is generated together.
    pub fn batch_key(&self) -> Key {
        Key::from_seed(self.options.seed)
    }

    /// What a program needs for these rows of all groups of the data axis; none stands for a row
    /// that nobody looks at.
    pub fn inputs(
        &self,
        devices: &Devices,
        choosing: Choosing,
        rows: &[Option<ChoosingRow<'_>>],
    ) -> Result<ChoiceInputs<PerDevice>> {
        let shapes = choosing.inputs();
        let options = &self.options;
        let upload = |shape: Option<ArrayShape>, words: &dyn Fn() -> Vec<u32>| {
            let Some(shape) = shape else { return Ok(None) };
            let bytes: Vec<u8> = words().iter().flat_map(|word| word.to_le_bytes()).collect();
            let (element_type, dims) = (shape.element_type, &shape.dims);
            devices.upload_rows(&bytes, element_type, dims).map(Some)
        };
        let each = |shape, value: &dyn Fn(&ChoosingRow<'_>) -> i32| {
            let of = |row: &Option<ChoosingRow<'_>>| row.as_ref().map_or(-1, value) as u32;
            upload(shape, &|| rows.iter().map(of).collect())
        };
        let same = |shape, value: f32| upload(shape, &|| vec![value.to_bits(); rows.len()]);
        let pairs = |shape, value: &dyn Fn(&ChoosingRow<'_>) -> [u32; 2]| {
            let of = |row: &Option<ChoosingRow<'_>>| row.as_ref().map_or([0, 0], value);
            upload(shape, &|| rows.iter().flat_map(of).collect())
        };
        let list = |shape: Option<ArrayShape>, values: Vec<u32>, fill: u32| {
            let Some(shape) = shape else { return Ok(None) };
            let mut bytes: Vec<u8> = values.iter().flat_map(|word| word.to_le_bytes()).collect();
            while bytes.len() < shape.byte_size() {
                bytes.extend(fill.to_le_bytes());
            }
            let (element_type, dims) = (shape.element_type, &shape.dims);
            devices.upload(&bytes, element_type, dims).map(Some)
        };
        let none = -1_i32 as u32;
        let top_k = options.top_k.min(i32::MAX as usize) as i32;
        let (ids, added): (Vec<u32>, Vec<u32>) =
            self.biases.iter().map(|&(id, b)| (id, b.to_bits())).unzip();
        Ok(ChoiceInputs {
            key: pairs(shapes.key, &|row| row.state.keys.state().0)?,
            counter: pairs(shapes.counter, &|row| {
                let counter = row.state.counter;
                [(counter >> 32) as u32, counter as u32]
            })?,
            temperature: same(shapes.temperature, options.temperature)?,
            top_k: each(shapes.top_k, &|_| top_k)?,
            top_p: same(shapes.top_p, options.top_p)?,
            min_p: same(shapes.min_p, options.min_p)?,
            repetition: same(shapes.repetition, options.repetition_penalty)?,
            presence: same(shapes.presence, options.presence_penalty)?,
            frequency: same(shapes.frequency, options.frequency_penalty)?,
            bias_ids: list(shapes.bias_ids, ids, none)?,
            bias: list(shapes.bias, added, 0)?,
            not_first: list(
                shapes.not_first,
                options.begin_suppress_tokens.clone(),
                none,
            )?,
            late_eos: each(shapes.late_eos, &|row| self.late_eos(row))?,
            forced_at: each(shapes.forced_at, &|row| self.forced(row).0)?,
            forced: each(shapes.forced, &|row| self.forced(row).1)?,
            words: list(shapes.words, self.word_table(), none)?,
            history: upload(shapes.history, &|| history(rows, choosing.length))?,
            tokens: each(shapes.tokens, &|row| {
                (row.prompt.len() + row.state.token_ids.len()) as i32
            })?,
            generated: each(shapes.generated, &|row| row.state.token_ids.len() as i32)?,
        })
    }

    /// New tokens before which no end-of-sequence token comes. Flax takes `min_length` as a length
    /// that is not enough.
    fn late_eos(&self, row: &ChoosingRow<'_>) -> i32 {
        let by_length = match self.options.min_length {
            0 => 0,
            length => (length + 1).saturating_sub(row.width),
        };
        self.options.min_new_tokens.max(by_length) as i32
    }

    /// Where a row's token is given, and which one.
    fn forced(&self, row: &ChoosingRow<'_>) -> (i32, i32) {
        let first = self
            .options
            .forced_bos_token_id
            .filter(|_| row.width == 1 && row.state.token_ids.is_empty());
        match (first, self.options.forced_eos_token_id) {
            (Some(id), _) => (0, id as i32),
            (None, Some(id)) => (row.state.limit as i32 - 1, id as i32),
            (None, None) => (-1, 0),
        }
    }

    /// The words [count, length], each at the end of its row.
    fn word_table(&self) -> Vec<u32> {
        let Words { count, length } = self.choice.words;
        let mut table = vec![-2_i32 as u32; count * length];
        for (line, word) in table.chunks_exact_mut(length.max(1)).zip(&self.words) {
            line[length - word.len()..].copy_from_slice(word);
        }
        // A line without a word forbids nothing.
        for line in table.chunks_exact_mut(length.max(1)).skip(self.words.len()) {
            line[length - 1] = -1_i32 as u32;
        }
        table
    }
}

/// The tokens of rows, [rows, length]; -1 after them.
fn history(rows: &[Option<ChoosingRow<'_>>], length: usize) -> Vec<u32> {
    let mut history = vec![-1_i32 as u32; rows.len() * length];
    for (line, row) in history.chunks_exact_mut(length).zip(rows) {
        let tokens = row.iter().flat_map(|row| {
            let reply = &row.state.token_ids;
            row.prompt.iter().chain(reply)
        });
        for (place, &id) in line.iter_mut().zip(tokens) {
            *place = id;
        }
    }
    history
}

/// What programs reported of the tokens that they chose.
pub(super) struct Reports {
    /// [rows, steps].
    logprobs: Vec<f32>,
    /// [rows, steps, count].
    top: Vec<(u32, f32)>,
    steps: usize,
    count: usize,
}

impl Reports {
    /// Reads the report of a call that has room for so many steps; none where nothing is reported.
    pub fn read(
        devices: &Devices,
        from: &ChoiceResults<PerDevice>,
        steps: usize,
    ) -> Result<Option<Self>> {
        let Some(logprob) = &from.logprob else {
            return Ok(None);
        };
        let f32s = |from| devices.read(from, |buffer| Ok(buffer.to_vec_f32()?));
        let logprobs = f32s(logprob)?;
        let top = match (&from.top_ids, &from.top_logprobs) {
            (Some(ids), Some(logprobs)) => {
                let ids = devices.read_s32(ids)?.into_iter().map(|id| id as u32);
                ids.zip(f32s(logprobs)?).collect()
            }
            _ => Vec::new(),
        };
        let count = top.len().checked_div(logprobs.len()).unwrap_or(0);
        Ok(Some(Self {
            logprobs,
            top,
            steps,
            count,
        }))
    }

    /// What was reported of a token.
    pub fn of(&self, row: usize, step: usize, token_id: u32) -> TokenLogprob {
        let place = row * self.steps + step;
        let top = self.top.get(place * self.count..(place + 1) * self.count);
        TokenLogprob {
            token_id,
            logprob: self.logprobs.get(place).copied().unwrap_or(f32::NAN),
            top: top.unwrap_or_default().to_vec(),
        }
    }
}
