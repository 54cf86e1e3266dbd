//! From what names a model, a path or a name on the Hub, to where its files are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use anyhow::Context;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::hub::{Error, Event, RepoId, Settings, Snapshot, Wanted, fetch};

/// A file or folder that is there is itself. Anything else is taken for a repository on the Hub: what is `wanted` of it is
/// downloaded where the cache lacks it, and the folder with it is given. Standard error says what was taken.
pub(super) fn locate(
    model: &Path,
    revision: Option<&str>,
    wanted: Wanted,
) -> anyhow::Result<PathBuf> {
    if model.exists() {
        if let Some(revision) = revision {
            let model = model.display();
            eprintln!(
                "warning: --revision {revision} means nothing here: {model} is not on the Hub but on this machine"
            );
        }
        return Ok(model.to_path_buf());
    }
    let no_such = || format!("{}: no such file or folder", model.display());
    let repo: RepoId = model
        .to_str()
        .with_context(no_such)?
        .parse()
        .with_context(no_such)?;
    exit_on_interrupts()?;
    let progress = Progress::default();
    let fetched = fetch(&repo, revision, wanted, &Settings::from_env()?, &|event| {
        progress.show(event)
    });
    progress.bars.clear().ok();
    let snapshot = match fetched {
        // It may have been meant as a folder.
        Err(error @ Error::RepoNotFound { .. }) => return Err(error).with_context(no_such),
        fetched => fetched?,
    };
    eprintln!("{}", summary(&repo, &snapshot));
    Ok(snapshot.folder)
}

/// What was taken, in a line.
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

/// Set while an interruption is to end the process at once, with the status that it has for that.
static EXITS: LazyLock<Arc<AtomicBool>> = LazyLock::new(Default::default);

/// From here on SIGINT ends the process with 130: a download needs no care, the next one goes on where it was.
fn exit_on_interrupts() -> anyhow::Result<()> {
    if !EXITS.swap(true, Ordering::Relaxed) {
        signal_hook::flag::register_conditional_shutdown(
            signal_hook::consts::SIGINT,
            130,
            EXITS.clone(),
        )?;
    }
    Ok(())
}

/// From here on SIGINT is what the caller makes of it.
pub(super) fn leave_interrupts() {
    EXITS.store(false, Ordering::Relaxed);
}

/// Bars on standard error, which are not drawn where that is no terminal, and lines there for what has to be known.
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
                let bar = self.bars.add(bar(file, size));
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
                // An address is in what is said of it.
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
                self.say(&format!("warning: {why}; taking what the cache has"));
            }
        }
    }

    fn say(&self, line: &str) {
        self.bars.suspend(|| eprintln!("{line}"));
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
        .with_prefix(file.to_owned())
}
