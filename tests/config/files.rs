//! The two files of a folder: which wins, and what is said of a bad one.

use gemma_xla::config::{ConfigError, GemmaConfig};
use serde_json::Value;

use super::{assert_says, gemma_2b, parse};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn generation_config_overrides_the_special_tokens_that_it_has() {
    let config = Value::from(gemma_2b()).to_string();
    let dir = folder(&[
        ("config.json", &config),
        (
            "generation_config.json",
            r#"{"eos_token_id": [1, 107], "pad_token_id": null, "bos_token_id": 5}"#,
        ),
    ]);
    let config = GemmaConfig::from_dir(dir.path()).unwrap();
    assert_eq!(config.eos_token_ids(), [1, 107]);
    assert_eq!(
        (config.pad_token_id(), config.bos_token_id()),
        (Some(0), Some(5))
    );
}

#[test]
fn generation_config_may_be_absent() {
    let dir = folder(&[("config.json", &Value::from(gemma_2b()).to_string())]);
    assert_eq!(
        GemmaConfig::from_dir(dir.path()).unwrap(),
        parse(&gemma_2b()).unwrap()
    );
}

#[test]
fn a_malformed_generation_config_is_named() {
    let config = Value::from(gemma_2b()).to_string();
    for text in [
        "{",
        "[]",
        r#"{"eos_token_id": 256000}"#,
        r#"{"eos_token_id": "x"}"#,
    ] {
        let dir = folder(&[("config.json", &config), ("generation_config.json", text)]);
        let message = GemmaConfig::from_dir(dir.path()).unwrap_err().to_string();
        assert_says(&message, "generation_config.json");
    }
}

#[test]
fn a_missing_or_unreadable_config_is_named() {
    let dir = folder(&[]);
    let message = GemmaConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert_says(
        &message,
        &dir.path().join("config.json").display().to_string(),
    );
    std::fs::write(dir.path().join("config.json"), [0xff, 0xfe]).unwrap();
    assert!(matches!(
        GemmaConfig::from_dir(dir.path()),
        Err(ConfigError::Read { .. })
    ));
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    std::fs::create_dir(dir.path().join("config.json")).unwrap();
    assert!(matches!(
        GemmaConfig::from_dir(dir.path()),
        Err(ConfigError::Read { .. })
    ));
}

#[test]
fn a_file_too_large_for_a_config_is_refused() {
    let dir = folder(&[("config.json", &" ".repeat((1 << 24) + 1))]);
    assert!(matches!(
        GemmaConfig::from_dir(dir.path()),
        Err(ConfigError::TooLarge { .. })
    ));
}
