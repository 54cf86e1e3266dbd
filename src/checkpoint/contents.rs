//! What a folder without readable weights contains instead.

use std::path::Path;

use crate::json_text;

/// The most names that a message lists.
const MOST_NAMES: usize = 8;

/// What is in a folder, and what it looks like, in the words of an error message.
pub(super) fn describe(folder: &Path) -> String {
    let mut names: Vec<String> = folder
        .read_dir()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    if names.is_empty() {
        return "the folder is empty".to_owned();
    }
    let listed = names.get(..MOST_NAMES).unwrap_or(&names).join(", ");
    let more = match names.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match looks_like(folder, &names) {
        Some(kind) => format!("found {listed}{more}: this looks like {kind}"),
        None => format!("found {listed}{more}"),
    }
}

fn looks_like(folder: &Path, names: &[String]) -> Option<&'static str> {
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|name| test(name));
    let has = |wanted: &str| any(&|name| name == wanted);
    let ends = |suffix: &str| any(&|name| name.to_ascii_lowercase().ends_with(suffix));
    if has("manifest.ocdbt") || has("_CHECKPOINT_METADATA") || has("_METADATA") {
        return Some("an Orbax checkpoint");
    }
    if has("adapter_config.json") || any(&|name| name.starts_with("adapter_model.")) {
        return Some("a LoRA adapter, which needs the model that it adapts");
    }
    if ends(".gguf") {
        return Some("GGUF, llama.cpp's format");
    }
    if has("quantize_config.json") || has("quant_config.json") || quantised_config(folder) {
        return Some("a quantised checkpoint; take the one that is not quantised");
    }
    if ends(".bin") || ends(".pt") || ends(".pth") || ends(".bin.index.json") || ends(".ckpt") {
        return Some("PyTorch's pickled weights; take the model's safetensors or Flax weights");
    }
    if ends(".h5") || ends(".weights.h5") || ends(".keras") {
        return Some("Keras weights");
    }
    None
}

/// Whether config.json says that the weights are quantised.
fn quantised_config(folder: &Path) -> bool {
    const LIMIT: u64 = 1 << 24;
    crate::input_file::read(&folder.join(crate::config::CONFIG_FILE), LIMIT)
        .ok()
        .flatten()
        .and_then(|text| {
            serde_json::from_slice::<serde_json::Value>(&json_text::standard(&text)).ok()
        })
        .is_some_and(|config| config.get("quantization_config").is_some())
}
