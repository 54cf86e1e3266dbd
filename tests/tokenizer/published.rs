//! Published copies of Gemma's tokenizer, in both of its forms.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gemma_xla::tokenizer::{BoundaryTokens, JSON_FILE, MODEL_FILE, Tokenizer};

use crate::common::{all_must_run, data};

const BOS: u32 = 2;

/// A string, and what Python makes of it.
#[derive(serde::Deserialize)]
struct Case {
    text: String,
    /// By `tokenizers`.
    ids: Vec<u32>,
    /// The text of `ids`, where it is another.
    decoded: Option<String>,
    /// By `sentencepiece`, where they are others.
    model_ids: Option<Vec<u32>>,
}

fn cases() -> Vec<Case> {
    let file = data("tokenizer/gemma.jsonl");
    let lines = fs::read_to_string(file).expect("the reference is there");
    let cases: Vec<Case> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a case"))
        .collect();
    assert!(cases.len() >= 2_000, "only {} strings", cases.len());
    cases
}

/// The folder with the published files, or nothing where they cannot be fetched.
fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/tokenizer/fetch");
        let output = Command::new("bash").arg(script).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(String::from_utf8_lossy(&output.stdout).trim().into())
            }
            Ok(output) => not_tested(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => not_tested(&error.to_string()),
        }
    });
    folder.as_deref()
}

/// Says why there are no files, which is a failure where all tests must run.
fn not_tested(why: &str) -> Option<PathBuf> {
    let message = format!("Gemma's tokenizer cannot be fetched: {}", why.trim());
    assert!(!all_must_run(), "{message}");
    eprintln!("not tested: {message}");
    None
}

type Parse = fn(&Path, &[u8], &BoundaryTokens) -> Result<Tokenizer, gemma_xla::tokenizer::Error>;

fn read(name: &str, parse: Parse) -> Option<Tokenizer> {
    let path = folder()?.join(name);
    let content = fs::read(&path).expect("it was fetched");
    Some(parse(&path, &content, &BoundaryTokens::default()).expect("it is a tokenizer"))
}

fn json() -> Option<&'static Tokenizer> {
    static JSON: OnceLock<Option<Tokenizer>> = OnceLock::new();
    JSON.get_or_init(|| read(JSON_FILE, Tokenizer::from_json))
        .as_ref()
}

fn model() -> Option<&'static Tokenizer> {
    static MODEL: OnceLock<Option<Tokenizer>> = OnceLock::new();
    MODEL
        .get_or_init(|| read(MODEL_FILE, Tokenizer::from_model))
        .as_ref()
}

/// Both forms, where they could be fetched.
fn both() -> impl Iterator<Item = &'static Tokenizer> {
    [json(), model()].into_iter().flatten()
}

#[test]
fn ids_are_pythons_in_both_forms() {
    for tokenizer in both() {
        let mut wrong = Vec::new();
        for case in cases() {
            // With `<bos>` once, whatever the text has.
            let theirs = match &case.model_ids {
                Some(ids) if tokenizer.path().ends_with(MODEL_FILE) => ids,
                _ => &case.ids,
            };
            let rest = theirs.iter().skip_while(|&&id| id == BOS);
            let expected: Vec<u32> = [BOS].iter().chain(rest).copied().collect();
            let found = tokenizer.encode(&case.text).expect("encoded");
            if found != expected {
                wrong.push(format!(
                    "{:?}: expected {expected:?}, found {found:?}",
                    case.text
                ));
            }
        }
        assert!(
            wrong.is_empty(),
            "{}: {} differ:\n{}",
            tokenizer.path().display(),
            wrong.len(),
            wrong[..wrong.len().min(20)].join("\n")
        );
    }
}

#[test]
fn texts_are_pythons_in_both_forms() {
    for tokenizer in both() {
        for case in cases() {
            let found = tokenizer.decode(&case.ids).expect("decoded");
            assert_eq!(
                found,
                case.decoded.unwrap_or(case.text),
                "{}: {:?}",
                tokenizer.path().display(),
                case.ids
            );
        }
    }
}

#[test]
fn bos_is_in_front_exactly_once() {
    for tokenizer in both() {
        let plain = tokenizer
            .encode("Valencia and M\u{e1}laga are")
            .expect("encoded");
        assert_eq!(plain, [BOS, 139_590, 578, 114_957, 708]);
        for given in ["<bos>", "<bos><bos>"] {
            let text = format!("{given}Valencia and M\u{e1}laga are");
            assert_eq!(tokenizer.encode(&text).expect("encoded"), plain);
        }
        assert_eq!(tokenizer.encode("").expect("encoded"), [BOS]);
        let inside = tokenizer.encode("a<bos>b").expect("encoded");
        assert_eq!(
            inside.iter().filter(|&&id| id == BOS).count(),
            2,
            "what stands elsewhere stays"
        );
        let turn = tokenizer
            .encode("<start_of_turn>user\nHi<end_of_turn>\n")
            .expect("encoded");
        assert_eq!(
            (turn[0], turn[1], turn[turn.len() - 2], turn[turn.len() - 1]),
            (BOS, 106, 107, 108)
        );
        assert_eq!(tokenizer.vocabulary_size(), 256_000);
    }
}

#[test]
fn a_stream_of_settled_texts_only_grows_and_ends_as_the_whole() {
    for tokenizer in both() {
        // The first hundreds have every script and all emoji.
        for case in cases().iter().take(500) {
            let (prompt, new) = case.ids.split_at(case.ids.len().min(2));
            let whole = tokenizer.decode_continuation(prompt, new).expect("decoded");
            let mut stream = tokenizer.stream(prompt);
            let mut before = String::new();
            for &id in new {
                before.push_str(&stream.push(&[id]).expect("decoded"));
                assert!(
                    whole.starts_with(&before),
                    "{:?}: {before:?} then {whole:?}",
                    case.text
                );
            }
            before.push_str(&stream.finish().expect("decoded"));
            assert_eq!(before, whole);
        }
    }
}
