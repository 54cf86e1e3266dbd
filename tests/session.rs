//! A session: rows with lengths of their own, in any order of arrival, generate what each prompt
//! alone does in Flax.

mod common;

use std::collections::{BTreeMap, VecDeque};

use common::data;
use gemma_xla::dtype::DType;
use gemma_xla::engine::{
    Admission, Engine, Error, FinishReason, GenerateOptions, LoadOptions, RowId, ScoreRequest,
    Session, SessionOptions, TokenLogprob,
};
use gemma_xla::parity::Reference;
use gemma_xla::sampling::{Key, SamplingOptions};
use gemma_xla::sharding::Mesh;
use gemma_xla::source::{LoadedModel, Model};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn load(name: &str, mesh: Mesh) -> LoadedModel {
    let mut options = LoadOptions::default();
    options.dtype = Some(DType::F32);
    options.mesh = mesh;
    let model = Model::open(data(name)).expect("the checkpoint opens");
    model.load(&options).expect("the checkpoint loads")
}

fn options(rows: usize, max_length: usize, prefill_chunk: usize) -> SessionOptions {
    let mut options = SessionOptions::default();
    options.rows = rows;
    options.max_length = max_length;
    options.prefill_chunk = prefill_chunk;
    options
}

/// A prompt and how many tokens are wanted after it.
type Wanted = (Vec<u32>, usize);

/// Runs the prompts through a session, as rows become free; `steps` says how many steps each call
/// runs. What each prompt became, in its order.
fn through(
    engine: &Engine,
    size: &SessionOptions,
    prompts: &[Wanted],
    steps: &[usize],
) -> Vec<Vec<u32>> {
    let mut session = Session::new(engine, size).expect("a session");
    let rows = session.rows();
    let mut waiting: VecDeque<usize> = (0..prompts.len()).collect();
    let mut running: BTreeMap<RowId, usize> = BTreeMap::new();
    let mut tokens = vec![Vec::new(); prompts.len()];
    let mut steps = steps.iter().copied().cycle();
    while !waiting.is_empty() || !running.is_empty() {
        // At most one prompt between two calls, so that rows begin at different times.
        if let Some(&index) = waiting.front() {
            let (prompt, new_tokens) = &prompts[index];
            if let Some(admitted) = session.admit(prompt, *new_tokens).expect("it is admitted") {
                waiting.pop_front();
                running.insert(admitted.row, index);
            }
        }
        assert_eq!(session.free_rows(), rows - running.len());
        let wanted = steps.next().expect("the numbers repeat");
        let stepped = session.step(wanted, !waiting.is_empty()).expect("it steps");
        assert!(stepped.steps <= wanted);
        for (row, new, finished) in stepped.rows {
            let index = running[&row];
            tokens[index].extend(new);
            if finished.is_some() {
                running.remove(&row);
                session.free(row);
            }
        }
    }
    tokens
}

/// What each prompt alone becomes in a batch of one, which equals Flax's tokens (tests/parity.rs).
fn alone(engine: &Engine, (prompt, new_tokens): &Wanted) -> Vec<u32> {
    let mut options = GenerateOptions::default();
    options.batch_size = 1;
    options.max_new_tokens = *new_tokens;
    let mut rows = engine
        .generate(std::slice::from_ref(prompt), &options)
        .expect("it generates");
    rows.remove(0).token_ids
}

/// Prompts of 1 to 40 tokens, so of one to three parts of 16, and up to 20 tokens after each.
fn wanted(vocabulary: u32) -> impl Strategy<Value = Vec<Wanted>> {
    let prompt = prop::collection::vec(3..vocabulary, 1..40);
    prop::collection::vec((prompt, 1_usize..20), 1..9)
}

fn holds(name: &str, mesh: Mesh, rows: usize, cases: u32) {
    let model = load(name, mesh);
    let engine = model.engine();
    let vocabulary = engine.spec().config.vocab_size() as u32;
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 20,
        ..Config::with_cases(cases)
    };
    let steps = prop::collection::vec(1_usize..12, 1..5);
    TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
    .run(&(wanted(vocabulary), steps), |(prompts, steps)| {
        let found = through(engine, &options(rows, 64, 16), &prompts, &steps);
        for (found, prompt) in found.iter().zip(&prompts) {
            prop_assert_eq!(found, &alone(engine, prompt));
        }
        Ok(())
    })
    .expect("each row is as its prompt alone");
}

