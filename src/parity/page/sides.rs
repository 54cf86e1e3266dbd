//! What computed either side, as words.

use serde::Serialize;
use serde_json::{Map, Value};

use super::super::report::Report;

/// The facts that are set side by side, by their names in the metadata, with their labels.
const COMPARED: [(&str, &str); 8] = [
    ("model", "Model"),
    ("checkpoint", "Checkpoint"),
    ("param_dtype", "Stored as"),
    ("dtype", "Computed in"),
    ("versions", "Versions"),
    ("platform", "Device"),
    ("plugin", "Plugin"),
    ("mesh", "Mesh"),
];

/// A fact of both sides.
#[derive(Serialize)]
pub(super) struct SideBySide {
    label: &'static str,
    ours: String,
    reference: String,
}

/// A fact of one side.
#[derive(Serialize)]
pub(super) struct Fact {
    label: String,
    value: String,
}

/// Both sides in a sentence.
pub(super) fn subtitle(report: &Report) -> String {
    let side = |facts: &Map<String, Value>| {
        let fact = |name| facts.get(name).map(words);
        let model = fact("model").unwrap_or_else(|| "a model that is not named".into());
        // The last part of a path names a model well enough here.
        let model = model.rsplit('/').next().unwrap_or(&model).to_owned();
        match fact("dtype") {
            Some(dtype) => format!("{model} in {dtype}"),
            None => model,
        }
    };
    let versions = report.reference.get("versions").map(words);
    let versions = versions.map_or_else(String::new, |words| format!(" ({words})"));
    format!(
        "{} on {}, compared with {}{versions}",
        side(&report.ours),
        report.device,
        side(&report.reference)
    )
}

/// The facts that a reader looks for first.
pub(super) fn side_by_side(report: &Report) -> Vec<SideBySide> {
    let value = |facts: &Map<String, Value>, name: &str| {
        facts.get(name).map_or_else(|| "not stated".into(), words)
    };
    COMPARED
        .iter()
        .filter(|(name, _)| report.ours.contains_key(*name) || report.reference.contains_key(*name))
        .map(|&(name, label)| SideBySide {
            label,
            ours: value(&report.ours, name),
            reference: value(&report.reference, name),
        })
        .collect()
}

/// Everything else that the reference says of itself.
pub(super) fn details(report: &Report) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (name, value) in &report.reference {
        if COMPARED.iter().all(|(compared, _)| compared != name) {
            flatten(name.replace('_', " "), value, &mut facts);
        }
    }
    facts
}

fn flatten(label: String, value: &Value, facts: &mut Vec<Fact>) {
    match value {
        Value::Object(parts) => {
            for (name, value) in parts {
                flatten(format!("{label}: {}", name.replace('_', " ")), value, facts);
            }
        }
        value => facts.push(Fact {
            label,
            value: words(value),
        }),
    }
}

/// A value of JSON as a reader would write it.
fn words(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Number(found) if found.is_f64() => {
            super::number(found.as_f64().unwrap_or(f64::INFINITY))
        }
        Value::Number(found) => found.to_string(),
        Value::Array(parts) => parts.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(parts) => {
            let parts = parts.iter().map(|(name, value)| match value {
                Value::Object(_) => format!("{name}: {}", words(value)),
                value => format!("{name} {}", words(value)),
            });
            parts.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_facts_become_labelled_lines() {
        let value = serde_json::json!({"max_abs": 0.126, "rows": [null, 2], "jitted": false});
        let mut facts = Vec::new();
        flatten("batch noise".into(), &value, &mut facts);
        let lines: Vec<String> = facts
            .iter()
            .map(|fact| format!("{} = {}", fact.label, fact.value))
            .collect();
        assert_eq!(
            lines,
            [
                "batch noise: max abs = 0.13",
                "batch noise: rows = none, 2",
                "batch noise: jitted = no"
            ]
        );
        let versions = serde_json::json!({"flax": "0.10.7", "jax": "0.6.2"});
        assert_eq!(words(&versions), "flax 0.10.7, jax 0.6.2");
    }
}
