//! What changes the choice of tokens: penalties, biases, forbidden sequences, stop texts, and the
//! defaults of generation_config.json as Flax takes them.

mod common;

use std::fs;

use common::{copy_of, data, edit_json, fails_naming, gemma_xla};
use gemma_xla::dtype::DType;
use gemma_xla::engine::{FinishReason, GenerateOptions, Generation, LoadOptions};
use gemma_xla::sampling::SamplingOptions;
use gemma_xla::sharding::Mesh;
use gemma_xla::source::{LoadedModel, Model};
use serde_json::{Value, json};

const SHE: [u32; 2] = [2, 638];
/// What follows it greedily, by Flax (tests/data/gemma-small/habits.json).
const GREEDY: [u32; 12] = [405, 415, 374, 387, 831, 383, 400, 643, 274, 384, 431, 440];

fn load(mesh: Mesh) -> LoadedModel {
    let mut options = LoadOptions::default();
    options.dtype = Some(DType::F32);
    options.mesh = mesh;
    let model = Model::open(data("gemma-small")).expect("the checkpoint opens");
    model.load(&options).expect("the checkpoint loads")
}

fn options(change: impl FnOnce(&mut SamplingOptions)) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    options.max_new_tokens = 12;
    change(&mut options.sampling);
    options
}

/// What follows "She", in a batch and in a session.
fn she(model: &LoadedModel, options: &GenerateOptions) -> Vec<u32> {
    let prompts = [SHE.to_vec(), SHE.to_vec()];
    let run = |batch_size| -> Vec<Generation> {
        let mut options = options.clone();
        options.batch_size = batch_size;
        let generated = model.engine().generate(&prompts, &options);
        generated.expect("it generates")
    };
    let (batch, session) = (run(2), run(1));
    assert_eq!(batch[0].token_ids, batch[1].token_ids);
    assert_eq!(batch[0].token_ids, session[0].token_ids);
    batch[0].token_ids.clone()
}

#[test]
fn biases_forbid_and_force_tokens() {
    let model = load(Mesh::SINGLE);
    let unchanged = options(|_| {});
    assert_eq!(she(&model, &unchanged), GREEDY);
    let forbidden = options(|o| o.logit_bias = [(405, f32::NEG_INFINITY)].into());
    assert!(!she(&model, &forbidden).contains(&405));
    let forced = options(|o| o.logit_bias = [(77, 1e4)].into());
    assert_eq!(she(&model, &forced), [77; 12]);
    let suppressed = options(|o| o.suppress_tokens = vec![405, 415]);
    // Flax's own tokens for the same keys of generation_config.json.
    let flax = [440, 497, 360, 484, 659, 1347, 383, 400, 643, 274, 384, 431];
    assert_eq!(she(&model, &suppressed), flax);
}

#[test]
fn forbidden_sequences_are_avoided_at_their_last_token() {
    let model = load(Mesh::SINGLE);
    let one = options(|o| o.bad_words = vec![vec![415]]);
    assert!(!she(&model, &one).contains(&415));
    let two = options(|o| o.bad_words = vec![vec![415, 374], vec![9]]);
    let found = she(&model, &two);
    assert_eq!(found[..2], GREEDY[..2], "the beginning may occur");
    assert!(found.windows(2).all(|pair| pair != [415, 374]));
    // A sequence may begin in the prompt.
    let across = options(|o| o.bad_words = vec![vec![638, 405], vec![1, 2, 3, 4, 5]]);
    assert_ne!(she(&model, &across)[0], 405);
}

