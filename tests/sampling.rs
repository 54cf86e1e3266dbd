//! Sampled tokens are those that Flax's `generate` draws.

mod common;

use std::fs;

use common::{data, gemma_xla};
use gemma_xla::dtype::DType;
use gemma_xla::engine::{Engine, GenerateOptions, LoadOptions};
use gemma_xla::sampling::{Key, SamplingOptions};
use gemma_xla::sharding::Mesh;
use gemma_xla::source::{LoadedModel, Model};
use serde::Deserialize;
use serde_json::{Value, json};

/// What Flax drew (tools/flax/make_sampling.py).
#[derive(Deserialize)]
struct Fixture {
    metadata: Metadata,
    prompts: Vec<Prompt>,
    settings: std::collections::BTreeMap<String, Setting>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Metadata {
    max_new_tokens: usize,
}

#[derive(Deserialize)]
struct Prompt {
    token_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Setting {
    temperature: f32,
    top_k: usize,
    top_p: f32,
}

#[derive(Deserialize)]
struct Run {
    setting: String,
    seed: u64,
    batch: Vec<Vec<u32>>,
    alone: Vec<Vec<u32>>,
    folded: Vec<Vec<u32>>,
}

/// What Flax's own bfloat16 runs of gemma-small differ by in a logit, at most, when the batch has
/// another shape or the call is compiled: `batch_noise.max_abs` of reference-bfloat16.npz. Each of
/// two scores may be off by it.
const NEAR_TIE: f64 = 2.0 * 0.125;

fn fixture(dtype: &str) -> Fixture {
    let file = data(&format!("gemma-small/sampling-{dtype}.json"));
    let text = fs::read_to_string(file).expect("the fixture can be read");
    serde_json::from_str(&text).expect("the fixture is as it is made")
}

impl Fixture {
    fn prompts(&self) -> Vec<Vec<u32>> {
        self.prompts.iter().map(|p| p.token_ids.clone()).collect()
    }