#[test]
fn rows_of_any_length_and_order_equal_their_prompts_alone() {
    holds("random-gqa", Mesh::SINGLE, 3, 8);
    holds("gemma-small", Mesh::SINGLE, 4, 4);
}

#[test]
fn the_same_on_a_mesh() {
    holds("random-mha", Mesh { data: 2, model: 2 }, 4, 5);
}

#[test]
fn the_prompts_of_flax_become_what_flax_made_of_them() {
    for name in ["gemma-small", "random-mqa", "random-mha", "random-untied"] {
        let path = data(name).join("reference-float32.npz");
        let reference = Reference::read(&path).expect("the reference can be read");
        let (total, sequences) = reference.sequences.as_ref().expect("sequences");
        let new_tokens = total - reference.length;
        let model = load(name, Mesh::SINGLE);
        let prompts: Vec<Wanted> = (0..reference.batch)
            .map(|row| (reference.prompt(row), new_tokens))
            .collect();
        let found = through(
            model.engine(),
            &options(2, *total, 16),
            &prompts,
            &[3, 1, 7],
        );
        let pad = model.engine().spec().config.padding_id();
        for (row, mut found) in found.into_iter().enumerate() {
            found.resize(new_tokens, pad);
            let found: Vec<i32> = found.into_iter().map(|id| id as i32).collect();
            assert_eq!(
                found,
                sequences[row * total + reference.length..][..new_tokens],
                "{name}, row {row}"
            );
        }
    }
}

#[test]
fn a_row_that_is_freed_before_its_end_leaves_nothing_behind() {
    let model = load("random-gqa", Mesh::SINGLE);
    let engine = model.engine();
    let mut session = Session::new(engine, &options(1, 90, 16)).expect("a session");
    let long: Vec<u32> = (3..60).collect();
    let admitted = session
        .admit(&long, 30)
        .expect("it runs")
        .expect("a free row");
    session.step(5, false).expect("it steps");
    assert_eq!(
        session.admit(&[5, 6], 3).expect("it answers"),
        None,
        "no row is free"
    );
    session.free(admitted.row);

    let short = (vec![5, 9, 4], 12);
    session
        .admit(&short.0, short.1)
        .expect("it runs")
        .expect("a free row");
    let mut tokens: Vec<u32> = Vec::new();
    let mut finished = None;
    while finished.is_none() {
        let stepped = session.step(32, false).expect("it steps");
        let (_, new, end) = &stepped.rows[0];
        tokens.extend(new);
        finished = *end;
    }
    assert_eq!(tokens, alone(engine, &short));
    assert!(matches!(
        finished,
        Some(FinishReason::Length | FinishReason::Eos)
    ));
    assert_eq!(
        session.step(4, false).expect("it answers").steps,
        0,
        "all rows have ended"
    );
}

