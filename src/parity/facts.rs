//! What computed one side of a comparison, by the names that the metadata of a reference has.

use serde_json::{Map, Value, json};

use crate::engine::Engine;
use crate::source::LoadedModel;

/// What a model is, from which files, and what runs it: `model`, `dtype`, `param_dtype`,
/// `checkpoint`, `versions`, `platform`, `plugin`, `mesh`.
pub fn facts(model: &LoadedModel) -> Map<String, Value> {
    let origin = model.origin();
    let mut facts = Map::new();
    facts.insert("model".into(), json!(origin.folder.display().to_string()));
    facts.extend(engine_facts(model.engine()));
    facts.insert("param_dtype".into(), json!(origin.dtypes));
    facts.insert("checkpoint".into(), json!(origin.checkpoint));
    facts
}

/// What is known without the files.
pub(super) fn engine_facts(engine: &Engine) -> Map<String, Value> {
    let facts = json!({
        "dtype": engine.spec().compute.to_string(),
        "versions": { "gemma-xla": env!("CARGO_PKG_VERSION") },
        "platform": engine.device_kind(),
        "plugin": engine.plugin(),
        "mesh": engine.spec().mesh.to_string(),
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}
