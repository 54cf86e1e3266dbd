//! The tokens are the same whichever instructions the CPU has: the variable of the CPU kernel
//! chooses each instruction set in turn. A CPU without AVX-512 is one where the sets made of it are
//! not chosen.

mod common;

use common::{data, gemma_xla};
use gemma_xla::kernel::{InstructionSet, SWITCH};
use gemma_xla::parity::Reference;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Greedy float32 tokens of the reference's prompts, run in batches of `batch`.
fn tokens(
    name: &str,
    reference: &Reference,
    set: &str,
    batch: usize,
    cache: &TempDir,
) -> Vec<Vec<i32>> {
    let (total, _) = reference.sequences.as_ref().expect("sequences");
    let new = total - reference.length;
    let lines: String = (0..reference.batch)
        .map(|row| json!({"token_ids": reference.prompt(row)}).to_string() + "\n")
        .collect();
    let mut command = gemma_xla();
    command
        .env(SWITCH, set)
        // Programs are the same for all instruction sets, so they are compiled once.
        .env("GEMMA_XLA_CACHE", cache.path())
        .args(["generate", "--dtype", "f32", "--input", "-"])
        .args(["--input-format", "jsonl", "--format", "jsonl"])
        .args(["--max-new-tokens", &new.to_string()])
        .args(["--batch-size", &batch.to_string()])
        .arg("--model")
        .arg(data(name))
        .write_stdin(lines);
    let output = command.output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{set}: {stderr}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("a JSON object a line");
            serde_json::from_value(line["token_ids"].clone()).expect("ids")
        })
        .collect()
}

#[test]
fn every_instruction_set_and_none_give_flax_tokens_in_float32() {
    let sets: Vec<&str> = InstructionSet::ALL
        .into_iter()
        .filter(|set| set.is_available())
        .map(InstructionSet::name)
        .chain(["off"])
        .collect();
    assert!(sets.contains(&"portable") && sets.contains(&"off"));
    for name in ["gemma-small", "random-mqa"] {
        let path = data(name).join("reference-float32.npz");
        let reference = Reference::read(&path).expect("read");
        let (total, sequences) = reference.sequences.as_ref().expect("sequences");
        let cache = TempDir::new().expect("a folder");
        // One row, where a step is a product of a vector, and all of them.
        for batch in [1, reference.batch] {
            for set in &sets {
                let found = tokens(name, &reference, set, batch, &cache);
                assert_eq!(found.len(), reference.batch);
                for (row, ids) in found.iter().enumerate() {
                    let expected = &sequences[row * total + reference.length..(row + 1) * total];
                    assert_eq!(*ids, expected[..ids.len()], "{name} {set} row {row}");
                    let ended = expected[ids.len()..].iter().all(|id| *id == 0);
                    assert!(ended, "{name} {set} row {row} ends where Flax's does");
                }
            }
        }
    }
}

#[test]
fn an_unknown_instruction_set_is_named() {
    let mut command = gemma_xla();
    command
        .env(SWITCH, "sse9")
        .args(["generate", "--format", "jsonl", "x", "--model"])
        .arg(data("gemma-small"));
    common::fails_naming(&mut command, &[SWITCH, "sse9", "avx2", "portable"]);
}