#[test]
fn all_programs_are_compiled_before_the_first_prompt() {
    let model = load("random-gqa", Mesh::SINGLE);
    let engine = model.engine();
    let mut session = Session::new(engine, &options(2, 80, 32)).expect("a session");
    session.compile().expect("they compile");
    let before = engine.times();
    session
        .admit(&(3..50).collect::<Vec<_>>(), 9)
        .expect("it is admitted");
    session.admit(&[4], 5).expect("it is admitted");
    session.step(8, true).expect("it steps");
    let after = engine.times();
    assert_eq!(
        (after.compile, after.cached),
        (before.compile, before.cached)
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = load("random-gqa", Mesh::SINGLE);
    let engine = model.engine();
    for (rows, max_length, chunk) in [(0, 50, 16), (1, 0, 16), (1, 50, 0)] {
        let found = Session::new(engine, &options(rows, max_length, chunk));
        assert!(matches!(found, Err(Error::Argument { .. })));
    }
    let mut session = Session::new(engine, &options(1, 20, 16)).expect("a session");
    assert!(matches!(
        session.admit(&[], 1),
        Err(Error::EmptyPrompt { .. })
    ));
    let long = vec![5; 20];
    assert!(matches!(
        session.admit(&long, 1),
        Err(Error::PromptTooLong { limit: 20, .. })
    ));
    assert!(matches!(
        session.admit(&[1 << 20], 1),
        Err(Error::TokenOutOfRange { .. })
    ));
    assert_eq!(session.free_rows(), 1);
}

/// What a row of a session became.
#[derive(Debug, Default, PartialEq)]
struct Reply {
    token_ids: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
    scores: Vec<TokenLogprob>,
}

/// Runs all admissions together, each with options of its own; new ones come between the steps.
fn together(session: &mut Session<'_>, admissions: &[Admission<'_>]) -> Vec<Reply> {
    let mut waiting: VecDeque<usize> = (0..admissions.len()).collect();
    let mut running: BTreeMap<RowId, usize> = BTreeMap::new();
    let mut replies: Vec<Reply> = admissions.iter().map(|_| Reply::default()).collect();
    while !waiting.is_empty() || !running.is_empty() {
        if let Some(&index) = waiting.front()
            && let Some(admitted) = session.begin(&admissions[index]).expect("it begins")
        {
            waiting.pop_front();
            running.insert(admitted.row, index);
        }
        if let Some(prefilled) = session.prefill().expect("it runs") {
            for (row, scores) in prefilled.scores {
                replies[running[&row]].scores.extend(scores);
            }
        }
        let stepped = session.step(2, true).expect("it steps");
        for ((row, new, finished), logprobs) in stepped.rows.into_iter().zip(stepped.logprobs) {
            let reply = &mut replies[running[&row]];
            reply.token_ids.extend(new);
            reply.logprobs.extend(logprobs);
            if finished.is_some() {
                running.remove(&row);
                session.free(row);
            }
        }
    }
    replies
}

fn sampled(change: impl FnOnce(&mut SamplingOptions)) -> SamplingOptions {
    let mut options = SamplingOptions::default();
    options.do_sample = true;
    change(&mut options);
    options
}

/// Rows with sampling options of their own, of each of a session's programs.
fn settings() -> Vec<SamplingOptions> {
    vec![
        SamplingOptions::default(),
        sampled(|_| {}),
        sampled(|o| (o.temperature, o.top_k) = (0.7, 5)),
        sampled(|o| (o.top_p, o.top_k) = (0.8, 0)),
        sampled(|o| (o.min_p, o.top_k, o.temperature) = (0.05, 0, 1.3)),
        sampled(|o| (o.repetition_penalty, o.presence_penalty) = (1.3, 0.5)),
        sampled(|o| o.logit_bias = [(7, 4.0), (9, f32::NEG_INFINITY)].into()),
        {
            let mut options = SamplingOptions::default();
            options.logprobs = Some(3);
            options.frequency_penalty = 1.5;
            options.min_new_tokens = 4;
            options
        },
    ]
}

