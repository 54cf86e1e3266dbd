//! What programs need to choose tokens, from the options and the state of their rows.

use hlo::ArrayShape;

use super::devices::{Devices, PerDevice};
use super::error::Result;
use super::generation::{Row, TokenLogprob};
use crate::model::{Choice, ChoiceInputs, ChoiceResults, Choosing, Draw, ModelSpec, Words};
use crate::sampling::{Key, MAX_LOGPROBS, SamplingOptions};

/// The fewest candidates that a program is compiled for. Other values of top-k below it run in the
/// same program.
const FEWEST_CANDIDATES: usize = 64;
/// The most tokens that a row with sampling options of its own may draw from, unless it draws from
/// the whole vocabulary.
const MOST_CANDIDATES: usize = 256;
/// The most single tokens whose logits such a row may change. OpenAI's interface allows 300.
const MOST_BIASES: usize = 1024;

/// How the tokens of a row are chosen.
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
    pub chooser: &'a Chooser,
    /// The tokens that may be chosen, a bit each, the lowest first; all of them where there is
    /// nothing.
    pub allowed: Option<&'a [u32]>,
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
            whole: options.top_k == 0,
            mixed: false,
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
            allowed: false,
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

    /// Choices that together are enough for rows with options of their own, the cheapest first: the
    /// first that [covers](Choice::covers) what all rows need is the one to run. What these options
    /// ask of every row is part of each.
    pub fn choices_for_any(&self, vocabulary: usize) -> Vec<Choice> {
        let own = self.choice;
        let greedy = Choice {
            not_first: own.not_first,
            forced: own.forced,
            words: own.words,
            ngram: own.ngram,
            ..Choice::GREEDY
        };
        let draw = |whole| {
            Some(Draw {
                candidates: Some(MOST_CANDIDATES.min(vocabulary)),
                whole,
                mixed: true,
                filtered: true,
            })
        };
        let all = Choice {
            draw: draw(true),
            penalties: true,
            biases: MOST_BIASES.max(own.biases),
            late_eos: true,
            logprobs: Some(MAX_LOGPROBS.min(vocabulary)),
            ..greedy
        };
        let drawn = Choice {
            draw: draw(false),
            ..greedy
        };
        vec![
            greedy,
            drawn,
            all,
            Choice {
                allowed: true,
                ..all
            },
        ]
    }

    /// Why the last of [`choices_for_any`](Self::choices_for_any) is not enough for a row.
    pub fn beyond(&self, most: Choice) -> Option<(&'static str, String)> {
        let own = self.choice;
        let candidates = |choice: Choice| choice.draw.and_then(|draw| draw.candidates);
        if candidates(own) > candidates(most) {
            let (top_k, most) = (self.options.top_k, candidates(most).unwrap_or(0));
            let problem = format!("{top_k} is above {most}; 0 draws from all tokens");
            return Some(("top_k", problem));
        }
        if self.biases.len() > most.biases {
            let problem = format!("{} tokens are more than {}", self.biases.len(), most.biases);
            return Some(("logit_bias", problem));
        }
        (!most.covers(own)).then(|| {
            let problem = "they differ from the session's in what it was not compiled for";
            ("sampling", problem.to_owned())
        })
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

    /// The words in a table [count, length], each at the end of its line.
    fn word_table(&self, Words { count, length }: Words) -> Vec<u32> {
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

/// What a program needs for these rows of all groups of the data axis; none stands for a row that
/// nobody looks at.
pub(super) fn choice_inputs(
    devices: &Devices,
    spec: &ModelSpec,
    choosing: Choosing,
    rows: &[Option<ChoosingRow<'_>>],
) -> Result<ChoiceInputs<PerDevice>> {
    let vocabulary = spec.gemma.spec().vocabulary.size();
    let shapes = choosing.inputs(vocabulary);
    let bytes =
        |words: Vec<u32>| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let upload = |shape: Option<ArrayShape>, bytes: &dyn Fn(&ArrayShape) -> Vec<u8>| {
        let Some(shape) = shape else { return Ok(None) };
        let (element_type, dims) = (shape.element_type, &shape.dims);
        devices
            .upload_rows(&bytes(&shape), element_type, dims)
            .map(Some)
    };
    type Value<'v, T> = &'v dyn Fn(&ChoosingRow<'_>) -> T;
    let whole = |shape, otherwise: i32, value: Value<'_, i32>| {
        let of = |row: &Option<ChoosingRow<'_>>| row.as_ref().map_or(otherwise, value) as u32;
        upload(shape, &|_| bytes(rows.iter().map(of).collect()))
    };
    let real = |shape, otherwise: f32, value: &dyn Fn(&SamplingOptions) -> f32| {
        let of = |row: &Option<ChoosingRow<'_>>| {
            let value = row.map_or(otherwise, |row| value(&row.chooser.options));
            value.to_bits()
        };
        upload(shape, &|_| bytes(rows.iter().map(of).collect()))
    };
    let pairs = |shape, value: Value<'_, [u32; 2]>| {
        let of = |row: &Option<ChoosingRow<'_>>| row.as_ref().map_or([0, 0], value);
        upload(shape, &|_| bytes(rows.iter().flat_map(of).collect()))
    };
    // A list for each row, with `fill` after its end.
    let lists = |shape, fill: u32, value: Value<'_, Vec<u32>>| {
        upload(shape, &|shape: &ArrayShape| {
            let length = shape.dims[1..].iter().product::<i64>() as usize;
            let all = rows.iter().flat_map(|row| {
                let mut list = row.as_ref().map(value).unwrap_or_default();
                list.resize(length, fill);
                list
            });
            bytes(all.collect())
        })
    };
    let none = -1_i32 as u32;
    let temperature = |options: &SamplingOptions| match options.is_greedy() {
        true => 0.0,
        false => options.temperature,
    };
    let top_k = |row: &ChoosingRow<'_>| row.chooser.options.top_k.min(i32::MAX as usize) as i32;
    let bias_ids = |row: &ChoosingRow<'_>| row.chooser.biases.iter().map(|&(id, _)| id).collect();
    let biases = |row: &ChoosingRow<'_>| {
        row.chooser
            .biases
            .iter()
            .map(|(_, b)| b.to_bits())
            .collect()
    };
    Ok(ChoiceInputs {
        key: pairs(shapes.key, &|row| row.state.keys.state().0)?,
        counter: pairs(shapes.counter, &|row| {
            let counter = row.state.counter;
            [(counter >> 32) as u32, counter as u32]
        })?,
        temperature: real(shapes.temperature, 1.0, &temperature)?,
        top_k: whole(shapes.top_k, -1, &top_k)?,
        top_p: real(shapes.top_p, 1.0, &|options| options.top_p)?,
        min_p: real(shapes.min_p, 0.0, &|options| options.min_p)?,
        repetition: real(shapes.repetition, 1.0, &|options| {
            options.repetition_penalty
        })?,
        presence: real(shapes.presence, 0.0, &|options| options.presence_penalty)?,
        frequency: real(shapes.frequency, 0.0, &|options| options.frequency_penalty)?,
        bias_ids: lists(shapes.bias_ids, none, &bias_ids)?,
        bias: lists(shapes.bias, 0, &biases)?,
        not_first: lists(shapes.not_first, none, &|row| {
            row.chooser.options.begin_suppress_tokens.clone()
        })?,
        late_eos: whole(shapes.late_eos, -1, &|row| row.chooser.late_eos(row))?,
        forced_at: whole(shapes.forced_at, -1, &|row| row.chooser.forced(row).0)?,
        forced: whole(shapes.forced, -1, &|row| row.chooser.forced(row).1)?,
        words: lists(shapes.words, none, &|row| {
            row.chooser.word_table(choosing.choice.words)
        })?,
        allowed: upload(shapes.allowed, &|_| allowed(rows, vocabulary))?,
        history: upload(shapes.history, &|_| bytes(history(rows, choosing.length)))?,
        tokens: whole(shapes.tokens, -1, &|row| {
            (row.prompt.len() + row.state.token_ids.len()) as i32
        })?,
        generated: whole(shapes.generated, -1, &|row| {
            row.state.token_ids.len() as i32
        })?,
    })
}

/// Whether each row may have each token, [rows, vocabulary], a byte each.
fn allowed(rows: &[Option<ChoosingRow<'_>>], vocabulary: usize) -> Vec<u8> {
    let mut allowed = vec![1; rows.len() * vocabulary];
    for (line, row) in allowed.chunks_exact_mut(vocabulary).zip(rows) {
        let Some(bits) = row.as_ref().and_then(|row| row.allowed) else {
            continue;
        };
        for (id, allowed) in line.iter_mut().enumerate() {
            let word = bits.get(id / 32).copied().unwrap_or(0);
            *allowed = (word >> (id % 32)) as u8 & 1;
        }
    }
    allowed
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

    /// What was reported of a token, with at most `count` of the most likely ones.
    pub fn of(&self, row: usize, step: usize, token_id: u32, count: usize) -> TokenLogprob {
        let place = row * self.steps + step;
        let top = self.top.get(place * self.count..(place + 1) * self.count);
        let top = top.unwrap_or_default();
        TokenLogprob {
            token_id,
            logprob: self.logprobs.get(place).copied().unwrap_or(f32::NAN),
            top: top[..count.min(top.len())].to_vec(),
        }
    }
}
