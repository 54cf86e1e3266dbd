//! Resolves a model's name, a path or a repository on the Hub, to the folder with its files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::terminal;
use crate::hub::{Error, Event, RepoId, Settings, Snapshot, Wanted, fetch};

/// Finds the files of a model. An existing file or folder is used as it is. Anything else is a
/// repository on the Hub: the `wanted` files that the cache lacks are downloaded, and the folder
/// with them is returned. Standard error says what was used.
pub(super) fn locate(
    model: &Path,
    revision: Option<&str>,
    wanted: Wanted,
) -> anyhow::Result<PathBuf> {
    if model.exists() {
        if let Some(revision) = revision {
            let model = model.display();
            terminal::warn(format_args!(
                "--revision {revision} is ignored: {model} is on this machine, not on the Hub"
            ));
        }
        return Ok(match (wanted, model.parent()) {
            // A file of a checkpoint stands for its folder, where the weights do not matter.
            (Wanted::Configuration, Some(parent)) if model.is_file() => {
                if parent == Path::new("") {
                    PathBuf::from(".")
                } else {
                    parent.to_path_buf()
                }
            }
            _ => model.to_path_buf(),
        });
    }
    let no_such = || format!("{}: no such file or folder", model.display());
    let repo: RepoId = model
        .to_str()
        .with_context(no_such)?
        .parse()
        .with_context(no_such)?;
    let progress = Progress::default();
    let fetched = fetch(&repo, revision, wanted, &Settings::from_env()?, &|event| {
        progress.show(event)
    });
    progress.bars.clear().ok();
    let snapshot = match fetched {
        // The name may have been meant as a folder.
        Err(error @ Error::RepoNotFound { .. }) => return Err(error).with_context(no_such),
        fetched => fetched?,
    };
    terminal::note(summary(&repo, &snapshot));
    Ok(snapshot.folder)
}

/// What to do about an error of a file in the Hub's cache, which a copy or a download may have cut
/// short.
pub(super) fn advice_on_cached(message: &str) -> Option<String> {
    let file = message.split(": ").find_map(|part| {
        let path = Path::new(part.get(part.find('/')?..)?);
        let is_cached = path.iter().any(|part| part == "snapshots") && path.is_symlink();
        is_cached.then_some(path)
    })?;
    let blob = file.canonicalize().ok();
    let delete = blob.as_deref().unwrap_or(file).display();
    Some(format!(
        "; if it was cut short, delete {delete} and run again with the Hub in reach"
    ))
}

/// One line on what was used.
fn summary(repo: &RepoId, snapshot: &Snapshot) -> String {
    let what = match &snapshot.weights {
        Some(weights) => weights.clone(),
        None => snapshot.files.join(", "),
    };
    let commit: String = snapshot.commit.chars().take(12).collect();
    let from = match snapshot.transferred {
        0 => "all in the cache".to_owned(),
        count => format!("{count} of {} files downloaded", snapshot.files.len()),
    };
    format!(
        "{repo}: {what} of revision {} (commit {commit}; {from})",
        snapshot.revision
    )
}

/// Progress bars on standard error, drawn only on a terminal, and lines for what must be known.
#[derive(Default)]
struct Progress {
    bars: MultiProgress,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Progress {
    fn show(&self, event: Event<'_>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Begun { file, size, kept } => {
                let bar = self.bars.add(terminal::bar(bar(file, size)));
                bar.set_position(kept);
                bar.reset_eta();
                files.insert(file.to_owned(), bar);
            }
            Event::Reached { file, bytes } => {
                if let Some(bar) = files.get(file) {
                    bar.set_position(bytes);
                }
            }
            Event::Ended { file } => {
                if let Some(bar) = files.remove(file) {
                    bar.finish_and_clear();
                }
            }
            Event::Waiting { what, why, pause } => {
                // The reason already begins with the address.
                let what = match why.starts_with(what) {
                    true => String::new(),
                    false => format!("{what}: "),
                };
                self.say(&format!(
                    "{what}{why}; trying again in {:.1} s",
                    pause.as_secs_f64()
                ));
            }
            Event::Locked { file } => {
                self.say(&format!(
                    "{file}: another process is downloading it; waiting"
                ));
            }
            Event::Stale { why } => {
                self.bars.suspend(|| {
                    terminal::warn(format_args!("{why}; using what is in the cache"));
                });
            }
        }
    }

    fn say(&self, line: &str) {
        self.bars.suspend(|| terminal::note(line));
    }
}

fn bar(file: &str, size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{prefix} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::no_length(),
            "{prefix} {bytes} {binary_bytes_per_sec}",
        ),
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style.progress_chars("=> "))
        .with_prefix(terminal::escaped_line(file).into_owned())
}