#[test]
fn a_row_with_options_of_its_own_has_the_tokens_of_its_prompt_alone() {
    for (name, mesh) in [
        ("gemma-small", Mesh::SINGLE),
        ("random-mha", Mesh { data: 2, model: 2 }),
    ] {
        let model = load(name, mesh);
        let engine = model.engine();
        let settings = settings();
        let prompts: Vec<Vec<u32>> = (0..settings.len() as u32)
            .map(|at| {
                (0..3 + 5 * at)
                    .map(|i| 3 + (i * 13 + at * 7) % 90)
                    .collect()
            })
            .collect();
        let mut size = options(3, 64, 16);
        size.own_sampling = true;
        let mut session = Session::new(engine, &size).expect("a session");
        session.compile().expect("it compiles");
        let compiled = engine.times();
        let admissions: Vec<Admission<'_>> = prompts
            .iter()
            .zip(&settings)
            .enumerate()
            .map(|(at, (prompt, sampling))| {
                let key = Key::from_seed(at as u64);
                let mut admission = Admission::new(prompt, 9, key);
                admission.sampling = Some(sampling);
                admission
            })
            .collect();
        let replies = together(&mut session, &admissions);
        let after = engine.times();
        let times = (after.compile, after.cached);
        assert_eq!(
            times,
            (compiled.compile, compiled.cached),
            "nothing is compiled"
        );
        for (at, reply) in replies.iter().enumerate() {
            let mut alone = GenerateOptions::default();
            alone.batch_size = 1;
            alone.max_new_tokens = 9;
            alone.sampling = settings[at].clone();
            alone.sampling.seed = at as u64;
            alone.sampling.logprobs = None;
            let prompt = &prompts[at..=at];
            let found = engine.generate(prompt, &alone).expect("it runs");
            assert_eq!(reply.token_ids, found[0].token_ids, "{name}, prompt {at}");
            alone.sampling.logprobs = settings[at].logprobs;
            let told = engine.generate(prompt, &alone).expect("it runs");
            assert_eq!(reply.logprobs.len(), told[0].logprobs.len());
            for (one, other) in reply.logprobs.iter().zip(&told[0].logprobs) {
                // The norms of gemma-small are in bfloat16. A batch that reports probabilities
                // rounds what it adds to them, as a plain call of the model does.
                let tolerance = if name == "gemma-small" { 0.02 } else { 1e-4 };
                assert!(
                    (one.logprob - other.logprob).abs() < tolerance,
                    "{one:?} {other:?}"
                );
                assert_eq!(one.top.len(), 3);
            }
        }
    }
}

#[test]
fn a_scored_prompt_has_the_probabilities_that_score_gives() {
    for (name, mesh) in [
        ("gemma-small", Mesh::SINGLE),
        ("random-mha", Mesh { data: 2, model: 2 }),
    ] {
        let model = load(name, mesh);
        let engine = model.engine();
        let mut size = options(2, 64, 16);
        (size.own_sampling, size.reuse_prefixes) = (true, true);
        let mut session = Session::new(engine, &size).expect("a session");
        let prompts: Vec<Vec<u32>> = [1, 2, 17, 40]
            .map(|length| (0..length).map(|i| 3 + i * 11 % 70).collect())
            .to_vec();
        let admissions: Vec<Admission<'_>> = prompts
            .iter()
            .map(|prompt| {
                let mut admission = Admission::new(prompt, 1, Key::from_seed(0));
                admission.score = Some(2);
                admission
            })
            .collect();
        for (prompt, reply) in prompts.iter().zip(together(&mut session, &admissions)) {
            assert_eq!(reply.token_ids.len(), 1);
            assert_eq!(reply.scores.len(), prompt.len() - 1);
            if prompt.len() == 1 {
                continue;
            }
            let request = ScoreRequest {
                context: prompt[..1].to_vec(),
                continuation: prompt[1..].to_vec(),
            };
            let scores = engine.score(&[request], 1).expect("it runs");
            for (place, found) in reply.scores.iter().enumerate() {
                let expected = scores[0].token_logprobs[place];
                assert_eq!(found.token_id, prompt[place + 1]);
                assert!(
                    (found.logprob - expected).abs() < 1e-4,
                    "{name}: {found:?} {expected}"
                );
                assert_eq!(found.top.len(), 2);
                assert!(found.top[0].1 >= found.top[1].1 && found.top[0].1 >= found.logprob);
            }
            let greedy = reply
                .scores
                .iter()
                .all(|token| token.top[0].0 == token.token_id);
            assert_eq!(greedy, scores[0].is_greedy);
        }
    }
}

