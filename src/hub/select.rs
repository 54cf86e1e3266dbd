//! Which of a repository's files a checkpoint needs.

use crate::checkpoint::{
    FLAX_FILE, FLAX_INDEX_FILE, NPZ_FILES, SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE,
};

/// What is wanted of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wanted {
    /// Configuration, tokenizer and the weights in one format.
    Checkpoint,
    /// `config.json` and `generation_config.json` alone.
    Configuration,
}

/// Small files beside the weights, downloaded where they exist.
const COMPANIONS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Tokenizers; the first that exists is taken.
const TOKENIZERS: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// The most bytes of a file that is not weights: more than any that is read.
const MAX_COMPANION: u64 = 1 << 28;
/// The most bytes of a file of weights.
const MAX_WEIGHTS: u64 = 1 << 42;

/// The most bytes that are downloaded of a file of this name.
pub(super) fn most_bytes(file: &str) -> u64 {
    let is_weights = |end: &&str| file.ends_with(*end);
    match [".msgpack", ".npz", ".safetensors"].iter().any(is_weights) {
        true => MAX_WEIGHTS,
        false => MAX_COMPANION,
    }
}

/// A file that gives access to all weights: it contains them, or is the index of those that do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Weights {
    pub(super) file: String,
    pub(super) is_index: bool,
    pub(super) is_flax: bool,
}

/// The weights by which a folder with these files is opened: the same that
/// [`crate::checkpoint::Checkpoint::open`] finds.
pub(super) fn weights(files: &[String]) -> Option<Weights> {
    let known = [(FLAX_FILE, false, true), (FLAX_INDEX_FILE, true, true)]
        .into_iter()
        .chain(NPZ_FILES.map(|name| (name, false, true)))
        .chain([
            (SAFETENSORS_FILE, false, false),
            (SAFETENSORS_INDEX_FILE, true, false),
        ]);
    for (name, is_index, is_flax) in known {
        if files.iter().any(|file| file == name) {
            return Some(Weights {
                file: name.to_owned(),
                is_index,
                is_flax,
            });
        }
    }
    let mut npz = files
        .iter()
        .filter(|file| file.ends_with(".npz") && !file.contains('/'));
    match (npz.next(), npz.next()) {
        (Some(file), None) => Some(Weights {
            file: file.clone(),
            is_index: false,
            is_flax: true,
        }),
        _ => None,
    }
}

/// The names that [`weights`] looks for, for messages.
pub(super) fn looked_for() -> String {
    let mut names = vec![FLAX_FILE, FLAX_INDEX_FILE];
    names.extend(NPZ_FILES);
    names.extend([SAFETENSORS_FILE, SAFETENSORS_INDEX_FILE, "a single *.npz"]);
    names.join(", ")
}

/// The files beside the weights that are wanted and exist.
pub(super) fn companions(files: &[String], wanted: Wanted) -> Vec<String> {
    let there = |name: &&str| files.iter().any(|file| file == name);
    let mut names: Vec<&str> = Vec::new();
    match wanted {
        Wanted::Configuration => names.extend(COMPANIONS.iter().take(2).filter(|name| there(name))),
        Wanted::Checkpoint => {
            names.extend(COMPANIONS.iter().filter(|name| there(name)));
            names.extend(TOKENIZERS.iter().find(|name| there(name)));
        }
    }
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn flax_weights_come_before_all_others() {
        let mut files = owned(&[
            "model.safetensors",
            "own.npz",
            "model.npz",
            "flax_model.msgpack.index.json",
            "flax_model.msgpack",
        ]);
        let mut order = Vec::new();
        while let Some(weights) = weights(&files) {
            files.retain(|file| *file != weights.file);
            order.push(weights.file);
        }
        assert_eq!(
            order,
            [
                "flax_model.msgpack",
                "flax_model.msgpack.index.json",
                "model.npz",
                "model.safetensors",
                "own.npz"
            ]
        );
    }

    #[test]
    fn what_lies_in_folders_or_is_one_of_many_is_no_weights() {
        assert_eq!(
            weights(&owned(&[
                "2b/flax_model.msgpack",
                "x/a.npz",
                "pytorch_model.bin"
            ])),
            None
        );
        assert_eq!(weights(&owned(&["a.npz", "b.npz"])), None);
    }

    #[test]
    fn only_needed_files_are_wanted() {
        let all = owned(&[
            "README.md",
            ".gitattributes",
            "config.json",
            "generation_config.json",
            "tokenizer.model",
            "tokenizer.json",
            "pytorch_model.bin",
            "special_tokens_map.json",
            "examples/x.py",
        ]);
        assert_eq!(
            companions(&all, Wanted::Checkpoint),
            [
                "config.json",
                "generation_config.json",
                "special_tokens_map.json",
                "tokenizer.json"
            ]
        );
        assert_eq!(
            companions(&all, Wanted::Configuration),
            ["config.json", "generation_config.json"]
        );
        assert_eq!(
            companions(&owned(&["tokenizer.model"]), Wanted::Checkpoint),
            ["tokenizer.model"]
        );
    }
}