#[test]
fn penalties_act_on_what_is_there() {
    let model = load(Mesh::SINGLE);
    let count = |ids: &[u32]| {
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        distinct.len()
    };
    // Nothing ends them sooner.
    let mut long = options(|o| o.min_new_tokens = 60);
    long.max_new_tokens = 60;
    let plain = she(&model, &long);
    for change in [
        (|o: &mut SamplingOptions| o.repetition_penalty = 3.0) as fn(&mut SamplingOptions),
        |o| o.presence_penalty = 2.0,
        |o| o.frequency_penalty = 2.0,
    ] {
        let mut penalised = options(change);
        (penalised.max_new_tokens, penalised.sampling.min_new_tokens) = (60, 60);
        let found = she(&model, &penalised);
        assert!(count(&found) > count(&plain), "{found:?} beside {plain:?}");
        assert_eq!(found[0], plain[0], "nothing is there at the first token");
    }
    let none = options(|o| o.repetition_penalty = 1.0);
    assert_eq!(she(&model, &none), GREEDY);
}

#[test]
fn an_end_comes_no_sooner_than_it_may() {
    let model = copy_of("gemma-small");
    for name in ["config.json", "generation_config.json"] {
        edit_json(&model.path().join(name), "eos_token_id", Some(json!(387)));
    }
    let mut load = LoadOptions::default();
    load.dtype = Some(DType::F32);
    let model = Model::open(model.path()).expect("it opens");
    let model = model.load(&load).expect("it loads");
    assert_eq!(she(&model, &options(|_| {})), GREEDY[..4]);
    let later = she(&model, &options(|o| o.min_new_tokens = 6));
    assert_eq!(later[..3], GREEDY[..3]);
    assert!(!later[..6].contains(&387) && later.len() > 6);
}