#[test]
fn a_row_chooses_among_the_tokens_that_it_is_allowed() {
    for (name, mesh) in [
        ("gemma-small", Mesh::SINGLE),
        ("random-mha", Mesh { data: 1, model: 2 }),
    ] {
        let model = load(name, mesh);
        let engine = model.engine();
        let vocabulary = engine.spec().config.vocab_size();
        let mut size = options(2, 64, 16);
        size.own_sampling = true;
        let mut session = Session::new(engine, &size).expect("a session");
        let free = session
            .admit(&[5, 9, 4], 6)
            .expect("it runs")
            .expect("a row");
        let bound = session
            .admit(&[5, 9, 4], 6)
            .expect("it runs")
            .expect("a row");
        let mut found: BTreeMap<RowId, Vec<u32>> = BTreeMap::new();
        for wanted in [[30, 31], [vocabulary as u32 - 1, 40]]
            .iter()
            .cycle()
            .take(6)
        {
            let mut bits = vec![0_u32; vocabulary.div_ceil(32)];
            for id in wanted {
                bits[*id as usize / 32] |= 1 << (id % 32);
            }
            session.allow(bound.row, Some(bits)).expect("it is allowed");
            let stepped = session.step(8, false).expect("it steps");
            assert!(stepped.steps <= 1);
            for (row, new, _) in stepped.rows {
                if row == bound.row {
                    assert!(wanted.contains(&new[0]), "{new:?} of {wanted:?}");
                }
                found.entry(row).or_default().extend(new);
            }
        }
        assert_eq!(found[&bound.row].len(), 6);
        assert_eq!(found[&free.row], alone(engine, &(vec![5, 9, 4], 6)));
    }
}

#[test]
fn a_prompt_takes_what_a_freed_row_has_of_it() {
    let model = load("gemma-small", Mesh::SINGLE);
    let engine = model.engine();
    let mut size = options(3, 64, 16);
    size.reuse_prefixes = true;
    let mut session = Session::new(engine, &size).expect("a session");
    let first: Vec<u32> = (0..20).map(|i| 3 + i * 7 % 40).collect();
    let second: Vec<u32> = (0..20).map(|i| 4 + i * 5 % 40).collect();
    let rows = [&first, &second].map(|prompt| {
        let admitted = session.admit(prompt, 4).expect("it runs").expect("a row");
        assert_eq!(admitted.reused, 0);
        admitted.row
    });
    while session.step(8, false).expect("it steps").steps > 0 {}
    rows.into_iter().for_each(|row| session.free(row));
    let longer = [&second[..], &[8, 9, 10]].concat();
    let forked = [&first[..12], &[8, 9, 10]].concat();
    for (prompt, row, reused) in [(longer, rows[1], 20), (forked, rows[0], 12)] {
        let admitted = session.admit(&prompt, 7).expect("it runs").expect("a row");
        assert_eq!((admitted.row, admitted.reused), (row, reused));
        let mut tokens: Vec<u32> = Vec::new();
        while tokens.len() < 7 {
            let stepped = session.step(3, false).expect("it steps");
            let of_row = stepped
                .rows
                .into_iter()
                .find(|(row, ..)| *row == admitted.row);
            let (_, new, finished) = of_row.expect("it runs");
            tokens.extend(new);
            if finished.is_some() {
                break;
            }
        }
        assert_eq!(tokens, alone(engine, &(prompt, 7)));
    }
}

#[test]
fn options_that_a_session_was_not_made_for_are_refused() {
    let model = load("gemma-small", Mesh::SINGLE);
    let engine = model.engine();
    let mut size = options(1, 40, 16);
    let refused = |session: &mut Session<'_>, sampling: &SamplingOptions| {
        let mut admission = Admission::new(&[5, 9], 3, Key::from_seed(0));
        admission.sampling = Some(sampling);
        let error = session.begin(&admission).expect_err("it is refused");
        assert_eq!(session.free_rows(), 1);
        error.to_string()
    };
    let mut session = Session::new(engine, &size).expect("a session");
    let error = refused(&mut session, &SamplingOptions::default());
    assert!(error.contains("own_sampling"), "{error}");
    let taken = session.admit(&[5], 1).expect("it runs").expect("a row");
    assert!(session.allow(taken.row, None).is_err());
    size.own_sampling = true;
    let mut session = Session::new(engine, &size).expect("a session");
    for (sampling, name) in [
        (sampled(|o| o.top_k = 257), "top_k"),
        (sampled(|o| o.top_p = 0.0), "top_p"),
        (sampled(|o| o.no_repeat_ngram_size = 3), "sampling"),
    ] {
        let error = refused(&mut session, &sampling);
        assert!(error.contains(name), "{error}");
    }
}
