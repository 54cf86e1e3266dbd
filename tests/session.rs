//! A session: rows with lengths of their own, in any order of arrival, generate what each prompt
//! alone does in Flax.

mod common;

use std::collections::{BTreeMap, VecDeque};

use common::data;
use gemma_xla::dtype::DType;
use gemma_xla::engine::{
    Engine, Error, FinishReason, GenerateOptions, LoadOptions, RowId, Session, SessionOptions,
};
use gemma_xla::parity::Reference;
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
                tokens[index].push(admitted.token);
                match admitted.finished {
                    None => drop(running.insert(admitted.row, index)),
                    Some(_) => session.free(admitted.row),
                }
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
    let admitted = session
        .admit(&short.0, short.1)
        .expect("it runs")
        .expect("a free row");
    let mut tokens = vec![admitted.token];
    let mut finished = admitted.finished;
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