#[test]
fn all_of_it_gives_the_same_on_a_mesh() {
    let everything = options(|o| {
        o.repetition_penalty = 1.4;
        o.presence_penalty = 0.5;
        o.frequency_penalty = 0.3;
        o.logit_bias = [(405, -2.0), (1500, 1.0)].into();
        o.bad_words = vec![vec![374], vec![440, 497]];
        o.no_repeat_ngram_size = 2;
        o.min_new_tokens = 12;
        o.begin_suppress_tokens = vec![440];
        o.logprobs = Some(3);
    });
    let prompts = [SHE.to_vec(), vec![2], vec![2, 9, 10, 638]];
    let run = |mesh, batch_size| {
        let mut options = everything.clone();
        options.batch_size = batch_size;
        let generated = load(mesh).engine().generate(&prompts, &options);
        generated.expect("it generates")
    };
    let alone = run(Mesh::SINGLE, 4);
    assert_ne!(alone[0].token_ids, GREEDY);
    for (mesh, batch_size) in [
        (Mesh { data: 2, model: 2 }, 4),
        (Mesh { data: 2, model: 1 }, 2),
        (Mesh { data: 1, model: 2 }, 1),
    ] {
        for (found, alone) in run(mesh, batch_size).iter().zip(&alone) {
            assert_eq!(found.token_ids, alone.token_ids, "{mesh}");
            for (a, b) in found.logprobs.iter().zip(&alone.logprobs) {
                assert!((a.logprob - b.logprob).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn logprobs_are_flaxs_to_a_ten_thousandth() {
    let model = load(Mesh::SINGLE);
    let text = fs::read_to_string(data("gemma-small/score.json")).expect("read");
    let fixture: Value = serde_json::from_str(&text).expect("JSON");
    let cases = fixture["greedy"].as_array().expect("a list");
    let prompts: Vec<Vec<u32>> = cases
        .iter()
        .map(|case| serde_json::from_value(case["token_ids"].clone()).expect("ids"))
        .collect();
    for batch_size in [8, 2] {
        let mut options = options(|o| o.logprobs = Some(5));
        options.max_new_tokens = 16;
        options.batch_size = batch_size;
        let found = model
            .engine()
            .generate(&prompts, &options)
            .expect("it runs");
        for (found, case) in found.iter().zip(cases) {
            let steps = case["logprobs"].as_array().expect("a list");
            assert_eq!(found.logprobs.len(), steps.len());
            for (ours, flax) in found.logprobs.iter().zip(steps) {
                assert_eq!(json!(ours.token_id), flax["token_id"]);
                let near =
                    |a: f32, b: &Value| (f64::from(a) - b.as_f64().expect("f64")).abs() < 1e-4;
                assert!(near(ours.logprob, &flax["logprob"]), "{ours:?} {flax}");
                let top = flax["top"].as_array().expect("a list");
                assert_eq!(ours.top.len(), top.len());
                for (&(id, logprob), flax) in ours.top.iter().zip(top) {
                    assert_eq!(json!(id), flax[0]);
                    assert!(near(logprob, &flax[1]));
                }
                // Greedy: the chosen one is the first, with the same number.
                assert_eq!(ours.top[0], (ours.token_id, ours.logprob));
            }
        }
    }
}

#[test]
fn a_stop_text_ends_a_reply_across_tokens_and_is_cut_from_it() {
    let model = load(Mesh::SINGLE);
    let plain = model
        .generate(["She"], &options(|_| {}))
        .expect("it generates");
    let text = &plain[0].text;
    // From the middle of one word to the middle of the next.
    let space = text[3..].find(' ').expect("words") + 3;
    let stop = &text[space - 1..space + 2];
    let cut = text.find(stop).expect("it is there");
    for batch_size in [8, 1] {
        let mut stopped = options(|o| o.stop = vec!["not there".to_owned(), stop.to_owned()]);
        stopped.batch_size = batch_size;
        let found = model
            .generate(["She", "She"], &stopped)
            .expect("it generates");
        assert_eq!(found[1].text, text[..cut]);
        assert_eq!(found[1].finish_reason, FinishReason::Stop);
        assert!(found[1].token_ids.len() < plain[0].token_ids.len());
    }
}

#[test]
fn several_replies_to_a_prompt_differ_and_come_in_order() {
    let model = load(Mesh::SINGLE);
    let sampled = options(|o| {
        o.do_sample = true;
        o.num_return_sequences = 3;
        o.seed = 5;
    });
    let prompts = [SHE.to_vec(), vec![2, 9]];
    let run = |batch_size| {
        let mut options = sampled.clone();
        options.batch_size = batch_size;
        let generated = model.engine().generate(&prompts, &options);
        generated.expect("it generates")
    };
    for found in [run(6), run(2)] {
        let places: Vec<_> = found.iter().map(|row| (row.index, row.sequence)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
        assert_ne!(found[0].token_ids, found[1].token_ids);
        assert_ne!(found[1].token_ids, found[2].token_ids);
    }
    assert_eq!(run(2), run(4), "a reply does not depend on its neighbours");
}

/// Every change of generation_config.json that Flax was tried with, but those that it refuses.
#[test]
fn generation_config_is_obeyed_as_flax_obeys_it_or_named() {
    let text = fs::read_to_string(data("gemma-small/habits.json")).expect("read");
    let habits: Value = serde_json::from_str(&text).expect("JSON");
    let cases = habits["generation"].as_array().expect("a list");
    let mut tried = 0;
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        // Transformers' 20 tokens of prompt and reply are 20 new tokens here.
        if case.get("error").is_some() || name == "no lengths" {
            continue;
        }
        let copy = copy_of("gemma-small");
        let file = copy.path().join("generation_config.json");
        match case["changes"].as_object() {
            None => fs::remove_file(&file).expect("removed"),
            Some(changes) => {
                for (key, value) in changes {
                    let value = (*value != json!("<absent>")).then(|| value.clone());
                    edit_json(&file, key, value);
                }
            }
        }
        let model = Model::open(copy.path()).expect(name);
        let ignored: Vec<String> = model
            .generation()
            .ignored
            .iter()
            .map(|ignored| ignored.key.clone())
            .collect();
        let mut options = GenerateOptions::from(model.generation());
        let arguments = &case["arguments"];
        match &arguments["max_new_tokens"] {
            Value::Null => options.max_new_tokens = 12,
            Value::Number(count) => {
                options.max_new_tokens = count.as_u64().expect("small") as usize
            }
            _ => {}
        }
        if arguments["do_sample"] == json!(false) {
            options.sampling.do_sample = false;
        }
        let mut load = LoadOptions::default();
        load.dtype = Some(DType::F32);
        let model = model.load(&load).expect(name);
        let prompt: Vec<u32> = serde_json::from_value(
            habits["prompts"][case["prompt"].as_str().expect("a name")].clone(),
        )
        .expect("ids");
        let found = model.engine().generate(&[prompt], &options).expect(name);
        let flax: Vec<u32> = serde_json::from_value(case["new_tokens"][0].clone()).expect("ids");
        let found = found[0].token_ids.clone();
        match name {
            // What Flax does and we do not is named.
            "num_beams" | "forced_decoder_ids" => {
                assert_eq!(ignored, [name]);
                assert_eq!(found, GREEDY, "{name}");
            }
            _ => {
                // Flax goes on with padding.
                assert_eq!(found, flax[..found.len()], "{name}");
                let padding = flax.get(found.len()).copied();
                let rest = flax[found.len()..].iter().copied();
                assert!(rest.map(Some).all(|id| id == padding), "{name}");
            }
        }
        // What Flax ignores is named too.
        for key in [
            "repetition_penalty",
            "min_p",
            "typical_p",
            "bad_words_ids",
            "sequence_bias",
            "penalty_alpha",
            "min_new_tokens",
        ] {
            let asked = case["changes"].get(key).is_some();
            assert_eq!(
                ignored.iter().any(|ignored| ignored == key),
                asked,
                "{name}"
            );
        }
        tried += 1;
    }
    assert!(tried > 35, "{tried}");
}

fn generate(arguments: &[&str]) -> assert_cmd::Command {
    let mut command = gemma_xla();
    command
        .args([
            "generate",
            "She",
            "--dtype",
            "f32",
            "--max-new-tokens",
            "12",
        ])
        .args(arguments)
        .arg("--model")
        .arg(data("gemma-small"));
    command
}

fn lines(command: &mut assert_cmd::Command) -> Vec<Value> {
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn the_command_line_has_all_of_it() {
    let found = lines(&mut generate(&[
        "--format",
        "jsonl",
        "--logit-bias",
        "405=-inf",
        "--logit-bias",
        "415=-3",
        "--bad-words",
        "was",
        "--repetition-penalty",
        "1.2",
        "--presence-penalty",
        "0.5",
        "--frequency-penalty",
        "-0.5",
        "--min-new-tokens",
        "12",
        "--logprobs",
        "2",
    ]));
    let ids: Vec<u32> = serde_json::from_value(found[0]["token_ids"].clone()).expect("ids");
    assert_eq!(ids.len(), 12);
    assert!(!ids.contains(&405));
    assert!(!found[0]["text"].as_str().expect("a text").contains("was"));
    let logprobs = found[0]["logprobs"].as_array().expect("a list");
    assert_eq!(logprobs.len(), 12);
    assert_eq!(logprobs[0]["token_id"], json!(ids[0]));
    assert_eq!(logprobs[0]["top"].as_array().expect("a list").len(), 2);

    let sampled = lines(&mut generate(&[
        "--format",
        "jsonl",
        "--do-sample",
        "--num-return-sequences",
        "2",
        "--seed",
        "3",
    ]));
    assert_eq!(sampled.len(), 2);
    assert_eq!([&sampled[0]["sequence"], &sampled[1]["sequence"]], [0, 1]);
    assert_ne!(sampled[0]["token_ids"], sampled[1]["token_ids"]);

    let plain = lines(&mut generate(&["--format", "jsonl"]));
    assert_eq!(plain[0].get("sequence"), None);
    let text = plain[0]["text"].as_str().expect("a text");
    let stop = &text[8..11];
    let stopped = lines(&mut generate(&["--format", "jsonl", "--stop", stop]));
    assert_eq!(stopped[0]["finish_reason"], "stop");
    let cut = text.find(stop).expect("it is there");
    assert_eq!(stopped[0]["text"], text[..cut]);
    // In the text format the stop text is cut, whether or not it is streamed.
    for stream in [&[][..], &["--stream"]] {
        let output = generate(&[&["--stop", stop], stream].concat()).output();
        let stdout = output.expect("the binary runs").stdout;
        let expected = format!("She{}\n", &text[..cut]);
        assert_eq!(String::from_utf8_lossy(&stdout), expected);
    }
}

#[test]
fn streamed_json_has_a_line_for_each_piece_and_one_for_the_whole() {
    let found = lines(&mut generate(&["--format", "jsonl", "--stream"]));
    let (whole, pieces) = found.split_last().expect("lines");
    let mut ids = Vec::new();
    let mut text = String::new();
    for piece in pieces {
        assert_eq!(piece["index"], 0);
        let new: Vec<Value> =
            serde_json::from_value(piece["delta"]["token_ids"].clone()).expect("ids");
        ids.extend(new);
        text.push_str(piece["delta"]["text"].as_str().expect("a text"));
    }
    assert_eq!(pieces.len(), 12, "a piece for each token");
    assert_eq!(whole["token_ids"], json!(ids));
    assert!(whole["text"].as_str().expect("a text").starts_with(&text));
    assert_eq!(whole.get("delta"), None);
}

#[test]
fn bad_options_are_one_line() {
    for (arguments, part) in [
        (
            &["--do-sample", "--top-p", "0"][..],
            "--top-p: 0 is not above 0",
        ),
        (
            &["--do-sample", "--temperature", "-1"],
            "--temperature: -1 is not",
        ),
        (&["--stop", ""], "--stop: text 0 is empty"),
        (
            &["--seed", "18446744073709551616"],
            "--seed: \"18446744073709551616\" does not fit in 64 bits",
        ),
        (
            &["--logit-bias", "x=1"],
            "--logit-bias \"x=1\": expected ID=B",
        ),
        (&["--logit-bias", "99999=1"], "--logit-bias: token id 99999"),
        (
            &["--bad-words", " "],
            "--bad-words \" \": the text is empty",
        ),
        (&["--min-new-tokens", "13"], "--min-new-tokens: 13 is above"),
        (
            &["--format", "jsonl", "--logprobs", "21"],
            "--logprobs: 21 is above 20",
        ),
        (&["--logprobs", "2"], "--logprobs needs --format jsonl"),
        (
            &["--num-return-sequences", "2"],
            "--num-return-sequences: 2 replies",
        ),
        (
            &["--shard", "2/2", "--format", "jsonl"],
            "--shard \"2/2\": expected I/N",
        ),
    ] {
        fails_naming(&mut generate(arguments), &[part]);
    }
}

#[test]
fn keys_that_are_not_obeyed_are_named_in_a_warning() {
    let model = copy_of("gemma-small");
    let file = model.path().join("generation_config.json");
    edit_json(&file, "_from_model_config", None);
    edit_json(&file, "num_beams", Some(json!(4)));
    edit_json(&file, "repetition_penalty", Some(json!(1.8)));
    edit_json(&file, "forced_decoder_ids", Some(json!([[1, 70]])));
    let run = |arguments: &[&str]| {
        let mut command = gemma_xla();
        command.args(["generate", "She", "--max-new-tokens", "2", "--model"]);
        command.arg(model.path()).args(arguments);
        let output = command.output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).expect("text")
    };
    let stderr = run(&[]);
    for key in ["num_beams 4", "forced_decoder_ids [[1,70]]"] {
        let warning = format!("{key} is not obeyed");
        assert_eq!(stderr.matches(&warning).count(), 1, "{key}: {stderr}");
    }
    assert!(
        stderr.contains("repetition_penalty 1.8 is not obeyed; --repetition-penalty asks"),
        "{stderr}"
    );
    let stderr = run(&["--repetition-penalty", "1.8"]);
    assert!(!stderr.contains("repetition_penalty"), "{stderr}");
}
