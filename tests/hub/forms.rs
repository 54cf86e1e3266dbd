//! Every checkpoint of tests/data, in every form of files and under every naming, gives the same
//! tokens from a folder and from the Hub.

use std::fs;
use std::path::{Path, PathBuf};

use gemma_xla::config::GemmaConfig;
use gemma_xla::source::open_checkpoint;
use zip::CompressionMethod::{Deflated, Stored};

use crate::common::checkpoints;
use crate::namings::{Tree, deepmind, msgpack, pytorch};
use crate::samples::{Array, arrays, npz, safetensors};
use crate::support::{Hub, REPO, add_checkpoint, tokens};

/// Two prompts of different lengths, with ids that every vocabulary has.
const IDS: &str = "{\"token_ids\": [2, 5, 33, 9, 17]}\n{\"token_ids\": [2, 7]}\n";
/// The same with text, for a checkpoint with a tokenizer.
const TEXTS: &str =
    "{\"prompt\": \"It is a truth universally acknowledged\"}\n{\"token_ids\": [2, 7]}\n";

/// The folders of one checkpoint in other forms, with the file that is named for its weights.
struct Forms<'a> {
    hub: &'a Hub,
    source: &'a Path,
    folders: Vec<(&'static str, PathBuf, &'static str)>,
}

impl Forms<'_> {
    /// What `convert` makes, in shards where the form has them.
    fn convert(&mut self, to: &'static str, weights: &'static str) {
        let folder = self.hub.home.path().join(to);
        let [from, into] = [self.source, &folder].map(|path| path.to_str().expect("a name"));
        let args = [
            "convert",
            from,
            into,
            "--to",
            to,
            "--max-shard-size",
            "20KB",
        ];
        self.hub.command(&args).assert().success();
        assert!(folder.join(weights).exists(), "{from}: no {weights}");
        self.folders.push((to, folder, weights));
    }

    /// What others write, or have written by hand.
    fn write(&mut self, form: &'static str, weights: &'static str, content: &[u8]) {
        let folder = self.hub.home.path().join(form);
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join(weights), content).expect("weights");
        for companion in ["config.json", "generation_config.json", "tokenizer.json"] {
            let source = self.source.join(companion);
            if source.exists() {
                fs::copy(source, folder.join(companion)).expect("a copy");
            }
        }
        self.folders.push((form, folder, weights));
    }
}

/// How many forms a checkpoint was tried in.
fn gives_the_same_tokens_in_every_form(source: &Path) -> usize {
    let hub = Hub::new();
    let has_tokenizer = source.join("tokenizer.json").exists();
    let prompts = if has_tokenizer { TEXTS } else { IDS };
    let (expected, _) = tokens(&hub, &[source.to_str().expect("a name")], prompts);
    let config = GemmaConfig::from_dir(source).expect("a configuration");
    let flax = arrays(&open_checkpoint(source).expect("a checkpoint"));
    let renamed = |rename: fn(&str) -> String| -> Vec<Array> {
        let array = |array: &Array| array.clone().named(rename(&array.name));
        flax.iter().map(array).collect()
    };
    let mut forms = Forms {
        hub: &hub,
        source,
        folders: Vec::new(),
    };
    forms.convert("msgpack", "flax_model.msgpack.index.json");
    forms.convert("npz", "flax_model.npz");
    forms.convert("safetensors", "model.safetensors.index.json");
    let wrapped = renamed(|name| format!("params/{name}"));
    forms.write("params", "flax_model.msgpack", &msgpack(&wrapped));
    let dotted = renamed(|name| name.replace('/', "."));
    forms.write("dots", "model.npz", &npz(&dotted, Deflated));
    forms.write(
        "pytorch",
        "model.safetensors",
        &safetensors(&pytorch(&flax)),
    );
    // DeepMind's models have neither biases nor a head of their own.
    let deepminds =
        |array: &Array| !array.name.ends_with("/bias") && array.name != "lm_head/kernel";
    if flax.iter().all(deepminds) {
        let tree = |flat, prefix| Tree {
            flat,
            gating_transposed: flat,
            prefix,
        };
        let nested = deepmind(&flax, &config, tree(false, "params/transformer/"));
        forms.write("nested", "flax_model.msgpack", &msgpack(&nested));
        let flat = deepmind(&flax, &config, tree(true, "transformer/"));
        forms.write("flat", "flax_model.npz", &npz(&flat, Stored));
    }

    for (form, folder, weights) in &forms.folders {
        let (found, _) = tokens(&hub, &[folder.to_str().expect("a name")], prompts);
        assert_eq!(found, expected, "{}: {form}", source.display());
        add_checkpoint(&hub, form, folder);
        let (found, stderr) = tokens(&hub, &[REPO, "--revision", form], prompts);
        assert_eq!(found, expected, "{}: {form} from the Hub", source.display());
        let taken = format!("{weights} of revision {form}");
        assert!(stderr.contains(&taken), "no {taken:?} in {stderr}");
    }
    forms.folders.len()
}

#[test]
fn every_form_and_naming_gives_the_same_tokens_from_a_folder_and_from_the_hub() {
    let mut tried = Vec::new();
    for source in checkpoints() {
        tried.push(gives_the_same_tokens_in_every_form(&source));
    }
    assert!(
        tried.contains(&8) && tried.iter().all(|&forms| forms >= 6),
        "{tried:?}"
    );
}
