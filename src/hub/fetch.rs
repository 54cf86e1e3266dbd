//! A repository's revision, from its name to a folder with what a checkpoint needs.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::api::Listing;
use super::cache::RepoCache;
use super::download::Download;
use super::events::{Event, Observer};
use super::http::Client;
use super::repo::check_revision;
use super::select::{Weights, companions, looked_for, most_bytes, weights};
use super::{Error, FLAX, MAIN, RepoId, Result, Settings, Wanted};
use crate::checkpoint::{SAFETENSORS_INDEX_FILE, shards};
use crate::input_file;

/// A revision's files in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The folder with them.
    pub folder: PathBuf,
    /// The revision: the one asked for, else the one that was chosen.
    pub revision: String,
    /// Its commit.
    pub commit: String,
    /// The file with the weights, or the index of those; none where no weights were wanted.
    pub weights: Option<String>,
    /// All files that were wanted, by name.
    pub files: Vec<String>,
    /// How many of them had to be transferred.
    pub transferred: usize,
}

/// The chosen files, and where they were found.
struct Choice {
    revision: String,
    listing: Listing,
    weights: Option<Weights>,
}

/// Ensures that the cache has the wanted files of a revision.
///
/// By default the revision is [`MAIN`] if that has Flax weights, else [`FLAX`] if there is one with
/// Flax weights, else [`MAIN`]. Where the Hub cannot be reached or gives no access, or
/// [`Settings::offline`] forbids it, the cache's files are used if they are complete.
///
/// # Errors
/// A repository, revision or file that does not exist or is not visible; a server that cannot be
/// reached, fails or gives an invalid response; a cache that cannot be written; missing weights.
pub fn fetch(
    repo: &RepoId,
    revision: Option<&str>,
    wanted: Wanted,
    settings: &Settings,
    observer: &Observer<'_>,
) -> Result<Snapshot> {
    if let Some(revision) = revision {
        check_revision(revision)?;
    }
    let cache = RepoCache::new(&settings.cache, repo);
    if settings.offline {
        return cached(&cache, repo, revision, wanted)?.map_err(|lacking| Error::Offline {
            repo: repo.to_string(),
            cache: cache.folder().to_path_buf(),
            lacking,
        });
    }
    let client = Client::new(repo, settings, observer)?;
    let fetched = choose(repo, revision, wanted, |revision| client.listing(revision))
        .and_then(|choice| download(&client, &cache, wanted, choice));
    match fetched {
        Err(error) if error.is_absence() => {
            // Python does so too: a model that was downloaded works without a network.
            let Ok(snapshot) = cached(&cache, repo, revision, wanted)? else {
                return Err(error);
            };
            observer(Event::Stale {
                why: &error.to_string(),
            });
            Ok(snapshot)
        }
        fetched => fetched,
    }
}

