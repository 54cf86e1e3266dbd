//! What the tests of downloads share.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use gemma_xla::hub::{Error, Event, Result, Retries, Settings, Snapshot, Token, Wanted, fetch};
use tempfile::TempDir;

use crate::common::gemma_xla;
use crate::server::Server;

/// A repository that is in most tests.
pub const REPO: &str = "google/gemma-small";

/// A server, and a home folder for what is downloaded from it.
pub struct Hub {
    pub server: Server,
    pub home: TempDir,
}

impl Hub {
    pub fn new() -> Self {
        Self {
            server: Server::start(),
            home: TempDir::new().expect("a folder"),
        }
    }

    /// One with a configuration and made-up Flax weights of this many bytes on `main`.
    pub fn with_weights(size: usize) -> (Self, Vec<u8>) {
        let hub = Self::new();
        let weights = noise(size);
        hub.server.add(
            REPO,
            "main",
            &[
                ("config.json", b"{}"),
                ("flax_model.msgpack", &weights),
                ("README.md", b"#"),
            ],
        );
        (hub, weights)
    }

    pub fn settings(&self) -> Settings {
        Settings {
            endpoint: self.server.endpoint(),
            cache: self.home.path().join("hub"),
            token: None,
            offline: false,
            answer_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(10),
            certificates: None,
            retries: Retries {
                attempts: 5,
                first_pause: Duration::from_millis(1),
                longest_pause: Duration::from_secs(2),
            },
            workers: 4,
        }
    }

    pub fn fetch(&self, revision: Option<&str>) -> Result<Snapshot> {
        self.fetch_with(revision, &self.settings(), &|_| {})
    }

    pub fn fetch_with(
        &self,
        revision: Option<&str>,
        settings: &Settings,
        observer: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Snapshot> {
        let repo = REPO.parse().expect("a name");
        fetch(&repo, revision, Wanted::Checkpoint, settings, observer)
    }

    /// The message of the error that there must be.
    pub fn error(&self, revision: Option<&str>) -> Error {
        self.fetch(revision).expect_err("it cannot be had")
    }

    /// The binary, with this Hub as its only one.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = gemma_xla();
        command.args(args);
        set_environment(self, |name, value| {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        });
        command
    }

    pub fn repo_folder(&self) -> PathBuf {
        self.home.path().join("hub/models--google--gemma-small")
    }

    /// Every file under a final name must be whole: a blob's name is its content's hash. The names
    /// are given.
    pub fn assert_blobs_are_whole(&self) -> Vec<String> {
        let entries = fs::read_dir(self.repo_folder().join("blobs"))
            .into_iter()
            .flatten();
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.expect("listed").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if !name.ends_with(".incomplete") {
                let content = fs::read(&path).expect("read");
                assert_eq!(crate::server::etag_of(&content), name, "{}", path.display());
                names.push(name);
            }
        }
        names
    }

    /// What is left of downloads that did not end.
    pub fn incomplete(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.repo_folder().join("blobs"))
            .into_iter()
            .flatten();
        entries
            .map(|entry| entry.expect("listed").path())
            .filter(|path| path.to_string_lossy().ends_with(".incomplete"))
            .collect()
    }
}

/// Calls `set` with each variable of the environment that decides where the Hub is and what is told
/// it.
pub fn set_environment(hub: &Hub, mut set: impl FnMut(&str, Option<String>)) {
    for name in [
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        set(name, None);
    }
    set("HF_ENDPOINT", Some(hub.server.endpoint()));
    set(
        "HF_HOME",
        Some(hub.home.path().to_string_lossy().into_owned()),
    );
}

/// Bytes without a pattern, the same each time (a linear congruential generator with Knuth's
/// constants).
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = size as u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..size).map(|_| next()).collect()
}

pub fn token(text: &str) -> Option<Token> {
    Token::new(text, "HF_TOKEN").expect("a token")
}

/// The files of a folder, by name.
pub fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| {
            let path = entry.expect("listed").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, fs::read(&path).expect("read"))
        })
        .collect()
}

/// Adds a checkpoint of tests/data to the server.
pub fn add_checkpoint(hub: &Hub, revision: &str, folder: &Path) {
    let files = files_of(folder);
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    hub.server.add(REPO, revision, &files);
}

/// The tokens that a model gives after `prompts`, JSON lines, and what is said beside them.
pub fn tokens(hub: &Hub, model: &[&str], prompts: &str) -> (String, String) {
    let options = ["--input", "-", "--input-format", "jsonl"];
    let more = ["--format", "jsonl", "--max-new-tokens", "8"];
    let args = [&["generate", "--model"], model, &options, &more].concat();
    let output = hub
        .command(&args)
        .write_stdin(prompts)
        // All forms of a checkpoint run the same programs.
        .env("GEMMA_XLA_CACHE", hub.home.path().join("programs"))
        .output()
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{model:?}: {stderr}");
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert_eq!(stdout.lines().count(), prompts.lines().count(), "{model:?}");
    (stdout, stderr)
}