    fn options(&self, run: &Run, batch_size: usize) -> GenerateOptions {
        let setting = &self.settings[&run.setting];
        let mut sampling = SamplingOptions::default();
        sampling.do_sample = true;
        sampling.temperature = setting.temperature;
        sampling.top_k = setting.top_k;
        sampling.top_p = setting.top_p;
        sampling.seed = run.seed;
        let mut options = GenerateOptions::default();
        options.max_new_tokens = self.metadata.max_new_tokens;
        options.batch_size = batch_size;
        options.sampling = sampling;
        options
    }
}

fn load(dtype: DType, mesh: Mesh) -> LoadedModel {
    let mut options = LoadOptions::default();
    options.dtype = Some(dtype);
    options.mesh = mesh;
    let model = Model::open(data("gemma-small")).expect("the checkpoint opens");
    model.load(&options).expect("the checkpoint loads")
}

fn tokens(engine: &Engine, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Vec<u32>> {
    let rows = engine.generate(prompts, options).expect("it generates");
    rows.into_iter().map(|row| row.token_ids).collect()
}

/// Checks every run of the fixture: the batch, each prompt alone, and the prompts in turn.
fn holds(mesh: Mesh, of_setting: usize) {
    let model = load(DType::F32, mesh);
    let engine = model.engine();
    let fixture = fixture("float32");
    let prompts = fixture.prompts();
    assert_eq!((fixture.runs.len(), prompts.len()), (20, 3));
    for (number, run) in fixture.runs.iter().enumerate() {
        if number % 5 >= of_setting {
            continue;
        }
        let named = format!("{mesh}, {}, seed {}", run.setting, run.seed);
        let options = fixture.options(run, 3);
        assert_eq!(tokens(engine, &prompts, &options), run.batch, "{named}");
        for (prompt, alone) in prompts.iter().zip(&run.alone) {
            let prompt = std::slice::from_ref(prompt);
            let found = tokens(engine, prompt, &fixture.options(run, 1));
            assert_eq!(&found[0], alone, "{named}, alone");
        }
        // With fewer rows than prompts, each prompt has a key of its own.
        for rows in [1, 2] {
            let found = tokens(engine, &prompts, &fixture.options(run, rows));
            assert_eq!(found, run.folded, "{named}, {rows} rows");
        }
    }
}

#[test]
fn in_float32_tokens_equal_flaxs_in_a_batch_alone_and_in_turn() {
    holds(Mesh::SINGLE, 5);
}

#[test]
fn tokens_are_the_same_on_a_mesh_of_either_axis() {
    holds(Mesh { data: 2, model: 1 }, 1);
    holds(Mesh { data: 1, model: 2 }, 5);
}

#[test]
fn tokens_are_the_same_on_a_mesh_of_both_axes() {
    holds(Mesh { data: 2, model: 2 }, 1);
}

#[test]
fn the_command_line_draws_the_same_tokens() {
    let fixture = fixture("float32");
    let input: String = fixture
        .prompts()
        .iter()
        .map(|ids| json!({ "token_ids": ids }).to_string() + "\n")
        .collect();
    for run in fixture.runs.iter().step_by(5) {
        let setting = &fixture.settings[&run.setting];
        // Without its kernels, the CPU computes what any other device does.
        for (batch_size, kernels, expected) in [
            ("3", None, &run.batch),
            ("2", None, &run.folded),
            ("3", Some("off"), &run.batch),
        ] {
            let mut command = gemma_xla();
            if let Some(kernels) = kernels {
                command.env("GEMMA_XLA_CPU_KERNEL", kernels);
            }
            command
                .args(["generate", "--dtype", "f32", "--input", "-", "--do-sample"])
                .args(["--temperature", &setting.temperature.to_string()])
                .args(["--top-k", &setting.top_k.to_string()])
                .args(["--top-p", &setting.top_p.to_string()])
                .args(["--seed", &run.seed.to_string()])
                .args(["--batch-size", batch_size, "--model"])
                .arg(data("gemma-small"))
                .write_stdin(input.clone());
            let output = command.output().expect("the binary runs");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{stderr}");
            let text = String::from_utf8(output.stdout).expect("text");
            let found: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["token_ids"].clone())
                .collect();
            assert_eq!(json!(found), json!(expected), "{}", run.setting);
        }
    }
}

/// The noise that is added to the logit of a token: JAX's `gumbel`, of bfloat16 logits where no
/// top-k is taken, else of float32 ones.
fn gumbel(bits: u32, is_bfloat16: bool) -> f64 {
    let uniform = match is_bfloat16 {
        true => f64::from((bits << 24) >> 25) / 128.0,
        false => f64::from(bits >> 9) / f64::from(1 << 23),
    };
    -(-uniform.max(f64::from(f32::MIN_POSITIVE)).ln()).ln()
}

/// Where a row parts from Flax's, and by how much the scores of the two tokens differ there: logit
/// over temperature, and noise. Its draws are those of a key, after a counter.
fn parting(
    engine: &Engine,
    setting: &Setting,
    prompt: &[u32],
    [ours, theirs]: [&[u32]; 2],
    (key, counter): (Key, u64),
) -> Option<(usize, f64)> {
    let step = (0..ours.len().max(theirs.len())).find(|&i| ours.get(i) != theirs.get(i))?;
    let tokens: Vec<i32> = prompt
        .iter()
        .chain(&ours[..step])
        .map(|&id| id as i32)
        .collect();
    let length = tokens.len();
    let forward = engine
        .forward(1, length, &tokens, &vec![1; length])
        .expect("a pass");
    let vocabulary = engine.spec().config.vocab_size();
    let logits = &forward.logits[(length - 1) * vocabulary..];
    let draw = key.steps().nth(step).expect("endless");
    let score = |id: u32| {
        let noise = gumbel(draw.bits(counter + u64::from(id)), setting.top_k == 0);
        f64::from(logits[id as usize]) / f64::from(setting.temperature) + noise
    };
    Some((step, (score(ours[step]) - score(theirs[step])).abs()))
}

#[test]
fn in_bfloat16_tokens_part_from_flaxs_only_where_two_score_alike() {
    let model = load(DType::BF16, Mesh::SINGLE);
    let engine = model.engine();
    let fixture = fixture("bfloat16");
    let prompts = fixture.prompts();
    let vocabulary = engine.spec().config.vocab_size() as u64;
    let (mut rows, mut partings, mut in_sessions) = (0, Vec::new(), 0);
    for run in &fixture.runs {
        let setting = &fixture.settings[&run.setting];
        let key = Key::from_seed(run.seed);
        let batch = tokens(engine, &prompts, &fixture.options(run, 3));
        let folded = tokens(engine, &prompts, &fixture.options(run, 2));
        for (row, prompt) in prompts.iter().enumerate() {
            let alone = std::slice::from_ref(prompt);
            let alone = tokens(engine, alone, &fixture.options(run, 1)).remove(0);
            // More prompts than rows run in a session, where a prompt's last token is run by a step,
            // and rounded as a step's: its draws part more often, and may part at the edge of what
            // top-k and top-p leave, where the two need not score alike.
            in_sessions += usize::from(folded[row] != run.folded[row]);
            for (ours, theirs, draws) in [
                (&batch[row], &run.batch[row], (key, row as u64 * vocabulary)),
                (&alone, &run.alone[row], (key, 0)),
            ] {
                rows += 1;
                let found = parting(engine, setting, prompt, [ours, theirs], draws);
                partings.extend(found.map(|(step, gap)| {
                    let place = format!("{}, seed {}, row {row}, {step}", run.setting, run.seed);
                    (place, gap)
                }));
            }
        }
    }
    assert_eq!(rows, 120);
    assert!(in_sessions <= 9, "{in_sessions} of 60 rows of sessions");
    let most = partings.iter().map(|(_, gap)| *gap).fold(0.0, f64::max);
    assert!(most <= NEAR_TIE, "{partings:?}");
    assert!(partings.len() <= 4, "{partings:?}");
}