/// Chooses the revision and the weights in it. `list` returns a revision's files.
fn choose(
    repo: &RepoId,
    revision: Option<&str>,
    wanted: Wanted,
    list: impl Fn(&str) -> Result<Listing>,
) -> Result<Choice> {
    let of = |revision: &str, listing: Listing| Choice {
        revision: revision.to_owned(),
        weights: weights(&listing.files).filter(|_| wanted == Wanted::Checkpoint),
        listing,
    };
    let choice = match revision {
        Some(revision) => of(revision, list(revision)?),
        None => {
            let main = list(MAIN);
            let has_flax =
                |listing: &Listing| weights(&listing.files).is_some_and(|found| found.is_flax);
            match main {
                Ok(main) if has_flax(&main) || wanted == Wanted::Configuration => of(MAIN, main),
                Ok(_) | Err(Error::RevisionNotFound { .. }) => match list(FLAX) {
                    Ok(flax) if has_flax(&flax) => of(FLAX, flax),
                    Ok(_) | Err(Error::RevisionNotFound { .. }) => of(MAIN, main?),
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    };
    if wanted == Wanted::Checkpoint && choice.weights.is_none() {
        return Err(Error::NoWeights {
            repo: repo.to_string(),
            revision: choice.revision,
            looked_for: looked_for(),
        });
    }
    Ok(choice)
}

/// Downloads what the cache lacks of a choice.
fn download(
    client: &Client<'_>,
    cache: &RepoCache,
    wanted: Wanted,
    choice: Choice,
) -> Result<Snapshot> {
    let Choice {
        revision,
        listing,
        weights,
    } = choice;
    let download = Download {
        client,
        cache,
        commit: &listing.commit,
        sizes: &listing.sizes,
        stop: &AtomicBool::new(false),
    };
    let mut files = companions(&listing.files, wanted);
    let mut transferred = 0;
    let mut rest = files.clone();
    match &weights {
        Some(weights) if weights.is_index => {
            // The index must be present for its shards to be known.
            transferred += usize::from(download.file(&weights.file)?);
            let path = cache.snapshot(&listing.commit).join(&weights.file);
            for shard in shard_names(&path)? {
                if !listing.files.contains(&shard) {
                    return Err(Error::FileNotFound {
                        repo: client.repo.to_string(),
                        revision,
                        file: shard,
                        index: weights.file.clone(),
                    });
                }
                rest.push(shard);
            }
            files.push(weights.file.clone());
        }
        Some(weights) => rest.push(weights.file.clone()),
        None => {}
    }
    transferred += in_parallel(&download, &rest, client.settings.workers)?;
    files.extend(
        rest.into_iter()
            .filter(|file| !files.contains(file))
            .collect::<Vec<_>>(),
    );
    files.sort();
    // Only now: until all files are present, the revision's previous commit is the one to use
    // without the Hub.
    cache.set_commit(&revision, &listing.commit)?;
    Ok(Snapshot {
        folder: cache.snapshot(&listing.commit),
        revision,
        commit: listing.commit,
        weights: weights.map(|weights| weights.file),
        files,
        transferred,
    })
}

/// Downloads files, several at a time. The first error stops all.
fn in_parallel(download: &Download<'_>, files: &[String], workers: usize) -> Result<usize> {
    let queue: Mutex<VecDeque<&String>> = Mutex::new(files.iter().collect());
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        let mut transferred = 0;
        while !download.stop.load(Ordering::Relaxed) {
            let Some(file) = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
            else {
                break;
            };
            match download.file(file) {
                Ok(new) => transferred += usize::from(new),
                Err(error) => {
                    // The errors of downloads that it stopped say nothing new.
                    failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                    download.stop.store(true, Ordering::Relaxed);
                }
            }
        }
        transferred
    };
    let transferred = std::thread::scope(|scope| {
        let count = workers.clamp(1, files.len().max(1));
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(count) => count,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .sum()
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(transferred),
    }
}

/// The shards that a downloaded index names; names that are not those of plain files are refused.
fn shard_names(index: &std::path::Path) -> Result<Vec<String>> {
    let text =
        input_file::read(index, most_bytes(SAFETENSORS_INDEX_FILE)).map_err(Error::io(index))?;
    let text = text.ok_or_else(|| Error::TooLarge {
        file: index.display().to_string(),
        limit: most_bytes(SAFETENSORS_INDEX_FILE),
    })?;
    Ok(shards(index, &text)?.into_keys().collect())
}

/// The cache's files, if they are complete; otherwise what is missing.
fn cached(
    cache: &RepoCache,
    repo: &RepoId,
    revision: Option<&str>,
    wanted: Wanted,
) -> Result<std::result::Result<Snapshot, String>> {
    let list = |revision: &str| match cache.commit_of(revision)? {
        Some(commit) => Ok(Listing {
            files: cache.files(&commit),
            sizes: BTreeMap::new(),
            commit,
        }),
        None => Err(Error::RevisionNotFound {
            repo: repo.to_string(),
            revision: revision.to_owned(),
            known: Vec::new(),
        }),
    };
    let Choice {
        revision,
        listing,
        weights,
    } = match choose(repo, revision, wanted, list) {
        Err(Error::RevisionNotFound { revision, .. }) => {
            return Ok(Err(format!("no revision {revision:?}")));
        }
        Err(Error::NoWeights { revision, .. }) => {
            return Ok(Err(format!("no weights of revision {revision:?}")));
        }
        choice => choice?,
    };
    let folder = cache.snapshot(&listing.commit);
    let mut files = companions(&listing.files, wanted);
    let has = |name: &str| listing.files.iter().any(|file| file == name);
    let mut needed = vec!["config.json".to_owned()];
    if let Some(weights) = &weights {
        files.push(weights.file.clone());
        if weights.is_index {
            needed.extend(shard_names(&folder.join(&weights.file))?);
        }
    }
    if let Some(lacking) = needed.iter().find(|name| !has(name)) {
        return Ok(Err(format!("no {lacking} of revision {revision:?}")));
    }
    files.extend(needed.into_iter().skip(1));
    files.sort();
    Ok(Ok(Snapshot {
        folder,
        revision,
        commit: listing.commit,
        weights: weights.map(|weights| weights.file),
        files,
        transferred: 0,
    }))
}
